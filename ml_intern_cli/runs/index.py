"""All runs under one directory, and where each of them stands. Nothing here writes."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.budget import Budget, ModelUse
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.registry import load
from ml_intern_cli.documents.task import Task
from ml_intern_cli.errors import InvalidDocument, MlInternError, UnknownRun
from ml_intern_cli.runs.files import storage_failed
from ml_intern_cli.runs.money import model_use
from ml_intern_cli.runs.state import RunState, StageState, StageStatus, read_blocker
from ml_intern_cli.stages.base import D


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stands."""

    slug: str
    run_dir: Path
    request: str
    stages: tuple[StageStatus, ...]
    max_paths: int | None
    paths_launched: int
    max_retries: int | None
    retries_used: int
    budget_cap_min: float | None
    budget_used_min: float
    usd_used: float
    max_usd: float | None
    model_use: tuple[ModelUse, ...]
    blocker: Blocker | None
    next: tuple[str, ...]  # commands


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListing:
    """One line of ``ml-intern list``."""

    slug: str
    request: str
    state: str
    winner: str | None
    eval_loss: float | None
    updated_at: datetime


class RunIndex:
    """All runs under one directory.

    Args:
        runs_dir: Where runs are.
    """

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir

    def status(self, target: str) -> RunStatus:
        """Where a run stands.

        Raises:
            UnknownRun: there is none.
            InvalidDocument: documents that do not parse.
        """
        return self.status_of(self.find(target))

    def list(self) -> tuple[RunListing, ...]:
        """All runs, the latest first. A damaged one is listed as such."""
        return tuple(sorted(self._listings(), key=lambda one: one.updated_at, reverse=True))

    def find(self, target: str) -> RunLayout:
        """The run of a slug, or at a path.

        Raises:
            UnknownRun: there is none; the nearest slugs are named.
        """
        for candidate in _candidates(self.runs_dir, target):
            if _is_run(candidate):
                return RunLayout(candidate.resolve())
        slugs = [layout.slug for layout in self._layouts()]
        raise UnknownRun(target, difflib.get_close_matches(target, slugs, n=3, cutoff=0.4))

    def status_of(self, layout: RunLayout) -> RunStatus:
        """Where a run stands. Raises InvalidDocument."""
        state = RunState(layout)
        budget = load_optional(layout, Budget, names.BUDGET)
        blocker = read_blocker(layout)
        return RunStatus(
            slug=layout.slug,
            run_dir=layout.root,
            request=request_of(layout),
            stages=state.stages,
            max_paths=budget.max_paths if budget else None,
            paths_launched=budget.paths_launched if budget else 0,
            max_retries=budget.max_retries_per_path if budget else None,
            retries_used=budget.retries_used if budget else 0,
            budget_cap_min=round(budget.compute_cap * 60, 2) if budget else None,
            budget_used_min=budget.gpu_min_used if budget else 0.0,
            usd_used=budget.usd_used if budget else 0.0,
            max_usd=budget.max_usd if budget else None,
            model_use=budget.model_use if budget else model_use(layout),
            blocker=blocker,
            next=_next_commands(self._address(layout), state, blocker),
        )

    def _address(self, layout: RunLayout) -> str:
        """What a command calls the run: its slug where that is enough, else its path."""
        is_here = layout.root.parent == self.runs_dir.resolve()
        return layout.slug if is_here else shlex.quote(str(layout.root))

    def latest_of(self, request: str) -> RunLayout | None:
        """The run of a sentence that was worked on last, whatever its slug; ``None`` when there is none."""
        same = (layout for layout in self._layouts() if _request_or_damaged(layout) == request)
        return max(same, key=_last_change, default=None)

    def _layouts(self) -> Iterator[RunLayout]:
        try:
            folders = sorted(self.runs_dir.iterdir()) if self.runs_dir.is_dir() else []
        except OSError as error:
            raise storage_failed(error, self.runs_dir) from error
        yield from (RunLayout(folder) for folder in folders if _is_run(folder))

    def _listings(self) -> Iterator[RunListing]:
        for layout in self._layouts():
            updated_at = datetime.fromtimestamp(_last_change(layout), UTC)
            try:
                status = self.status_of(layout)
                winner, loss = _winner(layout)
                state = _overall(status)
            except MlInternError as error:
                winner, loss, state = None, None, f"unreadable: {error.message.splitlines()[0]}"
            request = _request_or_damaged(layout)
            yield RunListing(
                slug=layout.slug,
                request=request,
                state=state,
                winner=winner,
                eval_loss=loss,
                updated_at=updated_at,
            )


def _candidates(runs_dir: Path, target: str) -> Iterator[Path]:
    """Where a run of that slug, or at that path, would be."""
    if target in {"", ".", ".."}:
        return
    yield runs_dir / target
    try:
        yield Path(target).expanduser()
    except RuntimeError:  # the home of a user that there is not
        return


def _is_run(folder: Path) -> bool:
    """A run has a TASK.md, or a BLOCKER.md that says why it has none."""
    try:
        return any((folder / name).is_file() for name in (names.TASK, names.BLOCKER))
    except (OSError, ValueError):  # not ours to look into, or no name that a file can have
        return False


def request_of(layout: RunLayout) -> str:
    """The sentence of a run; empty when it blocked before it could be restated."""
    task = load_optional(layout, Task, names.TASK)
    return task.request if task else ""


def _request_or_damaged(layout: RunLayout) -> str:
    try:
        return request_of(layout)
    except InvalidDocument:
        return "(TASK.md does not parse)"


def load_optional(layout: RunLayout, kind: type[D], name: str) -> D | None:
    """A document of a run, or ``None`` when it is not there. Raises InvalidDocument."""
    if not layout.document(name).is_file():
        return None
    document = load(layout.document(name), source=name)
    return document if isinstance(document, kind) else None


def _winner(layout: RunLayout) -> tuple[str | None, float | None]:
    from ml_intern_cli.documents.results import Results

    results = load_optional(layout, Results, names.RESULTS)
    row = next((row for row in results.rows if row.path_id == results.winner), None) if results else None
    return (row.path_id, row.final_loss) if row else (None, None)


def _last_change(layout: RunLayout) -> float:
    times = [0.0]
    for path in (layout.root, *layout.root.glob("*.md")):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # an editor's lock, a dangling link
            continue
    return max(times)


def _overall(status: RunStatus) -> str:
    waiting = next((one for one in status.stages if not one.is_settled), None)
    if waiting is None:
        passed = any(one.stage == "verify" and one.state is StageState.DONE for one in status.stages)
        return "done" if passed else "no path passed"
    label = waiting.stage + (f" {waiting.path_id}" if waiting.path_id else "")
    return f"{waiting.state} at {label}"


def _next_commands(address: str, state: RunState, blocker: Blocker | None) -> tuple[str, ...]:
    waiting = state.next()
    if waiting is None:
        return (f"ml-intern show {address}",)
    if waiting.state is StageState.BLOCKED and blocker is not None:
        return blocker.ways_on
    return (f"ml-intern run {address}",)
