"""train.py rehearsed as it is, on a copy: twelve small steps, a crash, a stop, the end.

    steps   1 ─────── k ─────── 2k−1 ✗             ended at once, as by a crash; resumes from step k
                      k+1 ───────────── 2k+1 ▪     asked to stop (SIGTERM): a checkpoint of step 2k+1
                                          2k+2 ─ 3k  to the end: status done

The copy's train_config.json keeps every setting but the sizes of a short training: as many steps with
their warm-up, an evaluation and a checkpoint every k steps, small micro-batches, two of them per step so
that averaging shows, a gradient clip that is reached so that clipping shows. Its data are the manifest,
the tokenizer and the train and val shards; the held-out shards are not there, and the program cannot open
those of the run. It runs on the CPU, where the judge can repeat every number; accelerators are hidden.

The contract that is assumed: train.py reads those settings from train_config.json, writes the files that
DESIGN.md lists, and hands the model to a ``torch.optim.Optimizer``. A key that a path does not have is not
added. Everything else (sampler, loop, optimizer, loss, schedule of calls) is the program's own affair.

Of another task than language modelling ``rehearse`` is the same, since the recorder knows no tokens:
``Call.inputs`` are the rows, ``Call.recovered("targets")`` the classes that a cross-entropy was taken
against; of small outputs ``output`` and its ``gradient`` are recorded whole, enough for any loss.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.rehearsal.record import Record, Start, read_processes
from ml_intern_cli.judge.rehearsal.starting import Launcher

_WORK = 6e11  # parameters x tokens of all steps that a rehearsal may take: 600,000 tokens at 1M
_WHOLE_STATE = 4_000_000  # parameters; the state of smaller models is written down at every step
_COPIED_BYTES = 512 << 20  # of data; more is linked to
_CLIP = 0.1  # below the gradient norm of an untrained model, so that clipping has something to do
_LEFT_OUT = {
    "ckpts",
    "__pycache__",
    "train.log",
    "eval.log",
    "gen_samples.log",
    "metrics.jsonl",
    "train.stderr",
}
_LEAST_FREE_BYTES = 1 << 20  # a program that needed more has been cut short, whatever it says
_LIMIT_S, _LIMIT_S_PER_PARAMETER = 60.0, 1.5e-6
_LOGS = ("train.log", "eval.log", "metrics.jsonl")


def rehearse(
    path_dir: Path,
    data_dir: Path,
    *,
    scratch: Path,
    num_parameters: int,
    launcher: Launcher,
    progress: Callable[[str], None],
    limit_s: float | None = None,
) -> Record:
    """Rehearse the train.py of ``path_dir`` three times in a folder under ``scratch``.

    Args:
        path_dir: ``path-<id>/``, left as it is.
        data_dir: ``data/``, left as it is.
        scratch: Where there is room for a few checkpoints.
        num_parameters: Of the model; decides how small the rehearsal has to be.
        launcher: What forks the starts.
        progress: Gets a line before each start.
        limit_s: Seconds for each start; None: a minute, and more for large models.

    Raises:
        Unusable: train_config.json cannot be read, or the disk is full.
    """
    folder = scratch / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    copy = folder / "run" / path_dir.name
    data = folder / "run" / "data"
    copy.mkdir(parents=True)
    artifact = Artifact(path_dir)
    config, every = rehearsal_config(artifact.train_config, num_parameters)
    copy_program(path_dir, copy)
    (copy / "train_config.json").write_text(json.dumps(config), encoding="utf-8")
    view_data(data_dir, data)
    inputs = _fingerprints(folder / "run")
    originals = _stats(path_dir) | _stats(data_dir)
    limit_s = limit_s or _LIMIT_S + num_parameters * _LIMIT_S_PER_PARAMETER

    def start(number: int, *, first_step: int, crash_after: int | None, terminate_after: int | None) -> Start:
        progress(f"start {number} of 3")
        record = folder / "record" / str(number)
        record.mkdir(parents=True)
        plan = {
            "root": str(copy),
            "class_name": artifact.config.get("_model_class", ""),
            "crash_after": crash_after,
            "terminate_after": terminate_after,
            "most_steps": 3 * every + 1,
            "whole_state": _WHOLE_STATE,
            "large_states": 2 if number == 1 else 0,  # the initial one, and that of the first evaluation
        }
        (record / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        ended = launcher.run(
            "train.py",
            cwd=copy,
            environment={"ML_INTERN_REHEARSAL": str(record), **own_folders(folder, data_dir)},
            output=record / "program",
            watched=folder,
            hidden=heldout_files(data_dir),
            limit_s=limit_s,
            most_bytes=(1 << 30) + 400 * num_parameters + _size(data),
        )
        if shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
            raise Unusable(f"{os.strerror(errno.ENOSPC)}: {folder}")  # whatever came of it
        processes, by_recorder = read_processes(record, first_step=first_step)
        return Start(
            number=number,
            first_step=first_step,
            exit_code=ended.exit_code,
            seconds=ended.seconds,
            problem=ended.problem,
            stderr=leavings.tail(record, "program.stderr", lines=40),
            processes=processes,
            ended_by_recorder=by_recorder,
            last=_last(copy),
            kept=_keep(copy, folder / "kept" / str(number)),
        )

    first = start(1, first_step=1, crash_after=2 * every - 1, terminate_after=None)
    starts = [first]
    if first.main and first.main.steps and not first.problem:
        at = _step(first.last)
        starts.append(
            start(2, first_step=at + 1, crash_after=None, terminate_after=max(1, 2 * every + 1 - at))
        )
        if starts[1].main and starts[1].main.steps and not starts[1].problem:
            at = _step(starts[1].last)
            starts.append(start(3, first_step=at + 1, crash_after=None, terminate_after=None))
    return Record(
        config=config,
        original=artifact.train_config,
        starts=tuple(starts),
        every=every,
        touched=_touched(folder / "run", inputs, copy, originals, path_dir, data_dir),
        program=leavings.read_text(copy, "train.py", errors="replace"),
        limit_s=limit_s,
        folder=folder,
    )


def rehearsal_config(original: dict[str, Any], num_parameters: int) -> tuple[dict[str, Any], int]:
    """The settings of the short training, and its steps between checkpoints."""
    every = 4 if num_parameters <= 20_000_000 else 2
    steps = 3 * every
    micro, accumulation = 2, 2
    seq_len = int(original.get("seq_len") or 1)
    affordable = int(_WORK / max(1, num_parameters) / (steps * micro * accumulation))
    shortened = max(min(seq_len, 16), min(seq_len, affordable))
    warmup = original.get("warmup_steps")
    clip = original.get("grad_clip")
    changes = {
        "seq_len": shortened,
        "steps": steps,
        "warmup_steps": min(warmup, every + 1) if isinstance(warmup, int) else warmup,
        "micro_batch": min(micro, int(original.get("micro_batch") or micro)),
        "batch_size": min(8, int(original.get("batch_size") or 8)),
        "accumulation": accumulation,
        "grad_clip": min(clip, _CLIP) if isinstance(clip, (int, float)) else clip,
        "eval_every": every,
        "checkpoint_every": every,
        "compile": False,
        "num_threads": 1 if num_parameters <= 20_000_000 else original.get("num_threads", 1),
        "time_limit_s": None,
    }
    return original | {key: value for key, value in changes.items() if key in original}, every


def copy_program(path_dir: Path, copy: Path) -> None:
    """Everything of the path that is not an output of training. Raises Unusable."""
    for entry in sorted(path_dir.iterdir()):
        if entry.name in _LEFT_OUT or entry.suffix == ".md" or entry.is_symlink():
            continue
        try:
            if entry.is_dir():
                shutil.copytree(entry, copy / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif entry.is_file():
                shutil.copyfile(entry, copy / entry.name)
        except (OSError, shutil.Error) as error:
            raise Unusable(f"{entry.name} cannot be copied: {error}") from error


def heldout_files(data_dir: Path) -> list[Path]:
    """What nobody but the judge reads."""
    return [file for file in sorted(data_dir.glob(f"{Split.HELDOUT.value}*")) if file.is_file()]


def own_folders(folder: Path, data_dir: Path) -> dict[str, str]:
    """Where a rehearsed program is at home, and where its temporary files go, for its environment."""
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir(exist_ok=True)
    if not data_dir.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return {"HOME": str(home)}
    temporary.mkdir(exist_ok=True)  # nothing can be made directly above what is hidden
    return {"HOME": str(home), "TMPDIR": str(temporary)}


def view_data(data_dir: Path, view: Path) -> None:
    """The data without the held-out split: copied, or linked to where they are large."""
    view.mkdir()
    hidden = set(heldout_files(data_dir))
    entries = [entry for entry in sorted(data_dir.iterdir()) if entry not in hidden]
    is_small = sum(entry.stat().st_size for entry in entries if entry.is_file()) <= _COPIED_BYTES
    for entry in entries:
        if entry.is_dir():
            shutil.copytree(entry, view / entry.name)
        elif is_small or entry.name == "manifest.json":
            shutil.copyfile(entry, view / entry.name)
        else:
            (view / entry.name).symlink_to(entry.resolve())


def _step(last: dict[str, Any]) -> int:
    step = last.get("step")
    return step if isinstance(step, int) and step > 0 else 0


def _last(copy: Path) -> dict[str, Any]:
    return leavings.read_object(copy, "ckpts/last.json")


def _keep(copy: Path, kept: Path) -> Path:
    """What a start left, before the next one goes on from it."""
    kept.mkdir(parents=True)
    for name in _LOGS:
        if (copy / name).is_file() and not (copy / name).is_symlink():
            shutil.copyfile(copy / name, kept / name)
    if (copy / "ckpts").is_dir():
        shutil.copytree(copy / "ckpts", kept / "ckpts", symlinks=True, copy_function=_link)
    return kept


def _link(source: str, target: str) -> None:
    """A second name, at no cost; a copy where the file system has none, or where a file may change."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copyfile(source, target, follow_symlinks=False)
    else:
        shutil.copyfile(source, target, follow_symlinks=False)


def _size(directory: Path) -> int:
    return sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file())


def _fingerprints(directory: Path) -> dict[str, str]:
    """Name → hash of every file, links by what they point to."""
    found = {}
    for file in sorted(directory.rglob("*")):
        name = str(file.relative_to(directory))
        if file.is_symlink():
            found[name] = f"-> {os.readlink(file)}"  # noqa: PTH115 - as it is written
        elif file.is_file():
            with file.open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _stats(directory: Path) -> dict[str, tuple[int, int]]:
    """Path → size and time of every file: of originals that train.py has no business with."""
    return {
        str(file): (stat.st_size, stat.st_mtime_ns)
        for file in directory.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
        for stat in (file.stat(),)
    }


def _touched(
    run: Path,
    inputs: dict[str, str],
    copy: Path,
    originals: dict[str, tuple[int, int]],
    path_dir: Path,
    data_dir: Path,
) -> tuple[str, ...]:
    after = _fingerprints(run)
    changed = [name for name, digest in inputs.items() if after.get(name) != digest]
    own = f"{copy.name}/"
    strays = [
        name
        for name in after.keys() - inputs.keys()
        if not name.startswith(own) and "__pycache__" not in name
    ]
    now = _stats(path_dir) | _stats(data_dir)
    outside = [Path(name).name for name, stat in originals.items() if now.get(name) != stat]
    return tuple(sorted({*changed, *strays, *outside}))


def is_finite(value: Any) -> bool:
    """Whether a claim is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
