"""How results of runs read on a terminal: the end of a run, its status, the list of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ml_intern_cli.cli.reporter import shorten_home
from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.quantities import format_count, format_duration

if TYPE_CHECKING:
    from ml_intern_cli.documents.budget import ModelUse
    from ml_intern_cli.runs.index import RunListing, RunStatus
    from ml_intern_cli.runs.service import RunOutcome
    from ml_intern_cli.runs.state import StageStatus

_COLORS = {"done": "green", "failed": "red", "stale": "yellow", "started": "yellow", "blocked": "yellow"}


def outcome_lines(outcome: RunOutcome, terminal: Terminal) -> Iterator[str]:
    """How a command on a run ended, and the next one."""
    took = format_duration(outcome.seconds)
    yield ""
    yield f"{_ending(outcome, terminal)} in {took} · budget {budget_text(outcome)}"
    if outcome.blocker is not None and outcome.exit_code == 3:
        yield f"why: {outcome.blocker.why}"
    if outcome.winner is not None and outcome.done:
        loss = "" if outcome.eval_loss is None else f" · eval loss {outcome.eval_loss:.3f} nats per token"
        place = "" if outcome.published is None else f" · {outcome.published}"
        yield f"winner: {outcome.winner}{loss}{place}"
    yield next_text(outcome.next)


def step_lines(outcome: RunOutcome, terminal: Terminal, *, stage: str) -> Iterator[str]:
    """How one stage ended, for each path it worked on, and the next command."""
    if outcome.exit_code:
        yield from outcome_lines(outcome, terminal)
        return
    yield from _stage_lines([one for one in outcome.stages if one.stage == stage], terminal)
    yield next_text(outcome.next)


def slug_lines(outcome: RunOutcome, terminal: Terminal) -> Iterator[str]:
    """The slug alone, for scripts."""
    del terminal
    yield outcome.slug


def status_lines(status: RunStatus, terminal: Terminal) -> Iterator[str]:
    """Each stage with its state and why; the budget; the next command."""
    yield f"{terminal.style(status.slug, 'bold')} · {shorten_home(status.run_dir)}"
    yield status.request
    yield ""
    shown = [one for one in status.stages if not (one.stage == "diagnose" and one.state == "skipped")]
    yield from _stage_lines(shown, terminal)
    yield ""
    yield f"budget {budget_text(status)}"
    yield from model_lines(status.model_use)
    if status.blocker is not None:
        yield f"blocked at {status.blocker.stage}: {status.blocker.what}: {status.blocker.why}"
    yield next_text(status.next)


def list_lines(listings: tuple[RunListing, ...], terminal: Terminal) -> Iterator[str]:
    """One line per run, the latest first."""
    if not listings:
        yield 'no runs yet; start one: ml-intern run "implement DeepSeek-V3 at 1M"'
        return
    header = ["run", "state", "winner", "eval loss", "updated", "task"]
    rows = aligned(
        [
            header,
            *(
                [
                    one.slug,
                    one.state,
                    one.winner or "",
                    "" if one.eval_loss is None else f"{one.eval_loss:.3f}",
                    f"{one.updated_at.astimezone():%Y-%m-%d %H:%M}",
                    one.request,
                ]
                for one in listings
            ),
        ]
    )
    yield terminal.style(rows[0], "dim")
    yield from rows[1:]


def stage_name(stage: StageStatus) -> str:
    """``train a``."""
    return stage.stage if stage.path_id is None else f"{stage.stage} {stage.path_id}"


def budget_text(of: RunOutcome | RunStatus) -> str:
    """``2 of 2 paths, 0 retries, 4.7 of 5 min``, and ``, $0.12 of $5`` where a language model was asked."""
    paths = f"{of.paths_launched} of {of.max_paths} paths" if of.max_paths else f"{of.paths_launched} paths"
    retries = "1 retry" if of.retries_used == 1 else f"{of.retries_used} retries"
    cap = "" if of.budget_cap_min is None else f" of {of.budget_cap_min:g}"
    usd_cap = "" if of.max_usd is None else f" of ${of.max_usd:g}"
    usd = f", ${of.usd_used:.2f}{usd_cap}" if of.model_use else ""
    return f"{paths}, {retries}, {round(of.budget_used_min, 1):g}{cap} min{usd}"


def model_lines(uses: tuple[ModelUse, ...]) -> Iterator[str]:
    """What language models did, a line for each stage."""
    yield from aligned(
        [
            f" {use.stage}",
            f"{use.calls} call{'s' * (use.calls != 1)}",
            f"{format_count(use.tokens_in)} tokens in",
            f"{format_count(use.tokens_out)} out",
            f"${use.usd:.4f}",
        ]
        for use in uses
    )


def next_text(commands: tuple[str, ...]) -> str:
    """``next: …``, each command one way to go on."""
    return f"next: {' · '.join(commands)}"


def _ending(outcome: RunOutcome, terminal: Terminal) -> str:
    if outcome.exit_code == 4:
        return terminal.style("NO PATH PASSED", "bold", "red")
    if outcome.exit_code == 3:
        what = f" at {outcome.blocker.stage}: {outcome.blocker.what}" if outcome.blocker else ""
        return terminal.style("BLOCKED", "bold", "yellow") + what
    if outcome.done:
        return terminal.style("DONE", "bold", "green")
    done = [stage for stage in outcome.stages if stage.state == "done"]
    return f"STOPPED after {stage_name(done[-1])}" if done else "STOPPED"


def _stage_lines(stages: Sequence[StageStatus], terminal: Terminal) -> Iterator[str]:
    rows = aligned(
        [_mark(stage, terminal), stage_name(stage), stage.state, stage.reason or stage.summary]
        for stage in stages
    )
    for stage, row in zip(stages, rows, strict=True):
        color = _COLORS.get(stage.state, "dim")
        yield f" {terminal.style(row[:1], color)}{row[1:]}"


def _mark(stage: StageStatus, terminal: Terminal) -> str:
    glyphs = terminal.glyphs
    marks = {"done": glyphs.done, "failed": glyphs.failed, "todo": glyphs.todo, "skipped": glyphs.todo}
    return marks.get(stage.state, glyphs.stopped)
