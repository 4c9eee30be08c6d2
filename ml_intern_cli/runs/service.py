"""What the command line does to a run: open it or make it, and go on with it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.model import PublishTarget, RunMode
from ml_intern_cli.documents.registry import load
from ml_intern_cli.errors import (
    Blocked,
    InvalidInput,
    MlInternError,
    NoPathPassed,
    UnknownRun,
)
from ml_intern_cli.runs.brains import Surroundings
from ml_intern_cli.runs.index import RunIndex, load_optional, request_of
from ml_intern_cli.runs.options import RunOptions
from ml_intern_cli.runs.outputs import rewrite
from ml_intern_cli.runs.receipts import StageMemory
from ml_intern_cli.runs.reporter import Reporter, SharedReporter
from ml_intern_cli.runs.state import StageStatus

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Question
    from ml_intern_cli.documents.blocker import Blocker
    from ml_intern_cli.documents.budget import ModelUse
    from ml_intern_cli.executors.sandbox import SandboxSettings
    from ml_intern_cli.notify import NotifySettings
    from ml_intern_cli.runs.crew import Foreground
    from ml_intern_cli.runs.pipeline import End, Pipeline
    from ml_intern_cli.stages.base import Caps

_SLUG = re.compile(r"^(?=.{1,60}$)[a-z0-9](?:[._-]?[a-z0-9])*$")  # the Hub takes no -- and no ..
_LONGEST_SLUG = 60


class Settings(Surroundings, Protocol):
    """What of the user's surroundings a run needs, its brain included."""

    @property
    def notify(self) -> NotifySettings: ...  # noqa: D102
    @property
    def sandbox(self) -> SandboxSettings: ...  # noqa: D102


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
    usd_used: float
    max_usd: float | None
    model_use: tuple[ModelUse, ...]
    retries_used: int
    paths_launched: int
    max_paths: int | None
    next: tuple[str, ...]


class RunService:
    """Opens runs and works on them.

    Args:
        index: All runs there are.
        settings: Accounts and addresses.
        reporter: Who is told what happens.
        ask: Puts questions to the user; ``None`` when nobody is at the terminal.
    """

    def __init__(
        self,
        *,
        index: RunIndex,
        settings: Settings,
        reporter: Reporter,
        ask: Callable[[tuple[Question, ...]], dict[str, str]] | None,
    ) -> None:
        self._index = index
        self._settings = settings
        self._reporter = reporter
        self._ask = ask

    def run(self, target: str, options: RunOptions) -> RunOutcome:
        """Go from a sentence, or from what a run's files say, to the end.

        Raises:
            MlInternError: bad input, a held lock, a full disk.
        """
        return self._work(target, options, lambda pipeline: pipeline.advance(until=options.until))

    def step(self, target: str, stage: str, options: RunOptions, *, path_id: str | None) -> RunOutcome:
        """Run one stage. Only restate takes a sentence."""
        if stage != "restate":
            target = str(self._index.find(target).root)
        return self._work(target, options, lambda pipeline: pipeline.redo(stage, path_id))

    # Opening a run

    def _work(self, target: str, options: RunOptions, act: Callable[[Pipeline], End]) -> RunOutcome:
        from ml_intern_cli.executors.children import end_orphan
        from ml_intern_cli.runs.lock import locked

        began = time.monotonic()
        layout, request = self._open(target, options)
        fresh = not layout.root.exists()
        with locked(layout, command=f"ml-intern {layout.slug}"):
            try:
                for child in layout.receipts.glob("child*.json"):
                    end_orphan(child)
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
        if any("\ud800" <= character <= "\udfff" for character in target):
            raise InvalidInput(
                "the task is not UTF-8 text", hint="set the terminal to UTF-8 and type it again"
            )
        if not options.new and self._names_a_run(target):
            layout = self._index.find(target)
            return layout, request_of(layout)
        if _looks_like_slug(target):
            self._index.find(target)  # raises, with the nearest slugs
        wanted = options.slug or slug_of(target)
        if not _SLUG.match(wanted):
            raise InvalidInput(
                f"{wanted!r} is no slug",
                hint="use lower-case letters, digits and single dashes, 60 at most: --slug my-run",
            )
        return self._layout_for(wanted, target, options), target

    def _names_a_run(self, target: str) -> bool:
        try:
            self._index.find(target)
        except (UnknownRun, OSError):  # OSError: a sentence can be too long for a file name
            return False
        return True

    def _layout_for(self, wanted: str, request: str, options: RunOptions) -> RunLayout:
        """The run of this sentence, whatever its slug, or a free slug for a new one."""
        same = None if options.new or options.slug else self._index.latest_of(request)
        if same is not None:
            return same
        for slug in _numbered(wanted):
            layout = RunLayout((self._index.runs_dir / slug).resolve())
            if not layout.root.exists():
                return layout
            is_folder = layout.root.is_dir()
            said = request_of(layout) if is_folder else ""
            # Before its sentence is written down a run has only its lock, or nothing yet.
            begun = is_folder and (layout.lock.exists() or not any(layout.root.iterdir()))
            if not options.new and (said == request if said else begun):
                return layout
            if options.slug and not options.new:
                other = "take another --slug"
                if said:
                    what, hint = (
                        f"already exists, for: {said}",
                        f"go on with it: ml-intern run {slug} · or {other}",
                    )
                else:
                    what, hint = f"is taken: {layout.root} is there, and no run", other
                raise InvalidInput(f"run {slug} {what}", hint=hint)
        raise AssertionError("there is always a next number")

    def _apply(self, layout: RunLayout, options: RunOptions) -> None:
        """Write options into the documents of an existing run, as the user would by hand."""
        from ml_intern_cli.data.sources import pinned
        from ml_intern_cli.runs.seats import remember_most

        if options.parallel is not None:
            remember_most(layout, options.parallel)
        has_budget = layout.document(names.BUDGET).is_file()
        if has_budget:
            caps: dict[str, object] = {
                "compute_cap": None if options.time_budget_s is None else options.time_budget_s / 3600,
                "token_budget": options.token_budget,
                "max_paths": options.max_paths,
                "max_retries_per_path": options.max_retries,
                "max_usd": options.max_usd,
            }
            _edit(layout, names.BUDGET, caps)
        if layout.document(names.TASK).is_file():
            wishes: dict[str, object] = {
                "dataset": None if options.dataset is None else pinned(options.dataset, cwd=Path.cwd()),
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
        from ml_intern_cli.brains.protocol import Overrides
        from ml_intern_cli.executors.sandbox import make_executor
        from ml_intern_cli.notify import Notifier
        from ml_intern_cli.runs.brains import brain_of
        from ml_intern_cli.runs.compute import BudgetedCompute
        from ml_intern_cli.runs.consent import Consent
        from ml_intern_cli.runs.crew import Foreground
        from ml_intern_cli.runs.pipeline import Pipeline
        from ml_intern_cli.runs.seats import devices, free_bytes, most_at_once, seats_for
        from ml_intern_cli.stages.base import StageContext

        foreground = Foreground()
        reporter = SharedReporter(self._reporter, check=foreground.check)
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
        ask = self._asker(options, reporter, foreground)
        sandbox = self._settings.sandbox.with_choice(wall=options.wall, docker_image=options.docker_image)
        consent = Consent(
            layout, ask=ask, given=options.allow_unsandboxed, standing=sandbox.allow_unsandboxed
        )
        compute = BudgetedCompute(layout, make_executor(sandbox), consent=consent, interrupt=foreground.check)
        with ExitStack() as stack:
            caps = _caps(layout, options)
            brain = brain_of(
                layout,
                request,
                options,
                self._settings,
                reporter=reporter,
                sleep=foreground.sleep,
                caps=caps,
                ask=ask,
                until_the_end=stack,
            )
            context = StageContext(
                layout=layout,
                path_id=None,
                request=request,
                overrides=overrides,
                caps=caps,
                brain=brain,
                compute=compute,
                memory=StageMemory.of(layout, None),
                hub=self._settings.hub,
                secrets=self._settings.secrets,
                ask=ask,
                report=reporter.progress,
                now=lambda: datetime.now(UTC),
                cwd=Path.cwd(),
                with_session=options.with_session,
            )
            yield Pipeline(
                context=context,
                compute=compute,
                foreground=foreground,
                seats=lambda params: seats_for(
                    params, most=most_at_once(layout), devices=devices(), free_bytes=free_bytes()
                ),
                reporter=reporter,
                notify=notifier.send,
            )

    def _asker(
        self, options: RunOptions, reporter: SharedReporter, foreground: Foreground
    ) -> Callable[[tuple[Question, ...]], dict[str, str]] | None:
        ask = self._ask
        if ask is None or options.headless or options.yes:
            return None

        def in_silence(questions: tuple[Question, ...]) -> dict[str, str]:
            with reporter.silent():
                return ask(questions)

        return lambda questions: foreground.do(lambda: in_silence(questions))

    def _outcome(self, layout: RunLayout, end: End, *, seconds: float) -> RunOutcome:
        from ml_intern_cli.documents.published import Published
        from ml_intern_cli.documents.results import Results
        from ml_intern_cli.runs.pipeline import End

        status = self._index.status_of(layout)
        results = load_optional(layout, Results, names.RESULTS)
        published = load_optional(layout, Published, names.PUBLISHED)
        complete = end is End.COMPLETE
        verified = {one.path_id for one in status.stages if one.stage == "verify" and one.state == "done"}
        passed = results is not None and results.winner in verified
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
            usd_used=status.usd_used,
            max_usd=status.max_usd,
            model_use=status.model_use,
            retries_used=status.retries_used,
            paths_launched=status.paths_launched,
            max_paths=status.max_paths,
            next=status.next,
        )


def slug_of(request: str) -> str:
    """``Implement DeepSeek-V3 at 1M`` → ``implement-deepseek-v3-at-1m``."""
    words = re.sub(r"[^a-z0-9.]+|[-.]{2,}", "-", request.lower())
    words = re.sub(r"[-.]{2,}", "-", words).strip("-.")
    if len(words) > _LONGEST_SLUG:
        words = words[: _LONGEST_SLUG + 1].rpartition("-")[0] or words[:_LONGEST_SLUG]
    return words.strip("-.") or "run"


def _looks_like_slug(target: str) -> bool:
    return " " not in target and "-" in target and _SLUG.match(target) is not None


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    number = 2
    while True:
        yield f"{slug}-{number}"
        number += 1


def _caps(layout: RunLayout, options: RunOptions) -> Caps:
    """The caps that options give, now or before BUDGET.md was there to hold them."""
    from ml_intern_cli.stages.base import Caps

    given = {
        "max_paths": options.max_paths,
        "max_retries": options.max_retries,
        "token_budget": options.token_budget,
        "max_usd": options.max_usd,
    }
    if layout.document(names.BUDGET).is_file():
        return Caps(
            max_paths=options.max_paths,
            max_retries=options.max_retries,
            token_budget=options.token_budget,
            max_usd=options.max_usd,
        )
    memory = StageMemory(layout, name="caps.json")
    for name, value in given.items():
        if value is not None:
            memory.remember(name, str(value))
    kept = {name: memory.recall(name) for name in given}
    whole = {name: None if value is None else int(value) for name, value in kept.items() if name != "max_usd"}
    return Caps(**whole, max_usd=None if kept["max_usd"] is None else float(kept["max_usd"]))


def _edit(layout: RunLayout, name: str, changes: dict[str, object]) -> None:
    document = load(layout.document(name), source=name)
    given = {key: value for key, value in changes.items() if value is not None}
    edited = type(document).model_validate({**document.model_dump(), **given})
    if edited != document:
        rewrite(layout, name, edited)


def _remove_empty(layout: RunLayout) -> None:
    """Take away the folder of a run that came to nothing, unless there is anything in it but our own."""
    import shutil

    ours = {layout.lock.name, layout.receipts.name, layout.scratch.name, layout.events.name}
    if {entry.name for entry in layout.root.iterdir()} <= ours | {".lock-holder.json"}:
        shutil.rmtree(layout.root, ignore_errors=True)
