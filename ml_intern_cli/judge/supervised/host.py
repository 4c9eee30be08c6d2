"""Runs foreign code in a process of its own, under limits, and leaves nothing of it running."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.rlimits import lower

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Floats

MOST_MEMORY_BYTES = 8 << 30
_MOST_FILE_BYTES = 1 << 30
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "HOME",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int | None  # None: stopped at the time limit
    seconds: float
    stderr: str  # its last 4 kB

    @property
    def reason(self) -> str:
        """In words, with the last line that it wrote to stderr."""
        lines = self.stderr.strip().splitlines()
        last = f": {lines[-1][:300]}" if lines else ""
        if self.code is None:
            return f"was stopped after {self.seconds:.0f} s{last}"
        if self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}{last}"
        return f"ended with exit code {self.code}{last}"


def run_limited(
    command: Sequence[str], *, cwd: Path, time_limit_s: float, environment: Mapping[str, str] | None = None
) -> Ended:
    """Runs a command in its own session; at its end, or at the limit, every process of it is killed."""
    started = time.monotonic()
    surroundings = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=surroundings | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_limit,  # noqa: PLW1509 - the judge has no threads of its own
        )
        try:
            code: int | None = process.wait(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(process)
        end = stderr.seek(0, os.SEEK_END)
        stderr.seek(max(0, end - 4096))
        tail = stderr.read(4096).decode("utf-8", errors="replace")
    return Ended(code, time.monotonic() - started, tail)


def _limit() -> None:
    lower(resource.RLIMIT_DATA, MOST_MEMORY_BYTES)
    lower(resource.RLIMIT_FSIZE, _MOST_FILE_BYTES)
    lower(resource.RLIMIT_CORE, 0)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process, its children wherever they went, and what is left of its session."""
    import psutil

    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the trained model's process handed over."""

    outputs: dict[str, Floats]  # (N, C) or (N, 1), float64
    step: int
    params: int
    parameters: tuple[str, ...]
    trainable: tuple[str, ...]


def predict(
    path_dir: Path, batches: Mapping[str, tuple[Array, int]], *, time_limit_s: float, threads: int
) -> Predictions:
    """The outputs of the checkpoint of ``ckpts/best.json``.

    Args:
        path_dir: ``path-<id>/``.
        batches: Name → inputs, and how many rows go through the model at once.
        time_limit_s: For all of it.
        threads: CPU threads.

    Raises:
        Unusable: the model cannot be built, loaded or run, or its process died or hung.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="ml-intern-judge-") as scratch:
        out = Path(scratch)
        request: dict[str, Any] = {"path": str(path_dir), "threads": threads, "out": scratch, "batches": []}
        for name, (inputs, rows) in batches.items():
            file = out / f"in-{name}.npy"
            np.save(file, inputs, allow_pickle=False)
            request["batches"].append({"name": name, "file": str(file), "rows": rows})
        (out / "request.json").write_text(json.dumps(request), encoding="utf-8")
        ended = run_limited(
            [sys.executable, "-m", "ml_intern_cli.judge.supervised.predictor", str(out / "request.json")],
            cwd=out,
            time_limit_s=time_limit_s,
            environment={"OMP_NUM_THREADS": str(threads)},
        )
        return _read_answer(out, ended, {name: len(inputs) for name, (inputs, _) in batches.items()})


def _read_answer(out: Path, ended: Ended, sizes: Mapping[str, int]) -> Predictions:
    import numpy as np

    from ml_intern_cli.documents import leavings

    answer = leavings.read_object(out, "answer.json")
    if not answer:
        raise Unusable(f"the process of the model {ended.reason}")
    if "error" in answer:
        raise Unusable(str(answer["error"])[:1000])
    outputs = {}
    for name, size in sizes.items():
        try:
            with leavings.opened(out, f"{name}.npy") as file:
                array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Unusable(f"the process of the model left no outputs for {name}: {error}") from error
        if array.ndim != 2 or len(array) != size or array.dtype != np.float32:
            raise Unusable(
                f"the model gave {array.dtype} of shape {list(array.shape)} for {size} rows of {name}"
            )
        outputs[name] = array.astype(np.float64)
    try:
        return Predictions(
            outputs,
            step=int(answer["step"]),
            params=int(answer["params"]),
            parameters=tuple(map(str, answer["parameters"])),
            trainable=tuple(map(str, answer["trainable"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable("the process of the model left no proper answer") from error
