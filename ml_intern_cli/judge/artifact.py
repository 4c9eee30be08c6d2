"""The thing that is judged: ``model.py``, ``config.json`` and the checkpoint of one path.

The code is foreign. It is loaded by file path under a private name, with the path's directory off
``sys.path``, and whatever it raises becomes an ``Unusable`` whose message fits a verdict.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.frames import explain

if TYPE_CHECKING:
    from types import ModuleType

    import torch
    from torch import nn

    from ml_intern_cli.judge.confinement.hosted import HostedModel

DEFAULT_SEQ_LEN = 128
"""Tokens per window where the path has no train_config.json that says otherwise."""

_FREEZING = re.compile(r"(?i)freez|frozen|adapter|lora")
_LONGEST_PLACE = 500  # characters of a failing line with its tensors


class Unusable(Exception):
    """The artifact cannot be used; the message is the verdict's reason."""


def execute_source(module: ModuleType) -> None:
    """Run the source of a module that is made from a file: bytecode beside it is neither read nor written.

    It may be of another source than the file that is published, and a path is not the judge's to write to.
    """
    loader: Any = module.__loader__
    code = loader.source_to_code(loader.get_data(loader.path), loader.path)
    exec(code, module.__dict__)  # noqa: S102 - what exec_module does


class Artifact:
    """One path's directory, loaded piece by piece as it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    @property
    def path_id(self) -> str:
        """``a`` of ``path-a/``."""
        return self.directory.name.removeprefix("path-")

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. Raises Unusable."""
        return read_json_object(self.directory / "config.json")

    @property
    def model_class(self) -> str:
        """The name of the class in model.py. Raises Unusable."""
        class_name = self.config.get("_model_class")
        if not isinstance(class_name, str):
            raise Unusable("config.json has no _model_class")
        return class_name

    @cached_property
    def train_config(self) -> dict[str, Any]:
        """train_config.json. Raises Unusable."""
        return read_json_object(self.directory / "train_config.json")

    @property
    def declares_freezing(self) -> bool:
        """Whether a setting that is on speaks of layers that are not trained. Raises Unusable."""
        has_settings = (self.directory / "train_config.json").exists()
        settings = self.config | (self.train_config if has_settings else {})
        return any(_FREEZING.search(name) for name, value in settings.items() if value)

    @cached_property
    def seq_len(self) -> int:
        """Tokens per training window."""
        if not (self.directory / "train_config.json").exists():
            return DEFAULT_SEQ_LEN
        seq_len = self.train_config.get("seq_len", DEFAULT_SEQ_LEN)
        if not isinstance(seq_len, int) or seq_len < 1:
            raise Unusable(f"train_config.json: seq_len is {seq_len!r}, not a positive integer")
        return seq_len

    @cached_property
    def module(self) -> ModuleType:
        """model.py, executed. Raises Unusable."""
        name = "_ml_intern_judged_model"
        spec = importlib.util.spec_from_file_location(name, self.directory / "model.py")
        if spec is None or spec.loader is None or not (self.directory / "model.py").is_file():
            raise Unusable("model.py is missing")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up while they are being defined
        with self.foreign_code("importing model.py"):
            execute_source(module)
        return module

    def build(self, seed: int) -> nn.Module:
        """A new instance on the judge's device, its weights drawn from ``seed``. Raises Unusable."""
        import torch

        class_name = self.model_class
        model_class = self._class(class_name)
        config_class = self._class(f"{class_name}Config")
        known = field_names(config_class)
        values = {key: value for key, value in self.config.items() if key in known}
        torch.manual_seed(seed)
        with self.foreign_code(f"building {class_name}({class_name}Config(...))"):
            model = model_class(config_class(**values))
            if not isinstance(model, torch.nn.Module):
                raise Unusable(f"{class_name}(config) is a {type(model).__name__}, not a torch.nn.Module")
            return model.to(judge_device())

    def _class(self, name: str) -> Any:
        found = getattr(self.module, name, None)
        if not isinstance(found, type):
            raise Unusable(f"model.py has no class {name}")
        return found

    @contextmanager
    def foreign_code(self, doing: str) -> Iterator[None]:
        """Turns whatever the path's code raises, ``sys.exit`` included, into Unusable."""
        try:
            yield
        except Unusable:
            raise
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            raise Unusable(f"{doing} raised {self.describe(error)}") from error

    def describe(self, error: BaseException) -> str:
        """``ValueError: message (model.py:41 in Block.forward: y = x @ w; x (2, 8, 64) float32, …)``.

        The line is the last one in the path's own code, with the tensors in it.
        """
        text = " ".join(str(error).split())
        if len(text) > 300:
            text = f"{text[:300]}…"
        place = _failing_line(explain(error, root=self.directory))
        return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")


def _failing_line(explanation: str) -> str:
    """The innermost frame of an explanation in one line; empty when no code of the path was running."""
    _, *lines = explanation.splitlines()
    if not lines or not lines[0].startswith("  "):
        return ""
    tensors = takewhile(lambda line: line.startswith("      "), lines[1:])
    shapes = ", ".join(" ".join(line.split()) for line in tensors)
    line = " ".join(lines[0].split())
    return (f"{line}; {shapes}" if shapes else line)[:_LONGEST_PLACE]


def field_names(config_class: Any) -> set[str]:
    """What a configuration class takes; config.json may hold more. Raises Unusable."""
    if not dataclasses.is_dataclass(config_class):
        raise Unusable(f"model.py: {config_class.__name__} is not a dataclass")
    return {field.name for field in dataclasses.fields(config_class) if field.init}


def judge_device() -> torch.device:
    """The accelerator when there is one, as in training."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_json_object(file: Path) -> dict[str, Any]:
    """A file that holds one JSON object. Raises Unusable."""
    try:
        value = json.loads(leavings.read_bytes(file.parent, file.name))
    except FileNotFoundError as error:
        raise Unusable(f"{file.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"{file.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise Unusable(f"{file.name} holds a {type(value).__name__}, not an object")
    return value


def count_parameters(model: nn.Module | HostedModel) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as a checkpoint stores it: tied weights under their first name only."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One entry of a model's state dict."""

    shape: tuple[int, ...]
    dtype: str  # "float32"
    is_parameter: bool  # else a buffer
    is_trainable: bool
    tied_to: str  # the first entry with the same storage: its own name unless weights are tied


def fit_problems(state: Mapping[str, StateEntry], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises Unusable unless every tensor fits and none is missing, all problems named.

    Only a tied weight may be absent, when the module itself shares it with one that is there.
    """
    import torch

    present = {state[name].tied_to for name in tensors if name in state}
    problems = [f"unexpected tensor {name}" for name in tensors if name not in state]
    for name, own in state.items():
        if name not in tensors:
            if own.tied_to not in present:
                problems.append(f"missing tensor {name}")
        elif tuple(tensors[name].shape) != own.shape:
            problems.append(f"{name} has shape {list(tensors[name].shape)}, the model has {list(own.shape)}")
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise Unusable("; ".join(problems[:4]) + more)


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts the tensors into the model. Raises Unusable as ``fit_problems``."""
    fit_problems(state_entries(model), tensors)
    model.load_state_dict(dict(tensors), strict=False)


def state_entries(model: nn.Module) -> dict[str, StateEntry]:
    """What a model's state dict holds."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    entries: dict[str, StateEntry] = {}
    first: dict[object, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else name
        entries[name] = StateEntry(
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            is_parameter=name in parameters,
            is_trainable=name in parameters and parameters[name].requires_grad,
            tied_to=first.setdefault(key, name),
        )
    return entries


def load_checkpoint(artifact: Artifact, model: nn.Module) -> int:
    """Loads the checkpoint that ckpts/best.json names; returns its step. Raises Unusable."""
    name, step = best_checkpoint(artifact)
    tensors = read_checkpoint(artifact, name)
    with misfit_of(name):
        load_tensors(model, tensors)
    return step


def best_checkpoint(artifact: Artifact) -> tuple[str, int]:
    """The folder below ckpts/ that best.json names, and its step. Raises Unusable."""
    pointer = read_json_object(artifact.directory / "ckpts" / "best.json")
    name, step = Path(str(pointer.get("dir"))).name, pointer.get("step")
    if not (artifact.directory / "ckpts" / name / "model.safetensors").is_file():
        raise Unusable(f"best.json names {pointer.get('dir')!r}, which has no model.safetensors")
    if not isinstance(step, int):
        raise Unusable("best.json has no integer step")
    return name, step


def read_checkpoint(
    artifact: Artifact, name: str, file: str = "model.safetensors"
) -> dict[str, torch.Tensor]:
    """The tensors of one checkpoint. Raises Unusable."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(artifact.directory / "ckpts" / name / file))
    except (OSError, SafetensorError) as error:
        raise Unusable(f"{name}/{file} is corrupt: {error}") from error


@contextmanager
def misfit_of(checkpoint: str) -> Iterator[None]:
    """Says in an Unusable that it is the checkpoint that does not fit."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{checkpoint}/model.safetensors does not fit model.py: {error}") from error
