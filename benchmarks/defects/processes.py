"""Starting the programs of a case: each in a process group of its own, with a limit, in one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_NOT_GIVEN = ("HF_TOKEN", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended; code ``None`` says that its time was up."""

    code: int | None
    seconds: float
    stderr: str


_RUNNING: set[subprocess.Popen[bytes]] = set()
_OVER: list[bool] = []  # not empty: the benchmark is interrupted


class Stopped(Exception):
    """A program was stopped from outside: what it left says nothing about the case."""


def end_all() -> None:
    """Kills every program that is running, for a benchmark that is interrupted."""
    _OVER.append(True)
    for process in list(_RUNNING):
        _end_group(process)


def environment() -> dict[str, str]:
    """Of every program: one thread, no secrets, nothing looked up on the network."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_GIVEN}
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return (
        kept
        | one
        | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


def run(
    *arguments: str,
    cwd: Path,
    limit_s: float,
    stderr: Path | None = None,
    stop_when: Path | None = None,
    python: str = sys.executable,
) -> Ended:
    """``python ARGUMENTS``, and nothing of it left running afterwards.

    Raises:
        Stopped: something else ended it.

    Args:
        arguments: What follows ``python``.
        cwd: Its working directory.
        limit_s: Seconds after which its whole group is killed.
        stderr: File that its stderr is appended to; it is returned in any case.
        stop_when: SIGTERM is sent once this file exists.
        python: The interpreter.
    """
    started = time.monotonic()
    log = stderr or cwd / f".{os.getpid()}.stderr"
    with log.open("ab") as errors:
        offset = errors.tell()
        process = subprocess.Popen(
            (python, *arguments),
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        _RUNNING.add(process)
        code: int | None = None
        try:
            if stop_when:
                _wait_for(stop_when, process, limit_s)
                process.send_signal(signal.SIGTERM)
            code = process.wait(max(0.0, limit_s - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end_group(process)
            _RUNNING.discard(process)
    if _OVER or code == -signal.SIGTERM:
        raise Stopped(f"{arguments[1]} was stopped")
    with log.open("rb") as errors:
        errors.seek(offset)
        text = errors.read(1 << 20).decode(errors="replace")
    if stderr is None:
        log.unlink()
    return Ended(code, time.monotonic() - started, text)


def _wait_for(file: Path, process: subprocess.Popen[bytes], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the group, the leader and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
