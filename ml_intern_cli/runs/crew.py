"""Paths that are worked on side by side: a thread for each.

A crew does what it is told and decides nothing: which step is next stands in the files (``state``), how many
there may be at a time is for ``seats``, and what came of a step is a single word here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from ml_intern_cli.errors import MlInternError
from ml_intern_cli.runs.seats import Seat
from ml_intern_cli.runs.state import StageStatus

T = TypeVar("T")

_LEAVE_WITHIN_S = 30.0  # after an interrupt; training writes a checkpoint by then
_LISTEN_EVERY_S = 0.2


class Ending(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"  # and its documents say how
    BLOCKED = "blocked"  # the user is needed
    CROWDED = "crowded"  # beside others it ran out of memory; nothing is written down


@dataclass(eq=False, slots=True)
class _Step:
    """A step that is under way, and whether it ever had others beside it."""

    status: StageStatus
    seat: Seat
    had_company: bool
    ending: Ending | None = None
    error: BaseException | None = None


class _Errand:
    """Something that the foreground does for another thread."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_done = threading.Event()

    def run(self) -> None:
        """Do it. What it raises, whoever waits gets; an interrupt is for both."""
        try:
            self._result = self._act()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_done.set()

    def is_done(self, *, within_s: float) -> bool:
        """Wait for it, for so long at most."""
        return self._is_done.wait(within_s)

    @property
    def result(self) -> Any:
        """What came of it. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Foreground:
    """The thread that holds a run, for those that work on its paths: it asks the user, and it stops them.

    Ctrl-C reaches this thread alone, also in the middle of a question.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._is_stopping = threading.Event()
        self._heard: queue.SimpleQueue[_Step | _Errand] = queue.SimpleQueue()

    def stop(self) -> None:
        """From now on the others stop, each where it next says what it is doing."""
        self._is_stopping.set()

    def check(self) -> None:
        """Raises KeyboardInterrupt in a thread that is asked to stop."""
        if self._is_stopping.is_set():
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Wait, or be asked to stop. Raises KeyboardInterrupt."""
        self._is_stopping.wait(seconds)
        self.check()

    def do(self, act: Callable[[], T]) -> T:
        """Have something done here, from any thread. Raises what it raises, or KeyboardInterrupt."""
        if threading.get_ident() == self._thread:
            return act()
        errand = _Errand(act)
        self._heard.put(errand)
        while not errand.is_done(within_s=_LISTEN_EVERY_S):
            self.check()
        result: T = errand.result
        return result

    def tell(self, step: _Step) -> None:
        """A step has ended."""
        self._heard.put(step)

    def listen(self, *, patience_s: float | None = None) -> _Step | None:
        """Do what is asked for until a step ends; ``None`` when none did in that time."""
        while True:
            try:
                heard = self._heard.get(timeout=patience_s)
            except queue.Empty:
                return None
            if isinstance(heard, _Step):
                return heard
            if not self._is_stopping.is_set():
                heard.run()


@dataclass
class Crew:
    """Threads that take one step of one path each.

    Attributes:
        step: Takes a step on a seat; the last argument tells whether others were at work meanwhile.
        foreground: The thread that this crew is led by.
        seats: One for each that may work at a time.
    """

    step: Callable[[StageStatus, Seat, Callable[[], bool]], Ending]
    foreground: Foreground
    seats: list[Seat]
    _at_work: dict[str | None, _Step] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let those at work end their steps, or stop them: nothing goes on behind the caller's back.

        One that needs the user, or whose files do not hold, is no reason to throw away what the others do.
        """
        if error is not None and not isinstance(error, MlInternError):
            self._stop()
            return
        errors: list[BaseException] = []
        try:
            while self._at_work:
                ended = self._next()
                if ended is not None and ended.error is not None:
                    errors.append(ended.error)
        except BaseException:
            self._stop()
            raise
        if error is None and errors:
            raise errors[0]

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
        step = self._next()
        assert step is not None, "without an end to the patience there is a step"  # noqa: S101
        if step.error is not None:
            raise step.error
        assert step.ending is not None, "a step that raised nothing has ended somehow"  # noqa: S101
        return step.status, step.ending

    def shrink(self) -> None:
        """From now on one at a time."""
        del self.seats[1:]

    def _next(self, *, patience_s: float | None = None) -> _Step | None:
        step = self.foreground.listen(patience_s=patience_s)
        if step is not None:
            del self._at_work[step.status.path_id]
        return step

    def _stop(self) -> None:
        """Stop those at work. One that waits for somebody's server may not hear; it dies with the process."""
        self.foreground.stop()
        while self._at_work and self._next(patience_s=_LEAVE_WITHIN_S) is not None:
            pass

    def _work(self, step: _Step) -> None:
        try:
            step.ending = self.step(step.status, step.seat, lambda: step.had_company)
        except BaseException as error:  # noqa: BLE001 - raised again where the crew is waited for
            step.error = error
        finally:
            self.foreground.tell(step)
