"""Commands that look and change nothing."""

from __future__ import annotations

from ml_intern_cli.cli import options as opt
from ml_intern_cli.cli.command import Panel, command
from ml_intern_cli.cli.session import Session
from ml_intern_cli.cli.views import list_lines, status_lines


@command("status", panel=Panel.RUNS, examples=("ml-intern status implement-deepseek-v3-at-1m",))
def status(session: Session, target: opt.SlugArgument) -> int:
    """Show each stage: done, stale (and why), failed, blocked; and the next command."""
    session.show(session.index.status(target), status_lines)
    return 0


@command("list", panel=Panel.RUNS)
def list_runs(session: Session) -> int:
    """List all runs, the latest first."""
    session.show(session.index.list(), list_lines, key="runs")
    return 0


@command("show", panel=Panel.RUNS, examples=("ml-intern show implement-deepseek-v3-at-1m",))
def show(session: Session, target: opt.SlugArgument) -> int:
    """Tell the story of one run: documents, curves, verdicts."""
    from ml_intern_cli.cli.story import read_story, story_lines

    session.show(read_story(session.index.find(target)), story_lines)
    return 0


@command("doctor", panel=Panel.KNOWLEDGE)
def doctor(session: Session, walls: opt.WallOptions) -> int:
    """Say what this machine has: compute, memory, disk, accounts, brains."""
    from ml_intern_cli.cli.doctor import diagnosis_lines, examine

    sandbox = session.settings.sandbox.with_choice(wall=walls.wall, docker_image=walls.docker_image)
    diagnosis = examine(session.settings, sandbox)
    session.show(diagnosis, diagnosis_lines)
    return 0 if diagnosis.is_able else 1


@command(
    "size",
    panel=Panel.KNOWLEDGE,
    examples=("ml-intern size deepseek-v3 100M", "ml-intern size deepseek-v3 671B --json"),
)
def size(
    session: Session,
    architecture: opt.ArchitectureArgument,
    params: opt.ParamsArgument,
    vocab_size: opt.VocabularyOption = None,
    seq_len: opt.SequenceOption = None,
) -> int:
    """Solve a configuration for a number of parameters, without running anything."""
    from ml_intern_cli.cli.knowledge import size_lines, solve_size

    solved = solve_size(architecture, params, vocab_size=vocab_size, seq_len=seq_len)
    session.show(solved, size_lines)
    return 0


@command("blueprints", panel=Panel.KNOWLEDGE, examples=("ml-intern blueprints deepseek-v3",))
def blueprints(session: Session, name: opt.BlueprintArgument = None) -> int:
    """Show what it knows how to build; with a name, its card."""
    from ml_intern_cli.cli.knowledge import blueprint_card, blueprint_lines, card_lines, list_blueprints

    if name is None:
        session.show(list_blueprints(), blueprint_lines, key="blueprints")
    else:
        session.show(blueprint_card(name), card_lines)
    return 0


@command("probes", panel=Panel.KNOWLEDGE, examples=("ml-intern probes causality", "ml-intern probes --json"))
def probes(session: Session, name: opt.ProbeArgument = None) -> int:
    """Show what the judge looks for; with a name, how it is measured and what usually fails it."""
    from ml_intern_cli.cli.probes import probe_lines, story_lines
    from ml_intern_cli.judge.explanations import explain, explanations

    if name is None:
        session.show(explanations(), probe_lines, key="probes")
    else:
        session.show(explain(name), story_lines)
    return 0
