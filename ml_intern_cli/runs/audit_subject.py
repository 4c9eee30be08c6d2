"""What a directory is that is to be audited, and what stands in the way: looked at, never run."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_intern_cli.errors import InvalidInput

_MOST_TEXT_BYTES = 16 << 20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LOOKED_FOR = (
    "looked for config.json with a model_type and *.safetensors (a transformers checkpoint), "
    "or model.py, config.json with a _model_class and ckpts/ (a path of a run)"
)
_BYTES_PER_PARAM = 4 * 2.5  # fp32, a second copy for the round trip, and what a pass needs


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSubject:
    """A transformers checkpoint.

    Attributes:
        readable: The directory, and what links in it lead to.
        code: Files of its own that would have to run.
    """

    directory: Path
    architecture: str
    params: int  # stored numbers
    readable: tuple[Path, ...]
    code: tuple[str, ...]

    def require_memory(self) -> None:
        """Raises InvalidInput: the model would not fit into what is free."""
        import psutil

        needed, free = self.params * _BYTES_PER_PARAM, psutil.virtual_memory().available
        if needed > free:
            raise InvalidInput(
                f"judging {self.params:,} parameters needs about {needed / 2**30:.0f} GiB of memory, "
                f"{free / 2**30:.0f} GiB are free",
                hint="run the same command on a machine with more memory",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSubject:
    """A path of a run, with what its plan says."""

    directory: Path
    data: Path
    model_class: str
    target_params: int
    planned_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class GivenText:
    """A text as it will be judged by, and what to call it."""

    content: str
    name: str


def subject_of(directory: Path, *, data: Path | None) -> CheckpointSubject | PathSubject:
    """What the directory is. Raises InvalidInput: nothing that can be judged."""
    names = _names(directory)
    folder = directory.resolve()
    if "config.json" not in names:
        raise _neither(directory, names)
    config = _config(folder)
    if "model.py" in names and "_model_class" in config and ("ckpts" in names or "model_type" not in config):
        return _path(directory, folder, config, data)
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights or "model_type" not in config:
        raise _neither(directory, names)
    if "adapter_config.json" in names:
        raise InvalidInput(
            f"{directory} holds an adapter, not a model", hint="merge it into its base model and save that"
        )
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if architecture and not (architecture.endswith(("CausalLM", "LMHeadModel")) or config.get("auto_map")):
        raise InvalidInput(
            f"{architecture} is no causal language model, which is what audit judges",
            hint="docs/audit.md says what it covers",
        )
    return CheckpointSubject(
        directory=folder,
        architecture=architecture,
        params=_stored_numbers(folder),
        readable=(folder, *_targets(folder, names)),
        code=_code(folder, config, names),
    )


def read_text(file: Path, *, option: str) -> GivenText:
    """The first 16 MiB of a UTF-8 text. Raises InvalidInput: it cannot be used as one."""
    hint = f"give a UTF-8 text file: {option} FILE"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput(f"{file} is not a file", hint=hint)
            content = opened.read(_MOST_TEXT_BYTES)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}", hint=hint) from error
    is_cut = status.st_size > len(content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if not (is_cut and error.start >= len(content) - 4):
            line = content.count(b"\n", 0, error.start) + 1
            raise InvalidInput(f"{file} is not UTF-8 text (line {line})", hint=hint) from error
        text = content[: error.start].decode("utf-8")
    if "\x00" in text:
        raise InvalidInput(f"{file} holds binary data", hint=hint)
    if not text.strip():
        raise InvalidInput(f"{file} is empty", hint=hint)
    part = f" (its first {_MOST_TEXT_BYTES >> 20} of {status.st_size / 2**20:,.0f} MiB)" if is_cut else ""
    return GivenText(text, f"{file}{part}")


def _names(directory: Path) -> list[str]:
    hint = "ml-intern audit DIR --text FILE"
    if not directory.exists():
        raise InvalidInput(f"there is no {directory}", hint=hint)
    if not directory.is_dir():
        what = "a GGUF file; audit judges what it was made from" if directory.suffix == ".gguf" else "a file"
        raise InvalidInput(f"{directory} is {what}", hint=f"give the directory of the checkpoint: {hint}")
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise InvalidInput(f"{directory} cannot be read: {error.strerror}", hint=hint) from error


def _neither(directory: Path, names: list[str]) -> InvalidInput:
    """Why a directory cannot be judged, and what would make it so."""
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if "config.json" in names and pickles:
        load = f"AutoModelForCausalLM.from_pretrained('{directory}')"
        return InvalidInput(
            f"{directory} has its weights as a pickle alone ({pickles[0]}): code, which is never loaded",
            hint='if you trust it, convert it: python -c "from transformers import AutoModelForCausalLM; '
            f"{load}.save_pretrained('{directory}-safetensors')\", copy the tokenizer there, and audit that",
        )
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return InvalidInput(
            f"{directory} holds {gguf[0]}, a format for inference",
            hint="audit the checkpoint it was made from",
        )
    what = "is empty" if not names else "is neither a checkpoint nor a path"
    return InvalidInput(f"{directory} {what}: {_LOOKED_FOR}", hint="ml-intern audit DIR --text FILE")


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{folder / 'config.json'} cannot be read: {error}", hint="restore it and run the same command"
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{folder / 'config.json'} holds no object", hint="restore it")
    return value


def _stored_numbers(folder: Path) -> int:
    from ml_intern_cli.judge.audit.files import Files

    return sum(tensor.size for tensor in Files(folder).tensors.values())


def _targets(folder: Path, names: list[str]) -> list[Path]:
    """Where links lead to: a download cache keeps the files themselves elsewhere."""
    return [(folder / name).resolve() for name in names if (folder / name).is_symlink()]


def _code(folder: Path, config: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    """The modules that ``auto_map`` names, in the configuration of the model or of the tokenizer."""
    maps = [config.get("auto_map")]
    if "tokenizer_config.json" in names:
        try:
            tokenizer = json.loads((folder / "tokenizer_config.json").read_bytes())
            maps.append(tokenizer.get("auto_map") if isinstance(tokenizer, dict) else None)
        except (OSError, ValueError, RecursionError):
            pass  # the judge says so
    classes = [one for found in maps if isinstance(found, dict) for one in found.values()]
    flat = [name for one in classes for name in (one if isinstance(one, list) else [one])]
    return tuple(sorted({f"{name.partition('.')[0]}.py" for name in flat if isinstance(name, str)}))


def _path(directory: Path, folder: Path, config: dict[str, Any], data: Path | None) -> PathSubject:
    from ml_intern_cli.documents.plan import Plan
    from ml_intern_cli.documents.registry import load

    data_dir = (data or folder.parent / "data").resolve()
    if not (data_dir / "manifest.json").is_file():
        raise InvalidInput(
            f"{data_dir} has no manifest.json, so it is no data/ of a run",
            hint=f"ml-intern audit {directory} --data DIR",
        )
    plan_file = folder.parent / "PLAN.md"
    if not plan_file.is_file():
        raise InvalidInput(
            f"there is no {plan_file}, which says what size and how many tokens were planned",
            hint="audit the path where it lies in its run: ml-intern audit RUN/path-a",
        )
    plan = load(plan_file)
    assert isinstance(plan, Plan)  # noqa: S101, the file's name says which document it is
    path_id = folder.name.removeprefix("path-")
    found = [one for one in plan.paths if one.id == path_id]
    if not found:
        raise InvalidInput(
            f"{plan_file} has no path {path_id}",
            hint=f"ml-intern audit {folder.parent}/path-{plan.paths[0].id}",
        )
    return PathSubject(
        directory=folder,
        data=data_dir,
        model_class=str(config["_model_class"]),
        target_params=plan.params_target,
        planned_tokens=plan.tokens(found[0]),
        seed=found[0].seed,
    )
