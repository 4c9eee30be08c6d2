"""Run a program of a path as a child process: no secrets, its own group, a watchdog.

The child gets an allow-listed environment and a home of its own, so no token of the user's reaches
it through either. When its time is spent the whole group is asked to stop (SIGTERM: the training
program writes a checkpoint), and killed when it does not.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

# What a numerical Python program needs of its surroundings, and nothing that can hold a secret.
_ALLOWED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR", "SSL_CERT_FILE",
)  # fmt: skip
_TICK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run.

    ``limit_s`` is when it is asked to stop, ``grace_s`` how long it then has before it is killed.
    """

    argv: tuple[str, ...]
    cwd: Path
    home: Path
    limit_s: float
    grace_s: float
    stdout: Path | None = None  # None: thrown away
    stderr: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended. A negative exit code is the signal that ended it."""

    exit_code: int
    seconds: float
    out_of_time: bool
    killed: bool  # it did not stop when asked


class Executor(Protocol):
    """Runs programs under walls and a watchdog."""

    def run(self, job: Job, *, on_tick: Callable[[float], None]) -> Finished:
        """Run to the end; ``on_tick`` gets the elapsed seconds about twice a second."""
        ...


class LocalExecutor:
    """Runs programs on this machine.

    Args:
        child_file: Where the running child's identity stands, so that a later process can end an
            orphan that outlived its parent.
    """

    def __init__(self, child_file: Path) -> None:
        self._child_file = child_file

    def run(self, job: Job, *, on_tick: Callable[[float], None]) -> Finished:
        """Run ``job``; an interrupt stops the child gracefully and is raised again.

        Raises:
            KeyboardInterrupt: after the child has stopped.
        """
        job.home.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with ExitStack() as files:
            child = subprocess.Popen(
                job.argv,
                cwd=job.cwd,
                env=environment(job.home) | dict(job.env),
                stdin=subprocess.DEVNULL,
                stdout=files.enter_context(_sink(job.stdout)),
                stderr=files.enter_context(_sink(job.stderr)),
                start_new_session=True,
                preexec_fn=_stop_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
            self._remember(child.pid)
            try:
                return self._watch(child, job, started, on_tick)
            except BaseException:
                # Whatever interrupts the watching (Ctrl-C, a full disk in on_tick) must not leave the
                # child running; it gets the same chance to checkpoint as at the end of its time.
                _stop_group(child, job.grace_s)
                raise
            finally:
                _kill_group(child.pid)
                self._child_file.unlink(missing_ok=True)

    def _watch(
        self, child: subprocess.Popen[bytes], job: Job, started: float, on_tick: Callable[[float], None]
    ) -> Finished:
        while True:
            elapsed = time.monotonic() - started
            left = job.limit_s - elapsed
            if left <= 0:
                killed = _stop_group(child, job.grace_s)
                code = child.returncode if child.returncode is not None else -signal.SIGKILL
                return Finished(code, time.monotonic() - started, out_of_time=True, killed=killed)
            try:
                code = child.wait(timeout=min(_TICK_S, left))
            except subprocess.TimeoutExpired:
                on_tick(time.monotonic() - started)
                continue
            return Finished(code, time.monotonic() - started, out_of_time=False, killed=False)

    def _remember(self, pid: int) -> None:
        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return
        self._child_file.parent.mkdir(parents=True, exist_ok=True)
        self._child_file.write_text(json.dumps({"pid": pid, "created": created}), encoding="utf-8")


def end_orphan(child_file: Path, *, grace_s: float = 10.0) -> bool:
    """End the child that a killed parent left running. Returns whether there was one."""
    try:
        child = json.loads(child_file.read_text(encoding="utf-8"))
        process = psutil.Process(child["pid"])
        same = bool(abs(process.create_time() - child["created"]) < 1.0)  # process ids are reused
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        child_file.unlink(missing_ok=True)
        return False
    if same and process.status() != psutil.STATUS_ZOMBIE:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=grace_s)
        except psutil.TimeoutExpired:
            _kill_group(process.pid)
    child_file.unlink(missing_ok=True)
    return same


def environment(home: Path) -> dict[str, str]:
    """The child's environment: allow-listed names, a home of its own, no way to the Hub."""
    inherited = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
    return inherited | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # How long threads spin before they sleep. By default long enough that two programs on one machine
        # slow each other down fourfold; at once, as OMP_WAIT_POLICY=PASSIVE has it, a third of the speed of
        # one program alone is lost to waking up (PyTorch's CPU builds use GNU's OpenMP).
        "GOMP_SPINCOUNT": "1000",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUSERBASE": site.getuserbase(),  # a --user installation stays importable under another HOME
    }


def _sink(path: Path | None):  # type: ignore[no-untyped-def]  # noqa: ANN202, two file types, both binary writers
    return Path(os.devnull).open("wb") if path is None else path.open("ab")


def _stop_with_parent() -> None:
    """In the child, before exec: ask the kernel for SIGTERM when the parent dies (prctl(2))."""
    _LIBC.prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


_LIBC = ctypes.CDLL(None)


def _stop_group(child: subprocess.Popen[bytes], grace_s: float) -> bool:
    """SIGTERM, wait, SIGKILL. Returns whether the kill was needed."""
    _signal_group(child.pid, signal.SIGTERM)
    try:
        child.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        _kill_group(child.pid)
        child.wait()
        return True
    return False


def _kill_group(pid: int) -> None:
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)  # the child leads its session, so its pid is the group's
    except (ProcessLookupError, PermissionError):
        return
