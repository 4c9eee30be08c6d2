"""Run a program of a path as a child process: no secrets, a wall, limits, a watchdog.

The child gets an allow-listed environment and a home of its own, so no token of the user's reaches
it through either, and runs behind the wall that the machine has (see ``walls``). When its time is
spent it is asked to stop (SIGTERM: the training program writes a checkpoint), and killed with all it
started when it does not.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import psutil

from ml_intern_cli.executors.walls import Openings, Wall, enclose, has_accelerator, standing_wall

# What a numerical Python program needs of its surroundings, and nothing that can hold a secret.
_ALLOWED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR", "SSL_CERT_FILE",
)  # fmt: skip
_TICK_S = 0.5
_BUBBLEWRAP = "bwrap"
_SIGNALLED = 128  # and the signal's number
_MOST_PROCESSES = 512
_MOST_OF_FREE_DISK = 0.9  # in one file
_LEAST_FILE_BYTES = 1 << 30  # on a disk that is nearly full the error should say that it is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run.

    ``limit_s`` is when it is asked to stop, ``grace_s`` how long it then has before it is killed.
    ``openings`` is what it may see and write besides its home.
    """

    argv: tuple[str, ...]
    cwd: Path
    home: Path
    limit_s: float
    grace_s: float
    stdout: Path | None = None  # None: thrown away
    stderr: Path | None = None
    openings: Openings = field(default_factory=Openings)


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
        wall: Behind which the programs run; ``None``: the one that this machine has.
    """

    def __init__(self, child_file: Path, *, wall: Wall | None = None) -> None:
        self._child_file = child_file
        self._wall = wall

    def run(self, job: Job, *, on_tick: Callable[[float], None]) -> Finished:
        """Run ``job``; an interrupt stops the child gracefully and is raised again.

        Raises:
            KeyboardInterrupt: after the child has stopped.
        """
        job.home.mkdir(parents=True, exist_ok=True)
        argv, surroundings = job.argv, environment(job.home)
        if (self._wall or standing_wall()) is Wall.BUBBLEWRAP:
            openings = replace(job.openings, writable=(*job.openings.writable, job.home))
            argv = enclose(argv, cwd=job.cwd, openings=openings)
            surroundings.pop("TMPDIR", None)  # it has a /tmp of its own
        started = time.monotonic()
        with ExitStack() as files:
            child = subprocess.Popen(
                argv,
                cwd=job.cwd,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=files.enter_context(_sink(job.stdout)),
                stderr=files.enter_context(_sink(job.stderr)),
                start_new_session=True,
                preexec_fn=_preparation(most_bytes=_most_file_bytes(job.home)),  # noqa: PLW1509
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
                return Finished(
                    _exit_code(child), time.monotonic() - started, out_of_time=True, killed=killed
                )
            try:
                child.wait(timeout=min(_TICK_S, left))
            except subprocess.TimeoutExpired:
                if _count_programs(child.pid) > _MOST_PROCESSES:
                    _kill_group(child.pid)
                    _add_line(job.stderr, f"stopped: more than {_MOST_PROCESSES} processes")
                on_tick(time.monotonic() - started)
                continue
            return Finished(_exit_code(child), time.monotonic() - started, out_of_time=False, killed=False)

    def _remember(self, pid: int) -> None:
        try:
            known = {"child": _identity(pid), "parent": _identity(os.getpid())}
        except psutil.NoSuchProcess:
            return
        self._child_file.parent.mkdir(parents=True, exist_ok=True)
        self._child_file.write_text(json.dumps(known), encoding="utf-8")


def end_orphan(child_file: Path, *, grace_s: float = 10.0) -> bool:
    """End the child that a killed parent left running. Returns whether there was one.

    One whose parent lives is at work elsewhere: its run was copied while it was working.
    """
    try:
        known = json.loads(child_file.read_text(encoding="utf-8"))
        process = _alive(known["child"])
        same = process is not None and _alive(known["parent"]) is None
    except (OSError, ValueError, KeyError, TypeError):
        child_file.unlink(missing_ok=True)
        return False
    if process is not None and same:
        _ask_to_stop(process.pid)
        try:
            process.wait(timeout=grace_s)
        except psutil.TimeoutExpired:
            _kill_group(process.pid)
    child_file.unlink(missing_ok=True)
    return same


def _identity(pid: int) -> dict[str, float]:
    """What tells a process from a later one of the same id."""
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def _alive(identity: dict[str, float]) -> psutil.Process | None:
    """The process of that identity, if it still runs."""
    try:
        process = psutil.Process(int(identity["pid"]))
        is_same = abs(process.create_time() - identity["created"]) < 1.0  # process ids are reused
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


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


def _preparation(*, most_bytes: int) -> Callable[[], None]:
    """What the child does before it becomes the program: no core dumps, no endless files."""
    # Drivers of accelerators reserve far more than they use.
    most_memory = resource.RLIM_INFINITY if has_accelerator() else psutil.virtual_memory().total

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_DATA, (most_memory, most_memory))
        if sys.platform == "linux":
            _LIBC.prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG: SIGTERM when the parent dies (prctl(2))

    return prepare


_LIBC = ctypes.CDLL(None)


def _most_file_bytes(place: Path) -> int:
    return max(_LEAST_FILE_BYTES, int(_MOST_OF_FREE_DISK * shutil.disk_usage(place).free))


def _add_line(log: Path | None, text: str) -> None:
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def _exit_code(child: subprocess.Popen[bytes]) -> int:
    """The program's exit code, also where bubblewrap tells it in the way of shells: 128 and the signal."""
    code = child.returncode if child.returncode is not None else -signal.SIGKILL
    is_signal = child.args[0] == _BUBBLEWRAP and code > _SIGNALLED  # type: ignore[index]
    return _SIGNALLED - code if is_signal else code


def _stop_group(child: subprocess.Popen[bytes], grace_s: float) -> bool:
    """SIGTERM, wait, SIGKILL. Returns whether the kill was needed."""
    _ask_to_stop(child.pid)
    try:
        child.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        _kill_group(child.pid)
        child.wait()
        return True
    return False


def _ask_to_stop(pid: int) -> None:
    """SIGTERM for the program and all it started, but not for bubblewrap, which would end them at once."""
    programs = list(_programs(pid))
    for process in programs:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue


def _count_programs(pid: int) -> int:
    return sum(1 for _ in _programs(pid))


def _programs(pid: int) -> Iterator[psutil.Process]:
    """The process and its descendants, but for bubblewrap's own."""
    try:
        child = psutil.Process(pid)
        for process in (child, *child.children(recursive=True)):
            if process.name() != _BUBBLEWRAP:
                yield process
    except psutil.NoSuchProcess:
        return


def _kill_group(pid: int) -> None:
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)  # the child leads its session, so its pid is the group's
    except (ProcessLookupError, PermissionError):
        return
