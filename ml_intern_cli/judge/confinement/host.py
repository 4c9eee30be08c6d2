"""The model host: ``python -m ml_intern_cli.judge.confinement.host FD FD MEMORY_FD``, started by the judge.

Walls itself in, imports torch, and splits in two: one process that looks like the training program from
within (working directory, arguments, names and modules), one that looks like the judge. Only then is the
path's ``model.py`` imported, in each when it is asked for. Each serves one socket until that is closed.

Requests: ``import``, ``build`` (seed), ``put`` and ``get`` (tensors of the state, through shared memory),
``forward`` (ids in, logits out, through shared memory). An answer is ``{"ok": …}`` or ``{"error": text}``;
``{"note": [what, where]}`` may come at any time.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ml_intern_cli.frames.explanation  # noqa: F401 - there when an error is to be explained
from ml_intern_cli.judge.artifact import Artifact, Unusable, execute_source, field_names
from ml_intern_cli.judge.confinement import landlock, limits, seccomp, wire
from ml_intern_cli.judge.confinement.watch import Watch

if TYPE_CHECKING:
    import torch
    from torch import nn

_PACKAGE = "ml_intern_cli"


def main() -> None:
    """Becomes the two hosts."""
    descriptors = [int(argument) for argument in sys.argv[1:]]
    as_trainer, as_judge = (socket.socket(fileno=descriptor) for descriptor in descriptors[:2])
    orders = wire.receive(as_trainer)
    limits.end_with(orders["judge"])
    limits.limit(
        most_bytes=orders["most_bytes"],
        most_cpu_s=orders["most_cpu_s"],
        most_file_bytes=orders["most_file_bytes"],
    )
    limits.give_up_rights()
    abi = landlock.confine(
        readable=orders["readable"], writable=orders["writable"], devices=orders["devices"]
    )
    import torch

    torch.set_num_threads(orders["num_threads"])
    parent = os.getpid()
    is_judged = os.fork() == 0
    if is_judged:
        limits.end_with(parent)
        as_trainer.close()
    else:
        as_judge.close()
    host = _Host(as_judge if is_judged else as_trainer, descriptors[2], orders)
    wire.send(host.judge, {"ok": {"pid": os.getpid(), "landlock": abi, "seccomp": seccomp.confine()}})
    if is_judged:
        _look_like_the_judge()
    else:
        host.put_aside = _look_like_training(Path(orders["path"]))
    Watch(orders["path"], host.note).install()
    host.serve()


def _look_like_training(path: Path) -> dict[str, ModuleType]:
    """As ``python train.py`` in the path's directory. Returns the modules that it would not have."""
    os.chdir(path)
    sys.path.insert(0, str(path))
    sys.argv = ["train.py"]
    sys.orig_argv[:] = [sys.executable, "train.py"]
    sys.modules["__main__"].__dict__.update(__file__=str(path / "train.py"), __spec__=None, __package__=None)
    names = [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def _look_like_the_judge() -> None:
    sys.argv = [f"{_PACKAGE}/judge/__main__.py", "verify"]
    sys.orig_argv[:] = [sys.executable, "-m", f"{_PACKAGE}.judge", "verify"]


class _Host:
    """One process with one model."""

    def __init__(self, judge: socket.socket, memory: int, orders: dict[str, Any]) -> None:
        self.judge = judge
        self._memory_fd = memory
        self._memory: mmap.mmap | None = None
        self._orders = orders
        self._path = Path(orders["path"])
        self.put_aside: dict[str, ModuleType] = {}
        self._doing = ""
        self._module: ModuleType | None = None
        self._model: nn.Module | None = None

    def note(self, what: str, where: str) -> None:
        """Tells the judge of a look outside."""
        wire.send(self.judge, {"note": [what, where]})

    def serve(self) -> None:
        """Answers until the judge is gone."""
        while True:
            try:
                request = wire.receive(self.judge)
            except wire.Ended:
                os._exit(0)
            try:
                answer: dict[str, Any] = {"ok": getattr(self, f"_{request.pop('do')}")(**request)}
            except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - foreign code may raise anything
                answer = {"error": self._describe(error)}
            wire.send(self.judge, answer)

    # --- requests

    def _import(self) -> None:
        self._doing = "importing model.py"
        name = "model"
        spec = importlib.util.spec_from_file_location(name, self._path / "model.py")
        if spec is None or spec.loader is None:
            raise ImportError("model.py is missing")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up while they are being defined
        execute_source(module)
        self._module = module

    def _build(self, *, seed: int) -> list[dict[str, Any]]:
        """The state's entries in order: name, shape, dtype, whether a parameter, the name it is tied to."""
        import torch

        class_name = self._orders["model_class"]
        self._doing = ""
        model_class: Any = self._class(class_name)
        config_class: Any = self._class(f"{class_name}Config")
        known = field_names(config_class)
        values = {key: value for key, value in self._orders["config"].items() if key in known}
        self._doing = f"building {class_name}({class_name}Config(...))"
        torch.manual_seed(seed)
        model = model_class(config_class(**values))
        if not isinstance(model, torch.nn.Module):
            raise Unusable(f"{class_name}(config) is a {type(model).__name__}, not a torch.nn.Module")
        self._model = model.to(_device()).eval()
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        entries: list[dict[str, Any]] = []
        first: dict[object, str] = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            key = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else name
            entries.append(
                {
                    "name": name,
                    "shape": list(tensor.shape),
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "is_parameter": name in parameters,
                    "is_trainable": name in parameters and parameters[name].requires_grad,
                    "tied_to": first.setdefault(key, name),
                }
            )
        return entries

    def _put(self, *, tensors: list[dict[str, Any]], size: int) -> None:
        """Copies tensors out of the shared memory into the state."""
        import torch

        self._doing = "loading the weights"
        state = self._built().state_dict(keep_vars=True)
        with torch.no_grad():
            for tensor in tensors:
                state[tensor["name"]].copy_(self._view(tensor, size))

    def _get(self, *, tensors: list[dict[str, Any]], size: int) -> None:
        """Copies tensors of the state into the shared memory."""
        self._doing = "reading the weights"
        state = self._built().state_dict()
        for tensor in tensors:
            self._view(tensor, size).copy_(state[tensor["name"]])

    def _forward(
        self, *, ids: dict[str, Any], size: int, out: int, train: bool, seed: int | None
    ) -> dict[str, Any]:
        """Logits as fp32, written to ``out`` where they fit; what they are."""
        import torch

        model = self._built()
        input_ids = self._view(ids, size).to(_device())
        batch, length = input_ids.shape
        self._doing = f"forward(input_ids of shape ({batch}, {length}))"
        if model.training != train:
            model.train(train)
        if seed is not None:
            torch.manual_seed(seed)
        with torch.inference_mode():
            output: Any = model(input_ids)
            if not isinstance(output, torch.Tensor):
                output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
            if (
                not isinstance(output, torch.Tensor)
                or output.ndim != 3
                or output.shape[:2] != (batch, length)
            ):
                shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise Unusable(
                    f"forward of ({batch}, {length}) returned {shape}, expected ({batch}, {length}, V)"
                )
            answer = {"shape": list(output.shape), "dtype": "float32", "offset": out}
            if out + 4 * output.numel() <= size:
                self._view(answer, size).copy_(output)
        return answer

    # --- parts

    def _built(self) -> nn.Module:
        if self._model is None:
            raise Unusable("the model was not built")
        return self._model

    def _class(self, name: str) -> Any:
        found = getattr(self._module, name, None)
        if not isinstance(found, type):
            raise Unusable(f"model.py has no class {name}")
        return found

    def _view(self, tensor: dict[str, Any], size: int) -> torch.Tensor:
        """A tensor that lies in the shared memory."""
        import torch

        if self._memory is None or len(self._memory) < size:
            self._memory = mmap.mmap(self._memory_fd, size)
        dtype, shape = getattr(torch, tensor["dtype"]), tensor["shape"]
        count = 1
        for length in shape:
            count *= length
        if not count:
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=tensor["offset"])
        return flat.view(shape)

    def _describe(self, error: BaseException) -> str:
        if isinstance(error, Unusable):
            return str(error)
        try:
            sys.modules.update(self.put_aside)
            told = Artifact(self._path).describe(error)
        except (Exception, SystemExit):  # noqa: BLE001 - whatever the path's code did to this interpreter
            told = type(error).__name__
        return f"{self._doing} raised {told}"


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
