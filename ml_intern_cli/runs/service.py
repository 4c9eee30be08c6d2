"""What the command line asks of runs: open one, go on with it, look at it, list them all."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.model import PublishTarget, RunMode
from ml_intern_cli.documents.registry import load, render
from ml_intern_cli.documents.task import Task
from ml_intern_cli.errors import (
    Blocked,
    InvalidDocument,
    InvalidInput,
    MlInternError,
    NoPathPassed,
    UnknownRun,
)
from ml_intern_cli.runs.files import storage_failed, write_atomic
from ml_intern_cli.runs.options import RunOptions
from ml_intern_cli.runs.reporter import Reporter
from ml_intern_cli.runs.state import RunState, StageState, StageStatus
from ml_intern_cli.stages.base import D

if TYPE_CHECKING:
    from ml_intern_cli.access import HubAccess
    from ml_intern_cli.brains.protocol import Question
    from ml_intern_cli.notify import NotifySettings
    from ml_intern_cli.runs.pipeline import End, Pipeline

_SLUG = re.compile(r"^[a-z0-9][a-z0-9._-]*$")
_LONGEST_SLUG = 60


class Settings(Protocol):
    """What of the user's surroundings a run needs."""

    @property
    def hub(self) -> HubAccess: ...  # noqa: D102
    @property
    def notify(self) -> NotifySettings: ...  # noqa: D102


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
    blocker: Blocker | None
    next: tuple[str, ...]  # commands


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a command on a run ended."""

    slug: str
    run_dir: Path
    exit_code: int
    done: bool
    stages: tuple[StageStatus, ...]
    blocker: Blocker | None
    winner: str | None
    eval_loss: float | None
    published: str | None
    seconds: float
    budget_used_min: float
    budget_cap_min: float | None
    retries_used: int
    paths_launched: int
    max_paths: int | None
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListing:
    """One line of ``ml-intern list``."""

    slug: str
    request: str
    state: str
    winner: str | None
    eval_loss: float | None
    updated_at: datetime


class RunService:
    """All runs under one directory.

    Args:
        runs_dir: Where runs are.
        settings: Accounts and addresses.
        reporter: Who is told what happens.
        ask: Puts questions to the user; ``None`` when nobody is at the terminal.
    """

    def __init__(
        self,
        *,
        runs_dir: Path,
        settings: Settings,
        reporter: Reporter,
        ask: Callable[[tuple[Question, ...]], dict[str, str]] | None,
    ) -> None:
        self._runs_dir = runs_dir
        self._settings = settings
        self._reporter = reporter
        self._ask = ask

    # Commands

    def run(self, target: str, options: RunOptions) -> RunOutcome:
        """Go from a sentence, or from what a run's files say, to the end.

        Raises:
            MlInternError: bad input, a held lock, a full disk.
        """
        return self._work(target, options, lambda pipeline: pipeline.advance(until=options.until))

    def step(self, target: str, stage: str, options: RunOptions, *, path_id: str | None) -> RunOutcome:
        """Run one stage."""
        return self._work(target, options, lambda pipeline: pipeline.redo(stage, path_id))

    def status(self, target: str) -> RunStatus:
        """Where a run stands.

        Raises:
            UnknownRun: there is none.
            InvalidDocument: documents that do not parse.
        """
        return self._status(self.find(target))

    def list(self) -> tuple[RunListing, ...]:
        """All runs, the latest first. A damaged one is listed as such."""
        return tuple(sorted(self._listings(), key=lambda one: one.updated_at, reverse=True))

    def find(self, target: str) -> RunLayout:
        """The run of a slug, or at a path.

        Raises:
            UnknownRun: there is none; the nearest slugs are named.
        """
        for candidate in (self._runs_dir / target, Path(target).expanduser()):
            if target and target not in {".", ".."} and _is_run(candidate):
                return RunLayout(candidate.resolve())
        slugs = [layout.slug for layout in self._layouts()]
        raise UnknownRun(target, difflib.get_close_matches(target, slugs, n=3, cutoff=0.4))

    # Opening a run

    def _work(self, target: str, options: RunOptions, act: Callable[[Pipeline], End]) -> RunOutcome:
        from ml_intern_cli.executors.process import end_orphan
        from ml_intern_cli.runs.lock import locked

        began = time.monotonic()
        layout, request = self._open(target, options)
        fresh = not layout.root.exists()
        with locked(layout, command=f"ml-intern {layout.slug}"):
            try:
                end_orphan(layout.receipts / "child.json")
                self._apply(layout, options)
                self._reporter.run_opened(layout.slug, layout.root, request)
                with self._pipeline(layout, request, options) as pipeline:
                    end = act(pipeline)
            except MlInternError:
                if (
                    fresh
                    and not layout.document(names.TASK).is_file()
                    and not layout.document(names.BLOCKER).is_file()
                ):
                    _remove_empty(layout)
                raise
            return self._outcome(layout, end, seconds=time.monotonic() - began)

    def _open(self, target: str, options: RunOptions) -> tuple[RunLayout, str]:
        """The run that a sentence or a slug means, and its sentence."""
        target = target.strip()
        if not target:
            raise InvalidInput("the task is empty", hint='ml-intern run "implement DeepSeek-V3 at 1M"')
        if not options.new and (self._names_a_run(target)):
            layout = self.find(target)
            return layout, _request(layout)
        if _looks_like_slug(target):
            self.find(target)  # raises, with the nearest slugs
        wanted = options.slug or slug_of(target)
        if not _SLUG.match(wanted):
            raise InvalidInput(
                f"{wanted!r} is no slug", hint="use lower-case letters, digits and dashes: --slug my-run"
            )
        return self._layout_for(wanted, target, options), target

    def _names_a_run(self, target: str) -> bool:
        try:
            self.find(target)
        except (UnknownRun, OSError):  # OSError: a sentence can be too long for a file name
            return False
        return True

    def _layout_for(self, wanted: str, request: str, options: RunOptions) -> RunLayout:
        """The run of this sentence, whatever its slug, or a free slug for a new one."""
        if not options.new and not options.slug:
            same = [layout for layout in self._layouts() if _request_or_damaged(layout) == request]
            if same:
                return max(same, key=_last_change)
        for slug in _numbered(wanted):
            layout = RunLayout((self._runs_dir / slug).absolute())
            if not layout.root.exists() or not any(layout.root.iterdir()):
                return layout
            if not options.new and _request(layout) in {request, ""}:
                return layout
            if options.slug and not options.new:
                raise InvalidInput(
                    f"run {slug} already exists, for: {_request(layout)}",
                    hint=f"go on with it: ml-intern run {slug} · or take another --slug",
                )
        raise AssertionError("there is always a next number")

    def _apply(self, layout: RunLayout, options: RunOptions) -> None:
        """Write options into the documents of an existing run, as the user would by hand."""
        has_budget = layout.document(names.BUDGET).is_file()
        if has_budget:
            caps: dict[str, object] = {
                "compute_cap": None if options.time_budget_s is None else options.time_budget_s / 3600,
                "token_budget": options.token_budget,
                "max_paths": options.max_paths,
                "max_retries_per_path": options.max_retries,
            }
            _edit(layout, names.BUDGET, caps)
        if layout.document(names.TASK).is_file():
            wishes: dict[str, object] = {
                "dataset": options.dataset,
                "dataset_column": options.dataset_column,
                "params": options.params,
                "seq_len": options.seq_len,
                "seed": options.seed,
                "time_budget_s": None if has_budget else options.time_budget_s,
                "publish": None if options.publish is None else PublishTarget(options.publish),
                "mode": RunMode.HEADLESS if options.headless else RunMode.INTERACTIVE,
            }
            _edit(layout, names.TASK, wishes)

    @contextmanager
    def _pipeline(self, layout: RunLayout, request: str, options: RunOptions) -> Iterator[Pipeline]:
        from ml_intern_cli.brains.choose import choose_brain
        from ml_intern_cli.brains.protocol import Overrides
        from ml_intern_cli.executors.process import LocalExecutor
        from ml_intern_cli.notify import Notifier
        from ml_intern_cli.runs.compute import BudgetedCompute
        from ml_intern_cli.runs.pipeline import Pipeline
        from ml_intern_cli.runs.receipts import StageMemory
        from ml_intern_cli.stages.base import Caps, StageContext

        notifier = Notifier(self._settings.notify)
        overrides = Overrides(
            dataset=options.dataset,
            dataset_column=options.dataset_column,
            params=options.params,
            seq_len=options.seq_len,
            time_budget_s=options.time_budget_s,
            seed=options.seed,
            publish=None if options.publish is None else PublishTarget(options.publish),
            mode=RunMode.HEADLESS if options.headless else RunMode.INTERACTIVE,
        )
        context = StageContext(
            layout=layout,
            path_id=None,
            request=request,
            overrides=overrides,
            caps=Caps(
                max_paths=options.max_paths,
                max_retries=options.max_retries,
                token_budget=options.token_budget,
            ),
            brain=choose_brain(options.brain),
            compute=BudgetedCompute(layout, LocalExecutor(layout.receipts / "child.json")),
            memory=StageMemory(layout),
            hub=self._settings.hub,
            ask=None if options.headless or options.yes else self._ask,
            report=self._reporter.progress,
            now=lambda: datetime.now(UTC),
            cwd=Path.cwd(),
        )
        yield Pipeline(context=context, reporter=self._reporter, notify=notifier.send)

    # Looking at a run

    def _status(self, layout: RunLayout) -> RunStatus:
        state = RunState(layout)
        budget = _optional(layout, Budget, names.BUDGET)
        blocker = _optional(layout, Blocker, names.BLOCKER)
        return RunStatus(
            slug=layout.slug,
            run_dir=layout.root,
            request=_request(layout),
            stages=state.stages,
            max_paths=budget.max_paths if budget else None,
            paths_launched=budget.paths_launched if budget else 0,
            max_retries=budget.max_retries_per_path if budget else None,
            retries_used=budget.retries_used if budget else 0,
            budget_cap_min=round(budget.compute_cap * 60, 2) if budget else None,
            budget_used_min=budget.gpu_min_used if budget else 0.0,
            blocker=blocker,
            next=_next_commands(layout, state, blocker),
        )

    def _outcome(self, layout: RunLayout, end: End, *, seconds: float) -> RunOutcome:
        from ml_intern_cli.documents.published import Published
        from ml_intern_cli.documents.results import Results
        from ml_intern_cli.runs.pipeline import End

        status = self._status(layout)
        results = _optional(layout, Results, names.RESULTS)
        published = _optional(layout, Published, names.PUBLISHED)
        complete = end is End.COMPLETE
        passed = results is not None and results.winner is not None
        if end is End.BLOCKED:
            exit_code = Blocked.exit_code
        elif end is End.FAILED or (complete and not passed):
            exit_code = NoPathPassed.exit_code
        else:
            exit_code = 0
        winner = (
            next((row for row in results.rows if row.path_id == results.winner), None) if results else None
        )
        return RunOutcome(
            slug=layout.slug,
            run_dir=layout.root,
            exit_code=exit_code,
            done=complete and passed,
            stages=status.stages,
            blocker=status.blocker,
            winner=results.winner if results else None,
            eval_loss=winner.final_loss if winner else None,
            published=published.location if published else None,
            seconds=seconds,
            budget_used_min=status.budget_used_min,
            budget_cap_min=status.budget_cap_min,
            retries_used=status.retries_used,
            paths_launched=status.paths_launched,
            max_paths=status.max_paths,
            next=status.next,
        )

    def _layouts(self) -> Iterator[RunLayout]:
        try:
            folders = sorted(self._runs_dir.iterdir()) if self._runs_dir.is_dir() else []
        except OSError as error:
            raise storage_failed(error, self._runs_dir) from error
        yield from (RunLayout(folder) for folder in folders if _is_run(folder))

    def _listings(self) -> Iterator[RunListing]:
        for layout in self._layouts():
            updated_at = datetime.fromtimestamp(_last_change(layout), UTC)
            try:
                status = self._status(layout)
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


def slug_of(request: str) -> str:
    """``Implement DeepSeek-V3 at 1M`` → ``implement-deepseek-v3-at-1m``."""
    words = re.sub(r"[^a-z0-9.]+", "-", request.lower()).strip("-.")
    return words[:_LONGEST_SLUG].rstrip("-.") or "run"


def _is_run(folder: Path) -> bool:
    """A run has a TASK.md, or a BLOCKER.md that says why it has none."""
    return any((folder / name).is_file() for name in (names.TASK, names.BLOCKER))


def _looks_like_slug(target: str) -> bool:
    return " " not in target and "-" in target and _SLUG.match(target) is not None


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    number = 2
    while True:
        yield f"{slug}-{number}"
        number += 1


def _request(layout: RunLayout) -> str:
    """The sentence of a run; empty when it blocked before it could be restated."""
    task = _optional(layout, Task, names.TASK)
    return task.request if task else ""


def _request_or_damaged(layout: RunLayout) -> str:
    try:
        return _request(layout)
    except InvalidDocument:
        return "(TASK.md does not parse)"


def _optional(layout: RunLayout, kind: type[D], name: str) -> D | None:
    if not layout.document(name).is_file():
        return None
    document = load(layout.document(name), source=name)
    return document if isinstance(document, kind) else None


def _winner(layout: RunLayout) -> tuple[str | None, float | None]:
    from ml_intern_cli.documents.results import Results

    results = _optional(layout, Results, names.RESULTS)
    row = next((row for row in results.rows if row.path_id == results.winner), None) if results else None
    return (row.path_id, row.final_loss) if row else (None, None)


def _edit(layout: RunLayout, name: str, changes: dict[str, object]) -> None:
    document = load(layout.document(name), source=name)
    given = {key: value for key, value in changes.items() if value is not None}
    edited = type(document).model_validate({**document.model_dump(), **given})
    if edited != document:
        write_atomic(layout.document(name), render(edited))


def _remove_empty(layout: RunLayout) -> None:
    import shutil

    shutil.rmtree(layout.root, ignore_errors=True)


def _last_change(layout: RunLayout) -> float:
    return max(path.stat().st_mtime for path in (layout.root, *layout.root.glob("*.md")))


def _overall(status: RunStatus) -> str:
    waiting = next((one for one in status.stages if not one.is_settled), None)
    if waiting is None:
        passed = any(one.stage == "verify" and one.state is StageState.DONE for one in status.stages)
        return "done" if passed else "no path passed"
    label = waiting.stage + (f" {waiting.path_id}" if waiting.path_id else "")
    return f"{waiting.state} at {label}"


def _next_commands(layout: RunLayout, state: RunState, blocker: Blocker | None) -> tuple[str, ...]:
    waiting = state.next()
    if waiting is None:
        return (f"ml-intern show {layout.slug}",)
    if waiting.state is StageState.BLOCKED and blocker is not None:
        return blocker.ways_on
    return (f"ml-intern run {layout.slug}",)
