"""Watching and ending child processes: this program's own, with all that they started, and no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from ml_intern_cli.executors import docker

BUBBLEWRAP = "bwrap"
_POLL_S = 0.02
_SIGNALLED = 128  # and the signal's number


class Swarm:
    """Whether a child has started too many processes, asked so often that no bomb outruns the question.

    Args:
        pid: The child.
        most: How many it may have.
    """

    def __init__(self, pid: int, *, most: int) -> None:
        self._pid = pid
        self._most = most
        self._threads_before = _threads_of_the_machine()

    def is_too_large(self) -> bool:
        """Costs next to nothing, unless the machine has many threads more than when last counted."""
        threads = _threads_of_the_machine()
        if threads - self._threads_before <= self._most // 2:
            return False
        self._threads_before = threads
        return self.is_surely_too_large()

    def is_surely_too_large(self) -> bool:
        """Counts them."""
        return _count_descendants(self._pid) > self._most


def has_ended(
    child: subprocess.Popen[bytes], *, within_s: float, meanwhile: Callable[[], None] | None = None
) -> bool:
    """Whether the child ends in that time; ``meanwhile`` is called many times a second.

    It is left unreaped, so that its process id stays its own until its whole group has been killed.
    """
    deadline = time.monotonic() + within_s
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if meanwhile is not None:
            meanwhile()
        time.sleep(min(_POLL_S, left))
    return True


def stop_group(child: subprocess.Popen[bytes], grace_s: float) -> bool:
    """SIGTERM, wait, SIGKILL. Returns whether the kill was needed."""
    if child.returncode is not None:
        return False
    _ask_to_stop(child.pid)
    has_stopped = has_ended(child, within_s=grace_s)
    end_group(child)
    return not has_stopped


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's group, and only then let go of the child."""
    if child.returncode is None:
        kill_group(child.pid)
        child.wait()


def _ask_to_stop(pid: int) -> None:
    """SIGTERM for the program and all it started, but not for bubblewrap, which would end them at once."""
    programs = list(_programs(pid))
    for process in programs:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue


def _threads_of_the_machine() -> int:
    """How many there are, whoever's they are; 0 where that cannot be told cheaply."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _count_descendants(pid: int) -> int:
    """In one pass over /proc: with thousands of them, objects would take seconds."""
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208, names will do
    except OSError:
        return sum(1 for _ in _programs(pid))
    children: dict[int, list[int]] = {}
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", "rb") as file:  # noqa: PTH123, as above
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended
        children.setdefault(parent, []).append(int(number))
    count, waiting = 0, [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        count += len(below)
        waiting += below
    return count


def _programs(pid: int) -> Iterator[psutil.Process]:
    """The process and its descendants, but for bubblewrap's own."""
    try:
        child = psutil.Process(pid)
        for process in (child, *child.children(recursive=True)):
            if process.name() != BUBBLEWRAP:
                yield process
    except psutil.NoSuchProcess:
        return


def kill_group(pid: int) -> None:
    """SIGKILL for the group of a child that was not reaped, so that the id is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def exit_code(child: subprocess.Popen[bytes]) -> int:
    """The program's exit code, also where a wall tells it in the way of shells: 128 and the signal."""
    code = child.returncode if child.returncode is not None else -signal.SIGKILL
    program = child.args[0]  # type: ignore[index]  # an argument list, always
    is_signal = program in (BUBBLEWRAP, docker.PROGRAM) and code > _SIGNALLED
    return _SIGNALLED - code if is_signal else code


def end_orphan(child_file: Path, *, grace_s: float = 10.0) -> bool:
    """End the child that a killed parent left running. Returns whether there was one.

    One whose parent lives is at work elsewhere: its run was copied while it was working.
    """
    try:
        known = json.loads(child_file.read_text(encoding="utf-8"))
        process = _alive(known["child"])
        is_orphan = _alive(known["parent"]) is None
        same = process is not None and is_orphan
        container = known.get("container") if is_orphan else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        child_file.unlink(missing_ok=True)
        return False
    if process is not None and same:
        _ask_to_stop(process.pid)
        try:
            process.wait(timeout=grace_s)
        except psutil.TimeoutExpired:
            kill_group(process.pid)
    if isinstance(container, str):  # it outlives the command that started it
        same = docker.remove(container, grace_s=grace_s) or same
    child_file.unlink(missing_ok=True)
    return same


def identity(pid: int) -> dict[str, float]:
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
