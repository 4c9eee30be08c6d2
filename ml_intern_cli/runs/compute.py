"""The budget, enforced: the only door to spending compute.

Checked before each program starts, counted while it runs, and stopped at the smaller of the
program's own limit and what is left under the cap. What was spent stands in events.jsonl and in
BUDGET.md; the larger of the two counts, so that deleting one of them buys nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import Blocked
from ml_intern_cli.executors.process import Executor, Finished, Job
from ml_intern_cli.executors.walls import Openings, Wall
from ml_intern_cli.runs.consent import Consent
from ml_intern_cli.runs.events import record, spent_s
from ml_intern_cli.runs.outputs import rewrite
from ml_intern_cli.stages.base import read_document

_RECORD_EVERY_S = 15.0  # what a kill -9 of this process can leave uncounted
_LEAST_S = 1.0  # under this no program could even start


class BudgetedCompute:
    """Runs the programs of one run and counts their seconds.

    Args:
        layout: The run.
        executor: Runs them.
        consent: Asked before code that does not ship with this program runs without a wall; ``None``:
            there is nobody to ask, and none runs.
    """

    def __init__(self, layout: RunLayout, executor: Executor, *, consent: Consent | None = None) -> None:
        self._layout = layout
        self._executor = executor
        self._consent = consent or Consent(layout)

    def cap_s(self) -> float:
        """The cap as BUDGET.md says it now; a person may raise it while a run goes on."""
        return self._budget().compute_cap * 3600

    def used_s(self) -> float:
        """What was spent so far."""
        return max(self._budget().gpu_min_used * 60, sum(spent_s(self._layout).values()))

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
        path_id: str | None = None,
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
        if self._executor.wall is Wall.NONE:
            self._consent.require(argv, cwd=cwd)
        left_s = self.remaining_s(slack_s=_slack_s(self.cap_s()) if reserved else 0.0)
        allowed_s = min(limit_s, left_s)
        if allowed_s < _LEAST_S:
            raise self.exhausted(what)
        job = Job(
            argv=argv,
            cwd=cwd,
            home=self._layout.scratch / "home",
            limit_s=allowed_s,
            grace_s=_LEAST_S if reserved else _grace_s(allowed_s),  # what judges has no checkpoint to write
            stdout=stdout,
            stderr=stderr,
            openings=Openings(readable=(self._layout.root,), writable=writable, hidden=hidden),
        )
        meter = _Meter(lambda seconds: self._spend(seconds, what=what, path_id=path_id))

        def tick(elapsed_s: float) -> None:
            meter.read(elapsed_s)
            if on_tick is not None:
                on_tick(elapsed_s)

        try:
            finished = self._executor.run(job, on_tick=tick)
            meter.elapsed_s = finished.seconds
        finally:
            meter.settle()
        if reserved and finished.out_of_time and allowed_s < limit_s:
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
                f"ml-intern run {self._layout.slug} --time-budget {max(1, round(cap_min * 2))}m",
                "raise compute_cap in BUDGET.md (hours) and run the same command again",
            ),
        )

    def _spend(self, seconds: float, *, what: str, path_id: str | None) -> None:
        record(self._layout, "spend", path=path_id, seconds=round(seconds, 3), what=what)
        budget = self._budget()
        used_min = round(max(budget.gpu_min_used, sum(spent_s(self._layout).values()) / 60), 3)
        if used_min != budget.gpu_min_used:
            updated = budget.model_copy(update={"gpu_min_used": used_min})
            rewrite(self._layout, names.BUDGET, updated)

    def _budget(self) -> Budget:
        return read_document(self._layout, Budget, names.BUDGET)


@dataclass
class _Meter:
    """Counts a running program's seconds in portions."""

    spend: Callable[[float], None]
    elapsed_s: float = 0.0
    counted_s: float = 0.0

    def read(self, elapsed_s: float) -> None:
        self.elapsed_s = elapsed_s
        if elapsed_s - self.counted_s >= _RECORD_EVERY_S:
            self.settle()

    def settle(self) -> None:
        if self.elapsed_s > self.counted_s:
            portion_s, self.counted_s = self.elapsed_s - self.counted_s, self.elapsed_s
            self.spend(portion_s)


def _slack_s(seconds: float) -> float:
    """How far a limit may be overrun: 5 % + 10 s."""
    return 0.05 * seconds + 10.0


def _grace_s(limit_s: float) -> float:
    """How long a program that was asked to stop may take; what ending it takes is part of the slack too."""
    return 0.8 * _slack_s(limit_s)
