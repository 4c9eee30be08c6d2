"""The budget, enforced: the only door to spending compute.

Checked before each program starts, counted while it runs, and stopped at the smaller of the
program's own limit and what is left under the cap; programs that run side by side share what is
left. What was spent stands in events.jsonl and in BUDGET.md; the larger of the two counts, so that
deleting one of them buys nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import Blocked
from ml_intern_cli.executors.process import Executor, Finished, Job
from ml_intern_cli.executors.walls import Openings, Wall
from ml_intern_cli.runs.consent import Consent
from ml_intern_cli.runs.events import record, spent_s
from ml_intern_cli.runs.outputs import update
from ml_intern_cli.stages.base import read_document

_RECORD_EVERY_S = 15.0  # what a kill -9 of this process can leave uncounted
_LEAST_S = 1.0  # under this no program could even start


class _Running:
    """The programs of this process that run now, and what of their seconds is not written down yet."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.uncounted_s: dict[object, float] = {}


@dataclass(frozen=True, slots=True)
class BudgetedCompute:
    """Runs the programs of one run and counts their seconds, from any thread.

    Attributes:
        layout: The run.
        executor: Runs them.
        consent: Asked before code that does not ship with this program runs without a wall.
        interrupt: Called about twice a second while a program runs; what it raises ends the program.
        path_id: Whose programs run; see ``on``.
        device: The only GPU that they see; ``None``: all there are.
        at_once: How many may run at a time.
    """

    layout: RunLayout
    executor: Executor
    _: KW_ONLY
    consent: Consent
    interrupt: Callable[[], None] = lambda: None
    path_id: str | None = None
    device: str | None = None
    at_once: int = 1
    _running: _Running = field(default_factory=_Running)

    def on(self, path_id: str | None, *, device: str | None = None, at_once: int = 1) -> BudgetedCompute:
        """The same budget, for what one path runs; ``None``: for what is of no path."""
        return replace(self, path_id=path_id, device=device, at_once=at_once)

    def cap_s(self) -> float:
        """The cap as BUDGET.md says it now; a person may raise it while a run goes on."""
        return self._budget().compute_cap * 3600

    def used_s(self) -> float:
        """What was spent so far."""
        with self._running.lock:  # what is being written down is counted once
            written_s = max(self._budget().gpu_min_used * 60, sum(spent_s(self.layout).values()))
            return written_s + sum(self._running.uncounted_s.values())

    def remaining_s(self, *, slack_s: float = 0.0) -> float:
        """What is left under the cap, or that much above it."""
        return max(0.0, self.cap_s() + slack_s - self.used_s())

    def run(
        self,
        argv: tuple[str, ...],
        *,
        what: str,
        cwd: Path,
        limit_s: float,
        stdout: Path | None = None,
        stderr: Path | None = None,
        on_tick: Callable[[float], None] | None = None,
        writable: tuple[Path, ...] = (),
        hidden: tuple[Path, ...] = (),
        reserved: bool = False,
    ) -> Finished:
        """Run a program for at most ``limit_s`` seconds and never past the cap.

        Where the machine has a wall, the program may write to ``writable`` only, cannot read ``hidden``, and
        can read the run.

        ``reserved``: the plan set its time aside (judging), so it may also use the slack above the cap,
        should training have used that to the last second.

        Raises:
            Blocked: the cap is reached, or there is no wall and foreign code may not run without one.
        """
        if self.executor.wall is Wall.NONE:
            self.consent.require(argv, cwd=cwd)

        def left_s() -> float:
            return self.remaining_s(slack_s=_slack_s(self.cap_s()) if reserved else 0.0)

        allowed_s = min(limit_s, left_s())
        if allowed_s < _LEAST_S:
            raise self.exhausted(what)
        has_hit_cap = False

        def is_over() -> bool:
            """Whether nothing is left, be it for what ran beside this program and has ended."""
            nonlocal has_hit_cap
            has_hit_cap = left_s() <= 0
            return has_hit_cap

        scratch = self.layout.scratch_of(self.path_id)
        own = "child.json" if self.path_id is None else f"child.{self.path_id}.json"
        job = Job(
            argv=argv,
            cwd=cwd,
            home=scratch / "home",
            limit_s=allowed_s,
            # What judges has no checkpoint to write; those that run at once may all be stopped at once.
            grace_s=_LEAST_S if reserved else _grace_s(allowed_s) / self.at_once,
            stdout=stdout,
            stderr=stderr,
            openings=Openings(readable=(self.layout.root,), writable=writable, hidden=hidden),
            device=self.device,
            child_file=self.layout.receipts / own,
            is_over=is_over,
        )
        meter = _Meter(self._running, lambda seconds: self._spend(seconds, what=what))

        def tick(elapsed_s: float) -> None:
            meter.read(elapsed_s)
            self.interrupt()
            if on_tick is not None:
                on_tick(elapsed_s)

        began_s = time.monotonic()
        try:
            finished = self.executor.run(job, on_tick=tick)
            meter.read(finished.seconds)
        except BaseException:
            meter.read(time.monotonic() - began_s)  # stopping it took its time, too
            raise
        finally:
            meter.end()
        if reserved and finished.out_of_time and (has_hit_cap or allowed_s < limit_s):
            # The cap ended it, which says nothing about what was judged.
            raise self.exhausted(what)
        return finished

    def exhausted(self, what: str) -> Blocked:
        """The error for a spend that the cap does not allow."""
        cap_min, used_min = self.cap_s() / 60, self.used_s() / 60
        return Blocked(
            f"no budget for {what}",
            why=f"{used_min:.1f} of {cap_min:.1f} minutes of compute are spent",
            ways_on=(
                f"ml-intern run {self.layout.slug} --time-budget {max(1, round(cap_min * 2))}m",
                "raise compute_cap in BUDGET.md (hours) and run the same command again",
            ),
        )

    def _spend(self, seconds: float, *, what: str) -> None:
        record(self.layout, "spend", path=self.path_id, seconds=round(seconds, 3), what=what)

        def count(budget: Budget) -> Budget:
            used_min = round(max(budget.gpu_min_used, sum(spent_s(self.layout).values()) / 60), 3)
            return budget.model_copy(update={"gpu_min_used": used_min})

        update(self.layout, Budget, names.BUDGET, count)

    def _budget(self) -> Budget:
        return read_document(self.layout, Budget, names.BUDGET)


class _Meter:
    """Counts a running program's seconds in portions."""

    def __init__(self, running: _Running, spend: Callable[[float], None]) -> None:
        self._running = running
        self._spend = spend
        self._elapsed_s = self._counted_s = 0.0
        self.read(0.0)

    def read(self, elapsed_s: float) -> None:
        """So long it has run now."""
        self._elapsed_s = elapsed_s
        with self._running.lock:
            self._running.uncounted_s[self] = elapsed_s - self._counted_s
        if elapsed_s - self._counted_s >= _RECORD_EVERY_S:
            self._settle()

    def end(self) -> None:
        """It has ended."""
        try:
            self._settle()
        finally:
            with self._running.lock:
                self._running.uncounted_s.pop(self, None)

    def _settle(self) -> None:
        portion_s = self._elapsed_s - self._counted_s
        if portion_s <= 0:
            return
        with self._running.lock:
            self._counted_s = self._elapsed_s
            self._running.uncounted_s[self] = 0.0
            self._spend(portion_s)


def _slack_s(seconds: float) -> float:
    """How far a limit may be overrun: 5 % + 10 s."""
    return 0.05 * seconds + 10.0


def _grace_s(limit_s: float) -> float:
    """How long a program that was asked to stop may take; what ending it takes is part of the slack too."""
    return 0.8 * _slack_s(limit_s)
