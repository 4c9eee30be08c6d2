"""Commands that work on a run: the whole chain, and each stage on its own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ml_intern_cli.cli import options as opt
from ml_intern_cli.cli.command import Panel, command
from ml_intern_cli.cli.session import Session
from ml_intern_cli.cli.views import next_text, outcome_lines, slug_lines, step_lines


@command(
    "run",
    panel=Panel.CHAIN,
    examples=(
        'ml-intern run "implement DeepSeek-V3 at 1M" --time-budget 5m --publish folder',
        'ml-intern run "train a 2.5M deepseek v3" --dataset data/my.txt --headless',
        'ml-intern run "a decoder with averages instead of attention at 5M" --brain anthropic --max-usd 2',
        "ml-intern run implement-deepseek-v3-at-1m --until smoke",
    ),
)
def run(
    session: Session,
    target: opt.TargetArgument,
    shaping: opt.StartingOptions,
    walls: opt.WallOptions,
    until: opt.UntilOption = None,
    parallel: opt.ParallelOption = None,
) -> int:
    """From a sentence to a verified, published model, or what is left of it.

    The same sentence again, or the run's slug, goes on from the files of the run.
    """
    run_options = shaping.to_run_options(
        is_headless=session.is_headless, until=until, parallel=parallel, walls=walls
    )
    outcome = session.runs.run(target, run_options)
    session.show(outcome, outcome_lines)
    return outcome.exit_code


@command(
    "restate",
    panel=Panel.STAGES,
    examples=('slug=$(ml-intern restate "implement DeepSeek-V3 at 1M" --quiet)',),
)
def restate(session: Session, task: opt.TaskArgument, shaping: opt.StartingOptions) -> int:
    """Create the run of a sentence and print its slug."""
    run_options = shaping.to_run_options(is_headless=session.is_headless)
    outcome = session.runs.step(task, "restate", run_options, path_id=None)
    session.show(outcome, outcome_lines if outcome.exit_code else slug_lines)
    if not session.options.quiet and not outcome.exit_code:
        session.err.line(next_text(outcome.next))
    return outcome.exit_code


@command("clarify", panel=Panel.STAGES)
def clarify(session: Session, target: opt.SlugArgument, shaping: opt.ShapingOptions) -> int:
    """Ask what matters and cannot be looked up, and fix the budget."""
    return _step(session, target, "clarify", shaping)


@command("research", panel=Panel.STAGES)
def research(session: Session, target: opt.SlugArgument, thinking: opt.ThinkingOptions) -> int:
    """Collect what is known, with URLs."""
    return _step(session, target, "research", thinking)


@command("plan", panel=Panel.STAGES)
def plan(
    session: Session, target: opt.SlugArgument, shaping: opt.ShapingOptions, walls: opt.WallOptions
) -> int:
    """Fix every number, measured on this machine where it can be."""
    return _step(session, target, "plan", shaping, walls=walls)


@command("implement", panel=Panel.STAGES)
def implement(
    session: Session,
    target: opt.SlugArgument,
    thinking: opt.ThinkingOptions,
    walls: opt.WallOptions,
    path: opt.PathOption = None,
) -> int:
    """Write the programs of each path."""
    return _step(session, target, "implement", thinking, walls=walls, path=path)


@command("smoke", panel=Panel.STAGES)
def smoke(
    session: Session,
    target: opt.SlugArgument,
    presence: opt.PresenceOptions,
    walls: opt.WallOptions,
    path: opt.PathOption = None,
) -> int:
    """Judge each path before a second of training is spent."""
    return _step(session, target, "smoke", presence, walls=walls, path=path)


@command("train", panel=Panel.STAGES)
def train(
    session: Session,
    target: opt.SlugArgument,
    presence: opt.PresenceOptions,
    walls: opt.WallOptions,
    path: opt.PathOption = None,
) -> int:
    """Train each path inside its slice of the budget, from its last checkpoint on."""
    return _step(session, target, "train", presence, walls=walls, path=path)


@command("verify", panel=Panel.STAGES)
def verify(
    session: Session,
    target: opt.SlugArgument,
    presence: opt.PresenceOptions,
    walls: opt.WallOptions,
    path: opt.PathOption = None,
) -> int:
    """Recompute six checks from the checkpoint."""
    return _step(session, target, "verify", presence, walls=walls, path=path)


@command("diagnose", panel=Panel.STAGES)
def diagnose(
    session: Session, target: opt.SlugArgument, thinking: opt.ThinkingOptions, path: opt.PathOption = None
) -> int:
    """Find out why a path failed; start its retry if the budget allows."""
    return _step(session, target, "diagnose", thinking, path=path)


@command("report", panel=Panel.STAGES)
def report(session: Session, target: opt.SlugArgument, presence: opt.PresenceOptions) -> int:
    """Compare all paths and name the winner."""
    return _step(session, target, "report", presence)


@command(
    "publish",
    panel=Panel.STAGES,
    examples=("ml-intern publish implement-deepseek-v3-at-1m --publish folder",),
)
def publish(
    session: Session,
    target: opt.SlugArgument,
    presence: opt.PresenceOptions,
    walls: opt.WallOptions,
    publish_to: opt.PublishOption = None,
    with_session: opt.SessionOption = False,  # noqa: FBT002, an option
) -> int:
    """Bundle the winner, put it where it goes, and load it from there."""
    return _step(
        session, target, "publish", presence, walls=walls, publish=publish_to, with_session=with_session
    )


def _step(
    session: Session,
    target: str,
    stage: str,
    given: opt.PresenceOptions,
    *,
    walls: opt.WallOptions | None = None,
    path: str | None = None,
    publish: str | None = None,
    with_session: bool = False,
) -> int:
    run_options = given.to_run_options(is_headless=session.is_headless, walls=walls)
    run_options = replace(run_options, with_session=with_session)
    if publish is not None:
        run_options = replace(run_options, publish=publish)
    outcome = session.runs.step(target, stage, run_options, path_id=path)
    session.show(outcome, partial(step_lines, stage=stage))
    return outcome.exit_code
