"""Probe: train.py starts, steps, goes on after a crash, stops when asked, and ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Start

_STEP_LINE = r"\.step\("
_MOST_LATE_STEPS = 2  # that a program may make after it was asked to stop


def _train_runs(bench: RehearsalBench) -> Measurement:
    record = bench.record
    problem, component = "", ""
    for start in record.starts:
        problem, component = _crash(bench, start)
        problem = problem or _unkept(bench, start)
        if problem:
            break
    seconds = sum(start.seconds for start in record.starts)
    steps = record.starts[-1].last_step
    return Measurement(
        passed=not problem,
        measured=f"{steps} steps in {len(record.starts)} starts, {seconds:.1f} s",
        allowed="crashed, stopped and ended as asked, with a checkpoint each time",
        component=component or (_kept_at(bench, start) if problem else ""),
        detail=problem,
    )


def _crash(bench: RehearsalBench, start: Start) -> tuple[str, str]:
    """Why a start did not go as it should, and where."""
    from ml_intern_cli.judge.rehearsal.recorder import CRASHED, IGNORED_TERM, NEVER_STEPPED

    planned = bench.record.config.get("steps")
    made = start.main is not None and bool(start.main.steps)
    is_done = start.last.get("status") == "done"
    said = f"start {start.number} ended with exit code {start.exit_code}: {_last_words(start.stderr)}"
    went_on = (
        "asked to stop (SIGTERM), it went on for 12 steps"
        if start.number == 2
        else f"it went on beyond its {planned} steps"
    )
    # In this order: what comes first explains what comes after.
    reasons = (
        (bool(start.problem), f"start {start.number} {start.problem}", _place(start.stderr)),
        (
            start.ended_by_recorder == NEVER_STEPPED,
            "256 forward passes with gradients and no optimizer step",
            bench.line(_STEP_LINE),
        ),
        (start.ended_by_recorder == IGNORED_TERM, went_on, bench.line("SIGTERM", "signal", "while ", "for ")),
        (start.number == 1 and start.ended_by_recorder == CRASHED, "", ""),
        (start.exit_code != 0, said, _place(start.stderr)),
        (not made and not is_done, f"start {start.number} ended without a step", ""),
        (start.number == 1, f"it ended after {start.last_step} of {planned} steps", ""),
    )
    return next(((text, place) for holds, text, place in reasons if holds), ("", ""))


def _unkept(bench: RehearsalBench, start: Start) -> str:
    """What is wrong with the checkpoint that a start left."""
    last, config, every = start.last, bench.record.config, bench.record.every
    step = last.get("step")
    if start.number == 1:
        is_due = "checkpoint_every" in config and step != every
        told = f"killed after step {2 * every - 1}: the last checkpoint is of step {step}, due every {every}"
        return told if is_due else ""
    expected = "stopped" if start.number == 2 else "done"
    asked = 2 * every + 1
    reasons = (
        (not last, f"start {start.number} left no ckpts/last.json"),
        (
            step != start.last_step,
            f"start {start.number} made {start.last_step} steps, its last checkpoint is of step {step}",
        ),
        (
            last.get("status") != expected,
            f"start {start.number}: status is {last.get('status')!r}, not {expected!r}",
        ),
        (
            start.number == 2 and start.last_step > asked + _MOST_LATE_STEPS,
            f"asked to stop after step {asked}, it stopped after step {start.last_step}",
        ),
        (
            start.number == 3 and isinstance(config.get("steps"), int) and step != config["steps"],
            f"done after step {step}; {config.get('steps')} were asked for",
        ),
    )
    return next((text for holds, text in reasons if holds), "")


def _kept_at(bench: RehearsalBench, start: Start) -> str:
    """Where a stop, a checkpoint or the end is taken care of."""
    if start.number == 2:
        return bench.line("SIGTERM", "signal")
    return (
        bench.line(r"checkpoint_every", "def save")
        if start.number == 1
        else bench.line(r"while .*steps?\b", r"for step")
    )


def _last_words(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "nothing on stderr"


def _place(stderr: str) -> str:
    """``train.py:212`` of the innermost line of the path in a traceback."""
    found = re.findall(r'File "[^"]*/([\w.]+\.py)", line (\d+)', stderr)
    own = [f"{name}:{line}" for name, line in found if name in ("train.py", "eval.py", "model.py")]
    return own[-1] if own else "train.py"


TRAIN_RUNS = Probe(
    name="train-runs",
    category=Category.TRAINING,
    meaning="train.py starts, steps, goes on after a crash, stops with a checkpoint when asked, and ends",
    threshold="crashed, stopped and ended as asked, with a checkpoint each time",
    threshold_source="the contract of a path; the rehearsal counts the optimizer's steps itself",
    usual_causes=(
        "an exception in a branch that only a resume, an evaluation or the end takes",
        "SIGTERM not handled",
        "a checkpoint written under another name than last.json says",
        "a loop that ends one step early or late",
    ),
    run=_train_runs,
)
