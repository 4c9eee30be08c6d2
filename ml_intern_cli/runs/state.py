"""Where a run stands, derived from its files. Nothing here writes.

A stage is *done* when its outputs exist, parse and hold, and (where there is a receipt) its inputs
still are what it read. The order of the pipeline and the paths of PLAN.md give the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.errors import InvalidDocument, Problem
from ml_intern_cli.runs.receipts import Receipt, Receipts, changed_inputs, file_sha256
from ml_intern_cli.stages import DIAGNOSE, PATH_STAGES, PLANNING, WRAPPING_UP
from ml_intern_cli.stages.base import Check, Stage, fill, read_document

_INTERRUPTED = "interrupted; it goes on from there"


class StageState(StrEnum):
    """What can be said of one stage."""

    DONE = "done"
    STALE = "stale"  # an input was edited, or what comes before is not done
    STARTED = "started"  # interrupted half-way; it goes on from there
    FAILED = "failed"  # finished, and the path failed
    BLOCKED = "blocked"  # the user is needed
    TODO = "todo"
    SKIPPED = "skipped"  # nothing to do: the path failed before, or nothing is to be published


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a run, for one path where it is per path."""

    stage: str
    path_id: str | None
    state: StageState
    reason: str = ""
    summary: str = ""

    @property
    def is_settled(self) -> bool:
        """Nothing is left to do for this stage."""
        return self.state in {StageState.DONE, StageState.FAILED, StageState.SKIPPED}


class RunState:
    """One look at a run's files.

    Raises:
        InvalidDocument: a document does not parse; all problems of all documents at once.
    """

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self.receipts = Receipts(layout)
        self.receipts.check_format()
        self.plan = self._plan()
        self.path_ids = tuple(path.id for path in self.plan.paths) if self.plan else ()
        self.problems: list[Problem] = []
        self._statuses: dict[tuple[str, str | None], StageStatus] = {}
        self._derive()
        if self.problems:
            raise InvalidDocument(list(dict.fromkeys(self.problems)))

    @property
    def stages(self) -> tuple[StageStatus, ...]:
        """All stages in the order they run."""
        return tuple(self._statuses.values())

    def status(self, stage: str, path_id: str | None = None) -> StageStatus:
        """The status of one stage."""
        return self._statuses[stage, path_id]

    def next(self) -> StageStatus | None:
        """The stage to run now, or ``None`` when the run is complete."""
        return next((status for status in self.stages if not status.is_settled), None)

    def ready(self) -> tuple[StageStatus, ...]:
        """The stages that could run now, side by side: the next one of each path, where paths are due."""
        first = self.next()
        if first is None or first.path_id is None:
            return () if first is None else (first,)
        found: dict[str, StageStatus] = {}
        for status in self.stages:
            if status.path_id is not None and not status.is_settled:
                found.setdefault(status.path_id, status)
        return tuple(found.values())

    @property
    def all_failed(self) -> bool:
        """No path is left that has not failed some stage."""
        failed = {one.path_id for one in self.stages if one.state is StageState.FAILED}
        return bool(self.path_ids) and failed == set(self.path_ids)

    def _plan(self) -> Plan | None:
        if not self.layout.document(names.PLAN).is_file():
            return None
        try:
            return read_document(self.layout, Plan, names.PLAN)
        except InvalidDocument:
            return None  # reported with all others when the plan stage is looked at

    def _derive(self) -> None:
        """Look at every stage in order; what follows an unfinished one is stale at best."""
        upstream: str | None = None
        for stage in PLANNING:
            unfinished = self._look(stage, None, upstream)
            upstream = upstream or unfinished
        upstream = self._derive_paths(upstream)
        for stage in WRAPPING_UP:
            unfinished = self._look(stage, None, upstream)
            upstream = upstream or unfinished

    def _derive_paths(self, upstream: str | None) -> str | None:
        """Stage by stage over all paths, so that every path is smoked before one is trained.

        Returns:
            The first stage that keeps the run from being wrapped up; a failed path that has been
            diagnosed does not.
        """
        waits: dict[str, str | None] = dict.fromkeys(self.path_ids, upstream)
        failed: dict[str, str] = {}
        for stage in PATH_STAGES:
            for path_id in self.path_ids:
                if path_id in failed:
                    self._skip(stage, path_id, failed[path_id])
                    continue
                unfinished = self._look(stage, path_id, waits[path_id])
                if self.status(stage.name, path_id).state is StageState.FAILED:
                    failed[path_id] = f"{stage.name} failed"
                waits[path_id] = waits[path_id] or unfinished
        for path_id in self.path_ids:
            if path_id in failed:
                self._look(DIAGNOSE, path_id, None)
            else:
                self._skip(DIAGNOSE, path_id, "nothing failed")
        unsettled = (status for status in self.stages if not status.is_settled)
        return next((_label(status) for status in unsettled), None)

    def _look(self, stage: Stage, path_id: str | None, upstream: str | None) -> str | None:
        """Derive one status. Returns the stage's label unless what follows may rely on it."""
        status = self._status(stage, path_id, upstream)
        self._statuses[stage.name, path_id] = status
        return None if status.state in {StageState.DONE, StageState.SKIPPED} else _label(status)

    def _skip(self, stage: Stage, path_id: str, reason: str) -> None:
        status = StageStatus(stage.name, path_id, StageState.SKIPPED, reason)
        self._statuses[stage.name, path_id] = status

    def _status(self, stage: Stage, path_id: str | None, upstream: str | None) -> StageStatus:
        skipped = stage.skip(self.layout) if stage.skip and upstream is None else None
        if skipped:
            return StageStatus(stage.name, path_id, StageState.SKIPPED, skipped)
        receipt = self.receipts.load(stage.name, path_id)
        summary = receipt.summary if receipt else ""
        state, reason = self._judge(stage, path_id, receipt)
        if upstream and state in {StageState.DONE, StageState.FAILED, StageState.STARTED}:
            state, reason = StageState.STALE, f"follows {upstream}"
        return StageStatus(stage.name, path_id, state, reason, summary)

    def _judge(self, stage: Stage, path_id: str | None, receipt: Receipt | None) -> tuple[StageState, str]:
        check = self._check_outputs(stage, path_id, receipt)
        blocked = self._blocked_reason(stage)
        if receipt and receipt.state == "started":
            return (StageState.BLOCKED, blocked) if blocked else (StageState.STARTED, _INTERRUPTED)
        if check.missing:
            reason = check.missing if receipt else ""
            return (StageState.BLOCKED, blocked) if blocked else (StageState.TODO, reason)
        if receipt:
            outgrown = stage.outgrown(self.layout) if stage.outgrown else frozenset()
            refs = (ref.of(path_id) for ref in stage.reads if str(ref) not in outgrown)
            changes = changed_inputs(self.layout, tuple(refs), receipt)
            if changes:
                return (StageState.BLOCKED, blocked) if blocked else (StageState.STALE, "; ".join(changes))
        if check.failed:
            return StageState.FAILED, check.failed
        return StageState.DONE, ""

    def _check_outputs(self, stage: Stage, path_id: str | None, receipt: Receipt | None) -> Check:
        """What the outputs on disk say. Documents that are as the stage wrote them are not parsed again."""
        from ml_intern_cli.documents.registry import load

        as_written = receipt is not None
        for pattern in stage.writes:
            name = fill(pattern, path_id)
            path = self.layout.document(name)
            if not path.is_file():
                return Check(missing=f"{name} is not there")
            if name.endswith(".json") and stage.keeps_edits:
                problem = _json_problem(path, name)
                if problem is not None:
                    self.problems.append(problem)
                    return Check(missing=f"{name} does not parse")
            if not name.endswith(".md"):
                continue
            is_bearable = path.stat().st_size <= leavings.MOST_RECORD_BYTES
            if receipt is not None and is_bearable and receipt.outputs.get(name) == file_sha256(path):
                continue
            as_written = False
            try:
                load(path, source=name)
            except InvalidDocument as error:
                self.problems.extend(error.problems)
                return Check(missing=f"{name} does not parse")
        if stage.verdict is not None and path_id is not None:
            if receipt is not None and as_written:
                return Check(failed=receipt.failed)
            return Check(failed=stage.verdict(self.layout, path_id))
        return stage.check(self.layout, path_id) if stage.check else Check()

    def _blocked_reason(self, stage: Stage) -> str | None:
        blocker = read_blocker(self.layout)
        return f"{blocker.what}: {blocker.why}" if blocker and blocker.stage == stage.name else None


def _json_problem(path: Path, name: str) -> Problem | None:
    """What is wrong with a configuration that a person edited."""
    try:
        json.loads(leavings.read_bytes(path.parent, path.name, may_link=True).decode("utf-8"))
    except leavings.Refused as error:
        return Problem(name, None, None, str(error.strerror))
    except json.JSONDecodeError as error:
        return Problem(name, error.lineno, None, f"is not JSON: {error.msg}")
    except UnicodeDecodeError:
        return Problem(name, None, None, "is not UTF-8 text")
    return None


def read_blocker(layout: RunLayout) -> Blocker | None:
    """BLOCKER.md, if it is there. It is advice to the user, not state, so a damaged one stops nothing."""
    if not layout.document(names.BLOCKER).is_file():
        return None
    try:
        return read_document(layout, Blocker, names.BLOCKER)
    except InvalidDocument:
        return None


def _label(status: StageStatus) -> str:
    return status.stage + (f" {status.path_id}" if status.path_id else "")
