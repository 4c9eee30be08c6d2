"""Paths that are worked on side by side: how many this machine carries, and a thread for each.

A crew does what it is told and decides nothing: which step is next stands in the files (``state``), and
what came of one is a single word here.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self

import psutil

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.executors.walls import has_accelerator
from ml_intern_cli.runs.receipts import StageMemory
from ml_intern_cli.runs.state import StageStatus

_LEAVE_WITHIN_S = 30.0  # after an interrupt; training writes a checkpoint by then
_BYTES_PER_PARAM = 24  # fp32: weights, gradients, two moments of AdamW; a checkpoint on its way to the disk
_BYTES_PER_PROGRAM = 1 << 30  # the interpreter, PyTorch, a batch and its activations
_NVIDIA_TIMEOUT_S = 10.0


class Ending(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"  # and its documents say how
    BLOCKED = "blocked"  # the user is needed
    CROWDED = "crowded"  # beside others it ran out of memory; nothing is written down


class Halt:
    """Asks the threads that work on a run to stop, each where it next says what it is doing."""

    def __init__(self) -> None:
        self._is_called = threading.Event()

    def call(self) -> None:
        """From now on they stop."""
        self._is_called.set()

    def check(self) -> None:
        """Raises KeyboardInterrupt in a thread that is asked to stop."""
        if self._is_called.is_set():
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Wait, or be asked to stop. Raises KeyboardInterrupt."""
        self._is_called.wait(seconds)
        self.check()


@dataclass(frozen=True, slots=True)
class Seat:
    """A place to work beside others.

    Attributes:
        device: The GPU that belongs to it; ``None``: none, or all there are.
    """

    device: str | None = None


@dataclass(eq=False, slots=True)
class _Step:
    """A step that is under way, and whether it ever had others beside it."""

    status: StageStatus
    seat: Seat
    had_company: bool
    ending: Ending | None = None
    error: BaseException | None = None


@dataclass
class Crew:
    """Threads that take one step of one path each.

    Attributes:
        step: Takes a step on a seat; the last argument tells whether others were at work meanwhile.
        halt: Called when the block is left by an interrupt.
        seats: One for each that may work at a time.
    """

    step: Callable[[StageStatus, Seat, Callable[[], bool]], Ending]
    halt: Halt
    seats: list[Seat]
    _at_work: dict[str | None, _Step] = field(default_factory=dict)
    _ended: queue.SimpleQueue[_Step] = field(default_factory=queue.SimpleQueue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let those at work end their steps, or stop them: nothing goes on behind the caller's back."""
        if kind is not None and not issubclass(kind, MlInternError):
            self.halt.call()
        while self._at_work:
            # A thread that waits for somebody's server may not hear the call; it dies with this process.
            patience_s = None if kind is None or issubclass(kind, MlInternError) else _LEAVE_WITHIN_S
            try:
                self._take(self._ended.get(timeout=patience_s))
            except queue.Empty:
                return

    @property
    def is_idle(self) -> bool:
        """Nobody is at work."""
        return not self._at_work

    @property
    def is_full(self) -> bool:
        """There is no seat for another step."""
        return len(self._at_work) >= len(self.seats)

    def is_at(self, path_id: str | None) -> bool:
        """Whether somebody works on that path."""
        return path_id in self._at_work

    def start(self, status: StageStatus) -> None:
        """Take a step, on a free seat."""
        taken = [one.seat for one in self._at_work.values()]
        seat = next(one for one in self.seats if not any(one is other for other in taken))
        for other in self._at_work.values():
            other.had_company = True
        step = _Step(status, seat, had_company=bool(self._at_work))
        self._at_work[status.path_id] = step
        threading.Thread(target=self._work, args=(step,), name=f"path {status.path_id}", daemon=True).start()

    def wait(self) -> tuple[StageStatus, Ending]:
        """The next step that ends, and how. Raises what it raised."""
        step = self._take(self._ended.get())
        if step.error is not None:
            raise step.error
        assert step.ending is not None, "a step that raised nothing has ended somehow"  # noqa: S101
        return step.status, step.ending

    def shrink(self) -> None:
        """From now on one at a time."""
        del self.seats[1:]

    def _take(self, step: _Step) -> _Step:
        del self._at_work[step.status.path_id]
        return step

    def _work(self, step: _Step) -> None:
        try:
            step.ending = self.step(step.status, step.seat, lambda: step.had_company)
        except BaseException as error:  # noqa: BLE001 - raised again where the crew is waited for
            step.error = error
        finally:
            self._ended.put(step)


def most_at_once(layout: RunLayout) -> int | None:
    """How many paths at a time the user wished, or memory admitted; ``None``: nothing was said."""
    kept = _memory(layout).recall("most")
    return int(kept) if kept is not None and kept.isdecimal() and int(kept) > 0 else None


def remember_most(layout: RunLayout, most: int) -> None:
    """So many from now on, also when another process goes on with the run."""
    _memory(layout).remember("most", str(most))


def _memory(layout: RunLayout) -> StageMemory:
    return StageMemory(layout, name="parallel.json")


def seats_for(params: int, *, most: int | None) -> tuple[Seat, ...]:
    """As many seats as this machine carries.

    Without a wish there is one for each GPU, and one on a machine without: there two programs only share the
    cores. With a wish there are so many, but never more than fit into the memory that is free.

    Args:
        params: Size of each path's model.
        most: What the user wishes; ``None``: nothing.
    """
    devices = _devices()
    wanted = most if most is not None else max(1, len(devices))
    per_path = _BYTES_PER_PROGRAM + _BYTES_PER_PARAM * params
    carried = max(1, int(psutil.virtual_memory().available // per_path))
    count = min(wanted, carried)
    if count == 1 or not devices:
        return tuple(Seat() for _ in range(count))
    return tuple(Seat(devices[number % len(devices)]) for number in range(count))


def _devices() -> list[str]:
    """The GPUs that PyTorch would use, as CUDA_VISIBLE_DEVICES names them."""
    try:
        if not has_accelerator() or "+cpu" in version("torch"):
            return []
    except PackageNotFoundError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in {"", "-1"}]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_TIMEOUT_S,
            check=True,
            env={"PATH": os.environ.get("PATH", "")},  # no token is its business
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
