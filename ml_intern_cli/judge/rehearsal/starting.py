"""Starting train.py so that it ends, whatever it does, with nothing left running.

Each start is forked from an interpreter that has imported torch once (see ``launcher``), in a session of
its own, with limits on time, output, processes and files.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

_POLL_S = 0.02
_GRACE_S = 10.0
_MOST_OUTPUT_BYTES = 64 << 20
_LOOK_EVERY_S = 0.5
_MOST_PROCESSES = 128
_ALLOWED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
    "PYTHONUSERBASE", "GOMP_SPINCOUNT",
)  # fmt: skip
_SETTINGS = {
    "CUDA_VISIBLE_DEVICES": "",  # on a CPU the judge repeats every number exactly, dropout included
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than the rehearsal
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended. A negative exit code is the signal that ended it."""

    exit_code: int
    seconds: float
    problem: str  # why it was stopped from outside; empty when it was not


class Launcher:
    """Starts programs one after the other, each from the same fresh interpreter. A context manager."""

    def __init__(self, *, num_threads: int = 1) -> None:
        folder = Path(__file__).resolve().parent
        inherited = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
        paths = filter(None, (str(folder / "inject"), inherited.get("PYTHONPATH")))
        self._environment = (
            inherited
            | _SETTINGS
            | {"OMP_NUM_THREADS": str(num_threads), "PYTHONPATH": os.pathsep.join(paths)}
        )
        self._program = folder / "launcher.py"
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the interpreter and everything under it."""
        server, self._server = self._server, None
        if server is None:
            return
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(server.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        server.kill()
        server.wait()
        for stream in (server.stdin, server.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def run(
        self,
        program: str,
        *,
        cwd: Path,
        environment: dict[str, str],
        output: Path,
        watched: Path,
        hidden: Iterable[Path],
        limit_s: float,
        most_bytes: int,
    ) -> Ended:
        """Run a Python program to its end, watched.

        Args:
            program: Its name in ``cwd``.
            cwd: Where it starts.
            environment: Names beside the few that are passed on.
            output: Where stdout (``.stdout``) and stderr (``.stderr``) go.
            watched: A directory that must not grow beyond ``most_bytes``.
            hidden: Files that it cannot open, where the kernel has Landlock.
            limit_s: Seconds until it is stopped.
            most_bytes: Of everything under ``watched``, and of every single file.
        """
        files = output.with_suffix(".stdout"), output.with_suffix(".stderr")
        request = {
            "program": program,
            "cwd": str(cwd),
            "environment": environment,
            "stdout": str(files[0]),
            "stderr": str(files[1]),
            "hidden": [str(path.resolve()) for path in hidden],
            "most_bytes": most_bytes,
        }
        pid = self._ask(request)
        started = time.monotonic()
        problem = self._watch(pid, files, watched, limit_s, most_bytes)
        seconds = time.monotonic() - started
        if problem:
            _kill(pid)
        reply = self._read(timeout_s=_GRACE_S)
        if reply is None:  # the program took its parent down
            _kill(pid)
            self.close()
            return Ended(
                exit_code=-signal.SIGKILL, seconds=seconds, problem=problem or "killed its parent process"
            )
        return Ended(exit_code=int(reply["exit_code"]), seconds=seconds, problem=problem)

    def _ask(self, request: dict[str, Any]) -> int:
        if self._server is None or self._server.poll() is not None:
            self._server = subprocess.Popen(
                (sys.executable, str(self._program)),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdin is not None  # noqa: S101 - a pipe was asked for
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        reply = self._read(timeout_s=300.0)
        if reply is None:
            raise RuntimeError("the interpreter that train.py is rehearsed in does not start")
        return int(reply["pid"])

    def _read(self, *, timeout_s: float) -> dict[str, int] | None:
        """The next reply; None when there is none in that time."""
        assert self._server is not None  # noqa: S101 - asked after a request
        assert self._server.stdout is not None  # noqa: S101 - a pipe was asked for
        if not self._is_ready(timeout_s):
            return None
        line = self._server.stdout.readline()
        reply: dict[str, int] | None = json.loads(line) if line else None
        return reply

    def _is_ready(self, timeout_s: float) -> bool:
        assert self._server is not None  # noqa: S101 - asked after a request
        assert self._server.stdout is not None  # noqa: S101 - a pipe was asked for
        return bool(select.select([self._server.stdout.fileno()], [], [], timeout_s)[0])

    def _watch(
        self, pid: int, files: tuple[Path, Path], watched: Path, limit_s: float, most_bytes: int
    ) -> str:
        """Wait for the end; returns why it was not waited for any longer."""
        started = looked = time.monotonic()
        while not self._is_ready(_POLL_S):
            now = time.monotonic()
            if now - started > limit_s:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGTERM)
                self._is_ready(min(_GRACE_S, limit_s / 4))
                return f"did not end within {limit_s:.0f} s"
            if now - looked > _LOOK_EVERY_S:
                looked = now
                printed = sum(file.stat().st_size for file in files if file.exists())
                if printed > _MOST_OUTPUT_BYTES:
                    return f"printed {printed >> 20} MiB"
                if _size_of(watched) > most_bytes:
                    return f"wrote more than {most_bytes >> 20} MiB"
                if _count(pid) > _MOST_PROCESSES:
                    return f"started more than {_MOST_PROCESSES} processes"
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _size_of(directory: Path) -> int:
    """Bytes under a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - many, twice a second
    return total


def _count(pid: int) -> int:
    with suppress(psutil.NoSuchProcess):
        return len(psutil.Process(pid).children(recursive=True))
    return 0
