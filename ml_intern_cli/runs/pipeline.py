"""The state machine: find the next stage from the files, run it, write what it gave back, repeat.

The only writer of state. Around each stage: receipt "started" → run → files and documents, each
atomically → receipt "done" last. A process that dies in between leaves "started" or an older
receipt, and the next one redoes that stage.

Paths are worked on one at a time, or side by side where the machine carries it (``crew``); what is
done is the same, and so is what a process that dies leaves.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.registry import render
from ml_intern_cli.errors import Blocked, InvalidInput, MlInternError
from ml_intern_cli.runs import ledger
from ml_intern_cli.runs.compute import BudgetedCompute
from ml_intern_cli.runs.crew import Crew, Ending, Foreground
from ml_intern_cli.runs.events import record
from ml_intern_cli.runs.files import write_atomic
from ml_intern_cli.runs.outputs import archive, write_outputs
from ml_intern_cli.runs.receipts import Digest, Receipt, Receipts, StageMemory, digest
from ml_intern_cli.runs.reporter import Reporter
from ml_intern_cli.runs.seats import Seat, remember_most
from ml_intern_cli.runs.state import RunState, StageState, StageStatus, read_blocker
from ml_intern_cli.secrets import scrub
from ml_intern_cli.stages import STAGES
from ml_intern_cli.stages.base import Outcome, Ref, Stage, StageContext, StageResult, fill


class End(StrEnum):
    """How a walk through the pipeline ended."""

    COMPLETE = "complete"
    REACHED = "reached"  # the stage named by --until is done
    BLOCKED = "blocked"
    FAILED = "failed"  # the stages asked for ran, and no path is left that they did not fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One run's stages, ready to go on from its files.

    Attributes:
        context: What stages are given; what depends on the path is filled in per stage.
        compute: The budget, of which each stage is given its part.
        foreground: Leads the threads of paths that are worked on side by side.
        seats: Places to work side by side, for models of so many parameters.
        notify: Sends an event's message to wherever the user is; what failed comes back, a line each.
    """

    context: StageContext
    compute: BudgetedCompute
    foreground: Foreground
    seats: Callable[[int], tuple[Seat, ...]]
    reporter: Reporter
    notify: Callable[[str, str], tuple[str, ...]]
    edits: Counter[str] = field(default_factory=Counter, init=False)
    """How often in a row what a stage reads was changed while it ran, by stage and path."""

    @property
    def layout(self) -> RunLayout:
        """The run."""
        return self.context.layout

    def advance(self, *, until: str | None = None) -> End:
        """Run what is left, up to and including ``until``.

        Raises:
            MlInternError: a stage ended and its outputs still do not hold; it is not run again and again.
        """
        seats: tuple[Seat, ...] = ()
        ran = _Ran(self.layout.slug)
        while True:
            state = self._look()
            status = state.next()
            if status is None:
                return End.COMPLETE
            if until is not None and _is_past(status.stage, until):
                return End.FAILED if state.all_failed else End.REACHED
            if status.path_id is not None and state.plan is not None:
                seats = seats or self.seats(state.plan.params_planned)
            if status.path_id is not None and len(seats) > 1:
                if self._advance_paths(seats, ran, until=until) is Ending.BLOCKED:
                    return End.BLOCKED
                seats = ()  # they may be fewer now
                continue
            ran.refuse_again(status, alone=True)
            if self._step(STAGES[status.stage], status.path_id) is Ending.BLOCKED:
                return End.BLOCKED

    def _advance_paths(self, seats: tuple[Seat, ...], ran: _Ran, *, until: str | None) -> Ending:
        """Run what is left of the paths, side by side."""

        def step(status: StageStatus, seat: Seat, had_company: Callable[[], bool]) -> Ending:
            return self._step(STAGES[status.stage], status.path_id, seat, len(seats), had_company)

        with Crew(step, self.foreground, list(seats)) as crew:
            while True:
                due = (one for one in self._look().ready() if until is None or not _is_past(one.stage, until))
                for status in due:
                    if status.path_id is not None and not crew.is_full and not crew.is_at(status.path_id):
                        ran.refuse_again(status)
                        crew.start(status)
                if crew.is_idle:
                    return Ending.DONE
                status, ending = crew.wait()
                if ending is Ending.BLOCKED:  # the others end their steps, and that is it
                    return ending
                if ending is Ending.CROWDED:
                    ran.forget(status)
                    crew.shrink()

    def _look(self) -> RunState:
        """What the files say now, with the ledger brought up to it."""
        state = RunState(self.layout)
        ledger.sync(state)
        return state

    def redo(self, stage_name: str, path_id: str | None) -> End:
        """Run one stage now, if what it needs is there.

        Raises:
            InvalidInput: an earlier stage is not done, or there is no such path.
        """
        stage = STAGES[stage_name]
        self._look()
        endings = set()
        for one in self._targets(stage, path_id):
            endings.add(self._step(stage, one))
            if Ending.BLOCKED in endings:
                return End.BLOCKED
        self._look()
        return End.FAILED if endings == {Ending.FAILED} else End.REACHED

    def _targets(self, stage: Stage, path_id: str | None) -> tuple[str | None, ...]:
        state = RunState(self.layout)
        if path_id is not None and path_id not in state.path_ids:
            known = ", ".join(state.path_ids) or "none yet"
            raise InvalidInput(
                f"run {self.layout.slug} has no path {path_id!r} (paths: {known})",
                hint=f"ml-intern status {self.layout.slug}",
            )
        waiting = _first_unready(state, stage, path_id)
        if waiting is not None:
            label = waiting.stage + (f" {waiting.path_id}" if waiting.path_id else "")
            reason = f" ({waiting.reason})" if waiting.reason else ""
            raise InvalidInput(
                f"{stage.name} needs {label} first: it is {waiting.state}{reason}",
                hint=f"ml-intern run {self.layout.slug} --until {stage.name}",
            )
        if not stage.per_path:
            status = state.status(stage.name)
            if status.state is StageState.SKIPPED:
                raise InvalidInput(
                    f"there is nothing to {stage.name}: {status.reason}",
                    hint=f"ml-intern status {self.layout.slug}",
                )
            return (None,)
        wanted = (path_id,) if path_id is not None else state.path_ids
        return tuple(one for one in wanted if state.status(stage.name, one).state is not StageState.SKIPPED)

    def _step(
        self,
        stage: Stage,
        path_id: str | None,
        seat: Seat = Seat(),  # noqa: B008, it never changes
        at_once: int = 1,
        had_company: Callable[[], bool] = lambda: False,
    ) -> Ending:
        """Run one stage and write it down."""
        began = time.monotonic()
        self.reporter.stage_started(stage.name, path_id)
        receipts = RunState(self.layout).receipts
        before = receipts.load(stage.name, path_id)
        # What the stage reads now is what it answers for, should a file change while it works.
        inputs = self._digests(stage, path_id)
        known = before or Receipt(stage=stage.name, path=path_id, state="started")
        if before is not None and (before.state == "failed" or _differ(before.inputs, inputs)):
            for name in stage.partial:
                archive(self.layout, fill(name, path_id))
        receipts.stamp()
        receipts.save(replace(known, state="started", inputs=inputs))
        record(self.layout, "stage_started", stage=stage.name, path=path_id)
        memory = StageMemory.of(self.layout, path_id)
        compute = self.compute.on(path_id, device=seat.device, at_once=at_once)
        context = replace(self.context, path_id=path_id, compute=compute, memory=memory)
        self._clear_blocker(stage)
        try:
            announced = stage.announces(context) if stage.announces else None
            if announced is not None:
                self._tell(*announced, path_id=path_id)
            result = stage.run(context)
        except Blocked as blocked:
            if before is not None:  # what it last did still stands, should the user take the change back
                receipts.save(before)
            self._block(stage, path_id, blocked, seconds=time.monotonic() - began)
            return Ending.BLOCKED
        except MlInternError as error:
            message = scrub(error.message)
            record(self.layout, "stage_failed", stage=stage.name, path=path_id, message=message)
            self._notify("error", f"{self.layout.slug}: {stage.name}: {message}")
            if had_company():  # the others end their steps before the error can be raised to the user
                seconds = time.monotonic() - began
                self.reporter.stage_finished(stage.name, path_id, "stopped", message, seconds, ())
            raise
        except KeyboardInterrupt:
            seconds = time.monotonic() - began
            record(self.layout, "stage_stopped", stage=stage.name, path=path_id)
            self.reporter.stage_finished(stage.name, path_id, "stopped", "interrupted", seconds, ())
            raise
        if result.out_of_memory and had_company():
            self._crowd_out(stage, path_id, result, seconds=time.monotonic() - began)
            return Ending.CROWDED
        kept = self._write(stage, path_id, result, before, inputs, began=began)
        self.context.brain.settle(stage.name, path_id)
        memory.forget()
        shutil.rmtree(context.scratch, ignore_errors=True)
        self._announce(stage, path_id, result, kept, time.monotonic() - began)
        self._refuse_restless(stage, path_id, inputs)
        return Ending.FAILED if result.outcome is Outcome.FAILED else Ending.DONE

    def _write(
        self,
        stage: Stage,
        path_id: str | None,
        result: StageResult,
        before: Receipt | None,
        inputs: dict[str, Digest],
        *,
        began: float,
    ) -> list[str]:
        """Write what a stage gave back, its receipt last. Returns what of the user's was kept."""
        receipts = Receipts(self.layout)
        found = self._digests(stage, path_id)
        written = write_outputs(self.layout, stage, result, before, ours=receipts.written_texts())
        # An input that the stage itself wrote counts as it is now, unless somebody edited it meanwhile.
        own = {*result.documents, *result.revisions}
        untouched = {key for key in found if key.split("#")[0] in own and _same(found, inputs, key)}
        now = {key: one for key, one in self._digests(stage, path_id).items() if key in untouched}
        receipts.save(
            Receipt(
                stage=stage.name,
                path=path_id,
                state=str(result.outcome),
                summary=result.summary,
                failed=stage.verdict(self.layout, path_id) if stage.verdict and path_id else None,
                seconds=round(time.monotonic() - began, 3),
                inputs=inputs | now,
                outputs=written.outputs,
                base=written.base,
            )
        )
        return written.kept

    def _refuse_restless(self, stage: Stage, path_id: str | None, inputs: dict[str, Digest]) -> None:
        """Raises MlInternError when what the stage reads changes whenever it runs: it would run for ever."""
        now = Receipts(self.layout).load(stage.name, path_id)
        found = self._digests(stage, path_id)
        changed = [key for key in inputs if now and not _same(found, now.inputs, key)]
        label = stage.name + (f" {path_id}" if path_id else "")
        self.edits[label] = self.edits[label] + 1 if changed else 0
        if self.edits[label] > _MOST_EDITS:
            raise MlInternError(
                f"{changed[0]} has changed each of the last {self.edits[label]} times that {label} ran;"
                " if no person did it, a program of the run does",
                hint=f"ml-intern status {self.layout.slug}",
            )

    def _announce(
        self, stage: Stage, path_id: str | None, result: StageResult, kept: list[str], seconds: float
    ) -> None:
        details = result.details + tuple(f"kept your {name}" for name in kept)
        record(
            self.layout,
            "stage_finished",
            stage=stage.name,
            path=path_id,
            outcome=str(result.outcome),
            summary=result.summary,
            seconds=round(seconds, 3),
        )
        outcome = "failed" if result.outcome is Outcome.FAILED else "done"
        self.reporter.stage_finished(stage.name, path_id, outcome, result.summary, seconds, details)
        for event, message in result.notify:
            self._tell(event, message, path_id=path_id)

    def _crowd_out(self, stage: Stage, path_id: str | None, result: StageResult, *, seconds: float) -> None:
        """A path that failed beside others for want of memory is not to blame: it goes on, alone."""
        remember_most(self.layout, 1)
        record(self.layout, "serialised", stage=stage.name, path=path_id, summary=result.summary)
        what = f"{result.summary}; it goes on when the others are done, one path at a time from now on"
        self.reporter.stage_finished(stage.name, path_id, "stopped", what, seconds, ())

    def _block(self, stage: Stage, path_id: str | None, blocked: Blocked, *, seconds: float) -> None:
        document = Blocker(stage=stage.name, what=blocked.what, why=blocked.why, ways_on=blocked.ways_on)
        write_atomic(self.layout.document(names.BLOCKER), render(document))
        record(self.layout, "blocker", stage=stage.name, path=path_id, what=blocked.what, why=blocked.why)
        self.reporter.stage_finished(stage.name, path_id, "blocked", blocked.what, seconds, (blocked.why,))
        self._notify("blocker", f"{self.layout.slug}: {blocked.what}: {blocked.why}")

    def _clear_blocker(self, stage: Stage) -> None:
        """Set BLOCKER.md aside, unless it is about a stage that is still blocked."""
        if not self.layout.document(names.BLOCKER).is_file():
            return
        blocker = read_blocker(self.layout)
        blocked = {one.stage for one in RunState(self.layout).stages if one.state is StageState.BLOCKED}
        if blocker is None or blocker.stage == stage.name or blocker.stage not in blocked:
            archive(self.layout, names.BLOCKER)

    def _tell(self, event: str, message: str, *, path_id: str | None) -> None:
        record(self.layout, event, message=message, path=path_id)
        self._notify(event, message)

    def _notify(self, event: str, message: str) -> None:
        for failure in self.notify(event, message):
            record(self.layout, "notification_failed", event=event, failure=failure)
            self.reporter.note(f"notification {event} was not sent: {failure}")

    def _digests(self, stage: Stage, path_id: str | None) -> dict[str, Digest]:
        refs: list[Ref] = [ref.of(path_id) for ref in stage.reads]
        found = {str(ref): digest(self.layout, ref) for ref in refs}
        return {key: value for key, value in found.items() if value is not None}


_MOST_EDITS = 2  # of what a stage reads, while it runs: a person may, a program does it every time


class _Ran:
    """What ran last, of each path: a stage that ended and is due again would run for ever."""

    def __init__(self, slug: str) -> None:
        self._slug = slug
        self._last: dict[str | None, str] = {}

    def refuse_again(self, status: StageStatus, *, alone: bool = False) -> None:
        """Note that a stage is about to run. Raises MlInternError if it did so just now."""
        is_again = self._last.get(status.path_id) == status.stage
        if is_again and status.state is not StageState.STALE:  # stale: edited while it ran
            reason = status.reason or "its outputs do not hold"
            raise MlInternError(
                f"{status.stage} ended, but it is {status.state}: {reason}",
                hint=f"ml-intern status {self._slug}",
            )
        if alone:
            self._last.clear()
        self._last[status.path_id] = status.stage

    def forget(self, status: StageStatus) -> None:
        """It is to run again."""
        self._last.pop(status.path_id, None)


def _differ(before: dict[str, Digest], now: dict[str, Digest]) -> bool:
    return before.keys() != now.keys() or not all(_same(before, now, key) for key in now)


def _same(one: dict[str, Digest], other: dict[str, Digest], key: str) -> bool:
    return key in one and key in other and one[key].sha256 == other[key].sha256


def _is_past(stage: str, until: str) -> bool:
    order = list(STAGES)
    return order.index(stage) > order.index(until)


def _first_unready(state: RunState, stage: Stage, path_id: str | None) -> StageStatus | None:
    """The first stage before ``stage`` (for that path, or any) that is not settled."""
    for status in state.stages:
        if status.stage == stage.name:
            return None
        concerns = path_id is None or status.path_id in {None, path_id}
        if concerns and not status.is_settled:
            return status
    return None
