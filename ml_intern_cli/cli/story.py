"""`ml-intern show`: the story of one run, from whatever documents it has by now."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ml_intern_cli.cli.charts import Series, curve
from ml_intern_cli.cli.reporter import shorten_home
from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.experiments import Experiment, Experiments
from ml_intern_cli.documents.model import Model, Verdict
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.published import Published
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.errors import InvalidDocument
from ml_intern_cli.quantities import format_count, format_duration, format_params

if TYPE_CHECKING:
    from ml_intern_cli.documents.layout import RunLayout

D = TypeVar("D", bound=Model)

_INDENT = 12
_MOST_WIDTH = 110
_SAMPLE_CHARACTERS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What metrics.jsonl holds: (step, nats per token)."""

    train: tuple[tuple[int, float], ...] = ()
    evals: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStory:
    """One candidate solution: what is planned, what the judge found, how it learnt."""

    id: str
    approach: str
    losses: Losses
    smoke: Smoke | None
    verify: Verify | None
    postmortem: Postmortem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One run. A document that is not there yet is ``None``; one that does not parse is named too."""

    slug: str
    run_dir: Path
    task: Task | None
    budget: Budget | None
    plan: Plan | None
    ledger: tuple[Experiment, ...]
    paths: tuple[PathStory, ...]
    results: Results | None
    published: Published | None
    blocker: Blocker | None
    unreadable: tuple[str, ...]


def read_story(layout: RunLayout) -> Story:
    """Read every document that is there. None of them is needed."""
    documents = _Documents(layout)
    plan = documents.read(Plan, names.PLAN)
    ledger = documents.read(Experiments, names.EXPERIMENTS)
    return Story(
        slug=layout.slug,
        run_dir=layout.root,
        task=documents.read(Task, names.TASK),
        budget=documents.read(Budget, names.BUDGET),
        plan=plan,
        ledger=ledger.rows if ledger else (),
        paths=tuple(_path_story(documents, one.id, one.approach) for one in plan.paths) if plan else (),
        results=documents.read(Results, names.RESULTS),
        published=documents.read(Published, names.PUBLISHED),
        blocker=documents.read(Blocker, names.BLOCKER),
        unreadable=tuple(documents.problems),
    )


def story_lines(story: Story, terminal: Terminal) -> Iterator[str]:
    """The story in the order it happened."""
    yield f"{terminal.style(story.slug, 'bold')} · {shorten_home(story.run_dir)}"
    if story.task:
        yield from _task_lines(story.task, terminal)
    if story.plan:
        yield from _plan_lines(story.plan, terminal)
    if story.ledger:
        yield ""
        yield from _ledger_lines(story, terminal)
    for path in story.paths:
        yield from _path_lines(path, terminal)
    yield from _ending_lines(story, terminal)


@dataclass
class _Documents:
    """Reads documents, and collects why some could not be read."""

    layout: RunLayout
    problems: list[str] = field(default_factory=list)

    def read(self, kind: type[D], name: str) -> D | None:
        from ml_intern_cli.documents.registry import load

        if not self.layout.document(name).is_file():
            return None
        try:
            document = load(self.layout.document(name), source=name)
        except InvalidDocument as error:
            self.problems.extend(str(problem) for problem in error.problems)
            return None
        return document if isinstance(document, kind) else None


def _path_story(documents: _Documents, path_id: str, approach: str) -> PathStory:
    folder = names.path_folder(path_id)
    return PathStory(
        id=path_id,
        approach=approach,
        losses=_read_losses(documents.layout.path(path_id)),
        smoke=documents.read(Smoke, f"{folder}/{names.SMOKE}"),
        verify=documents.read(Verify, f"{folder}/{names.VERIFY}"),
        postmortem=documents.read(Postmortem, f"{folder}/{names.POSTMORTEM}"),
    )


def _read_losses(folder: Path) -> Losses:
    train, evals = [], []
    for row in leavings.read_rows(folder, names.METRICS):
        step = row.get("step")
        if not isinstance(step, int):
            continue
        if isinstance(loss := row.get("loss"), float):
            train.append((step, loss))
        if isinstance(loss := row.get("eval_loss"), float):
            evals.append((step, loss))
    return Losses(train=tuple(train), evals=tuple(evals))


def _task_lines(task: Task, terminal: Terminal) -> Iterator[str]:
    yield ""
    yield from _entry("task", task.restatement, terminal)
    for assumption in task.assumptions:
        yield from _entry("", f"assumed: {assumption.name} = {assumption.value} ({assumption.why})", terminal)


def _plan_lines(plan: Plan, terminal: Terminal) -> Iterator[str]:
    active = format_params(plan.active_params)
    size = f"{format_count(plan.params_planned)} parameters, {active} active per token"
    yield ""
    yield from _entry("plan", plan.summary, terminal)
    yield from _entry("", f"{plan.architecture} · {size}", terminal)
    yield from _entry("", f"{plan.dataset} · {format_params(plan.tokens_per_path)} tokens per path", terminal)
    yield from _entry("", f"success: {plan.success_criterion}", terminal)


def _ledger_lines(story: Story, terminal: Terminal) -> Iterator[str]:
    rows = aligned(
        [
            ["path", "status", "eval loss", "verify", "minutes", "approach"],
            *(
                [
                    row.path_id,
                    row.status,
                    "" if row.final_loss is None else f"{row.final_loss:.3f}",
                    row.verify or row.failure_cause or "",
                    f"{row.gpu_min:.1f}",
                    row.approach + (f" (retry of {row.retry_of})" if row.retry_of else ""),
                ]
                for row in story.ledger
            ),
        ]
    )
    yield terminal.style(rows[0], "dim")
    yield from rows[1:]


def _path_lines(path: PathStory, terminal: Terminal) -> Iterator[str]:
    if not (path.smoke or path.losses.train or path.verify or path.postmortem):
        return
    yield ""
    yield terminal.style(f"path {path.id} · {path.approach}", "bold")
    if path.smoke:
        yield from _smoke_lines(path.smoke, terminal)
    if path.losses.train:
        yield from _loss_lines(path.losses, terminal)
    if path.verify:
        yield from _verify_lines(path.verify, terminal)
    if path.postmortem:
        yield from _entry("cause", path.postmortem.root_cause, terminal)
        yield from _entry("fix", path.postmortem.fix, terminal)


def _smoke_lines(smoke: Smoke, terminal: Terminal) -> Iterator[str]:
    passed = sum(probe.verdict is Verdict.PASS for probe in smoke.probes)
    params = "" if smoke.params is None else f" · {format_count(smoke.params)} parameters"
    text = f"{passed} of {len(smoke.probes)} probes{params} · {format_duration(smoke.seconds)}"
    yield from _entry("smoke", text, terminal)
    yield from _failed_probes(smoke.probes, terminal)


def _failed_probes(probes: tuple[ProbeResult, ...], terminal: Terminal) -> Iterator[str]:
    for probe in probes:
        if probe.failed:
            mark = terminal.style(terminal.glyphs.failed, "red")
            yield f"{'':{_INDENT}}{mark} {probe.name}: {probe.measured} (allowed {probe.threshold})"


def _loss_lines(losses: Losses, terminal: Terminal) -> Iterator[str]:
    first, last = losses.train[0][1], losses.train[-1][1]
    text = f"loss {first:.3f} → {last:.3f} in {losses.train[-1][0]:,} steps"
    if losses.evals:
        text += f", eval {losses.evals[-1][1]:.3f}"
    yield from _entry("train", f"{text}  (. train, o eval; nats per token)", terminal)
    yield from (
        f"  {line}"
        for line in curve([Series(".", losses.train), Series("o", losses.evals)], width=64, height=10)
    )


def _verify_lines(verify: Verify, terminal: Terminal) -> Iterator[str]:
    passed = sum(one.verdict is Verdict.PASS for one in verify.judgements.values())
    checks = f"{passed} of {len(verify.judgements)}"
    if verify.probes:
        checks += f", {sum(not probe.failed for probe in verify.probes)} of {len(verify.probes)} probes"
    yield from _entry("verify", checks, terminal)
    glyphs = terminal.glyphs
    for name, judgement in verify.judgements.items():
        has_passed = judgement.verdict is Verdict.PASS
        mark = terminal.style(glyphs.done, "green") if has_passed else terminal.style(glyphs.failed, "red")
        yield f"{'':{_INDENT}}{mark} {name}: {judgement.reason}"
    yield from _failed_probes(verify.probes, terminal)
    if verify.samples:
        sample = verify.samples[0]
        output = " ".join(sample.output.split())
        yield from _entry("sample", f"{sample.prompt!r} … {output[:_SAMPLE_CHARACTERS]}", terminal)


def _ending_lines(story: Story, terminal: Terminal) -> Iterator[str]:
    yield ""
    if story.results:
        yield from _entry("result", story.results.summary, terminal)
        for deviation in story.results.deviations:
            yield from _entry("", f"deviation: {deviation}", terminal)
    if story.published:
        place = f"{story.published.location} · {story.published.load_test}"
        yield from _entry("published", place, terminal)
    if story.blocker:
        yield from _entry("blocked", f"{story.blocker.what}: {story.blocker.why}", terminal)
        for way in story.blocker.ways_on:
            yield from _entry("", f"go on: {way}", terminal)
    for problem in story.unreadable:
        yield from _entry("unreadable", problem, terminal)
    yield f"next: ml-intern status {story.slug}"


def _entry(label: str, text: str, terminal: Terminal) -> Iterator[str]:
    """``label`` in the margin, the text wrapped beside it."""
    width = max(min(terminal.width, _MOST_WIDTH) - _INDENT, 30)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    yield terminal.style(label.ljust(_INDENT), "dim") + lines[0]
    yield from (f"{'':{_INDENT}}{line}" for line in lines[1:])
