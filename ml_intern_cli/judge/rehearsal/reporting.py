"""Probes of what train.py claims while it trains: the losses of its steps, its evaluations, its counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.rehearsal.rehearse import is_finite

if TYPE_CHECKING:
    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Call, Process, Start

_STEP = re.compile(r"step=(\d+) loss=(\S+)")
_RELATIVE, _ABSOLUTE = 2e-3, 6e-4  # rounding of four decimals, and summation in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: calls without gradients on windows of the corpus, between two steps."""

    start: Start
    process: Process
    step: int
    calls: tuple[Call, ...]
    first: Call  # of all calls without gradients after the step; it may hold the state


def evaluations(bench: RehearsalBench) -> list[Evaluation]:
    """All evaluations; samples, whose contexts are nowhere in the corpus, are none."""
    found = []
    for start in bench.record.starts:
        for process in start.processes:
            groups = [(start.first_step - 1, process.before)]
            groups += [(step.number, step.after) for step in process.steps]
            for step, calls in groups:
                located = tuple(call for call in calls if any(bench.evaluated_places.get(id(call), ())))
                if located:
                    found.append(
                        Evaluation(start=start, process=process, step=step, calls=located, first=calls[0])
                    )
    return found


def rows_of_metrics(start: Start) -> list[dict[str, Any]]:
    """metrics.jsonl as a start left it."""
    return [row for row in map(leavings.parse_object, _lines(start.kept, "metrics.jsonl")) if row]


def logged_losses(start: Start) -> list[tuple[int, float]]:
    """The lines of train.log as a start left them; other lines are not counted."""
    pairs = []
    for line in _lines(start.kept, "train.log"):
        match = _STEP.match(line.strip())
        if match:
            try:
                pairs.append((int(match[1]), float(match[2])))
            except ValueError:
                continue
    return pairs


def _lines(folder: Path, name: str) -> list[str]:
    try:
        return leavings.read_text(folder, name, errors="replace").splitlines()
    except OSError:
        return []


# --- logged-loss ---------------------------------------------------------------------------------


def _logged_loss(bench: RehearsalBench) -> Measurement:
    claims = {start.number: _claims(start) for start in bench.record.starts}
    compared, largest = 0, 0.0
    for made in bench.fresh:
        own = bench.recomputed(made)
        logged = claims[made.start.number].get(made.step.number)
        if own is None or made.process.rank or (made.step.number == made.start.last_step and logged is None):
            continue  # the last step of a start may have been cut off before its line
        total = sum(own.counts)
        loss = sum(x * n for x, n in zip(own.losses, own.counts, strict=True)) / max(1, total)
        allowed = _ABSOLUTE + _RELATIVE * abs(loss) * (1 if made.step.first.autocast is None else 5)
        others = len(made.start.processes) > 1
        compared += 1
        if logged is None:
            return _mislogged(bench, f"step {made.step.number} is in no log", f"{loss:.4f}", 0)
        if others:  # the line may be the mean over all processes, or that of the first
            continue
        for name, value in logged.items():
            largest = max(largest, abs(value - loss))
            if not abs(value - loss) <= allowed:
                told = f"{name} says {value:.4f} for {made.where}"
                return _mislogged(bench, told, f"{loss:.4f}, as the judge recomputes it", allowed)
    return Measurement(
        passed=True,
        measured=f"{compared} steps, |Δ| ≤ {largest:.1g}",
        allowed="the loss of that very step, recomputed",
    )


def _claims(start: Start) -> dict[int, dict[str, float]]:
    claims: dict[int, dict[str, float]] = {}
    for step, loss in logged_losses(start):
        claims.setdefault(step, {})["train.log"] = loss
    for row in rows_of_metrics(start):
        if isinstance(row.get("step"), int) and is_finite(row.get("loss")):
            claims.setdefault(row["step"], {})["metrics.jsonl"] = float(row["loss"])
    return claims


def _mislogged(bench: RehearsalBench, measured: str, allowed: str, slack: float) -> Measurement:
    return Measurement(
        passed=False,
        measured=measured,
        allowed=allowed + (f" (± {slack:.1g})" if slack else ""),
        component=bench.line(r"step=.*loss=", r"train\.log"),
        detail=f"{measured}; {allowed}",
    )


LOGGED_LOSS = Probe(
    name="logged-loss",
    category=Category.REPORTING,
    meaning="the loss that is logged for a step is that step's cross-entropy, over all its micro-batches",
    threshold="|Δ| ≤ 0.0006 + 0.2 % (bf16: 1 %) of the loss that the judge recomputes",
    threshold_source="four decimals round by 0.00005; measured: unrounded losses agree to 1e-6",
    usual_causes=(
        "a running mean or a smoothed loss logged as the step's",
        "the last micro-batch's loss, or the sum of all",
        "an invented, clamped or rescaled number",
        "an auxiliary term in what is logged",
    ),
    run=_logged_loss,
)


# --- logged-steps --------------------------------------------------------------------------------


def _logged_steps(bench: RehearsalBench) -> Measurement:
    last = bench.record.starts[-1]
    steps = [step for step, _ in logged_losses(last)]
    expected = list(range(1, last.last_step + 1))
    problem = ""
    if steps != expected:
        missing = sorted(set(expected) - set(steps))
        extra = sorted({step for step in steps if steps.count(step) > 1 or step not in expected})
        problem = "train.log "
        problem += (
            f"lacks steps {missing[:4]}"
            if missing
            else f"has steps {extra[:4]} more than once, or out of order"
        )
    rows = {
        call_rows
        for made in bench.made
        for call_rows in [sum(bench.size_of(call) for call in made.step.calls) * len(made.start.processes)]
    }
    if not problem and len(rows) == 1 and is_finite(last.last.get(bench.consumed)):
        consumed = last.last_step * rows.pop()
        if last.last[bench.consumed] != consumed:
            problem = (
                f"last.json claims {last.last[bench.consumed]} {bench.consumed}, {consumed} were consumed"
            )
    return Measurement(
        passed=not problem,
        measured=f"{len(steps)} lines for {len(expected)} steps",
        allowed="one line per step, and the tokens that were really consumed",
        component=bench.line(bench.consumed if "last.json" in problem else r"step=.*loss=", r"train\.log")
        if problem
        else "",
        detail=problem,
    )


LOGGED_STEPS = Probe(
    name="logged-steps",
    category=Category.REPORTING,
    meaning="over all its starts train.log has one line per step, and the tokens claimed were consumed",
    threshold="steps 1 to N once each; tokens = steps x windows x tokens per window",
    threshold_source="the recorder counts what reaches the model",
    usual_causes=(
        "logs not cut back on a resume",
        "steps logged that were not made",
        "tokens multiplied twice",
    ),
    run=_logged_steps,
)


# --- eval-recomputed -----------------------------------------------------------------------------


def _eval_recomputed(bench: RehearsalBench) -> Measurement:
    compared, largest = 0, 0.0
    for evaluation in evaluations(bench):
        if evaluation.process.rank:
            continue
        claim = _claim(evaluation)
        if claim is None:
            continue
        problem = _source(bench, evaluation)
        # Windows are chosen where val is opened; a number goes wrong where it is computed or written down.
        claimed_at = bench.line(r"val\w*\s*=" if problem else "eval_loss=", "eval_loss")
        if not problem and len(evaluation.start.processes) == 1:
            problem, difference = _mistaken(bench, evaluation, claim)
            largest = max(largest, difference)
            compared += 1
        if problem:
            return Measurement(
                passed=False,
                measured=f"wrong after step {evaluation.step}",
                allowed="the loss on those very windows of val, recomputed in eval mode",
                component=f"{evaluation.calls[0].line}, {claimed_at}",
                detail=f"after step {evaluation.step}: {problem}",
            )
    claimed = [
        row
        for start in bench.record.starts
        for row in rows_of_metrics(start)
        if is_finite(row.get("eval_loss"))
    ]
    if claimed and not compared and not any(len(s.processes) > 1 for s in bench.record.starts):
        return Measurement(
            passed=False,
            measured="no evaluation",
            allowed="the loss on windows of val, recomputed",
            component=bench.line("eval_loss"),
            detail=f"{len(claimed)} evaluations are claimed, the model was never called on val",
        )
    return Measurement(
        passed=True,
        measured=f"{compared} evaluations, |Δ| ≤ {largest:.1g}",
        allowed="the loss on those very windows of val, recomputed in eval mode",
    )


def _claim(evaluation: Evaluation) -> dict[str, Any] | None:
    """The row of metrics.jsonl that an evaluation ended with."""
    rows = [
        row
        for row in rows_of_metrics(evaluation.start)
        if row.get("step") == evaluation.step and is_finite(row.get("eval_loss"))
    ]
    return rows[-1] if rows else None


def _source(bench: RehearsalBench, evaluation: Evaluation) -> str:
    """Whether all windows are from val."""
    for call in evaluation.calls:
        for place in bench.evaluated_places[id(call)]:
            if place is None:
                return "a window is nowhere in the corpus"
            if place.split is not Split.VAL:
                return f"a window is from {place.split.value} (position {place.start})"
    return ""


def _mistaken(bench: RehearsalBench, evaluation: Evaluation, claim: dict[str, Any]) -> tuple[str, float]:
    """What is wrong with the claimed loss or tokens; and how far the loss is off."""
    targets = [bench.evaluated_targets(call) for call in evaluation.calls]
    # A stop that had to be prompt may evaluate again: the last windows are those of the claim.
    try:
        loss, tokens = bench.replay.evaluation(
            evaluation.process, evaluation.first, evaluation.calls, targets
        )
    except Unusable:
        return "", 0.0  # the state was not written down
    claimed_tokens = claim.get(bench.evaluated)
    if isinstance(claimed_tokens, int) and claimed_tokens != tokens:
        return f"{claimed_tokens} {bench.consumed} are claimed, {tokens} were evaluated", 0.0
    value = float(claim["eval_loss"])
    if abs(value - loss) > _ABSOLUTE + _RELATIVE * abs(loss):
        return f"{value:.4f} is claimed, the judge gets {loss:.4f} on {tokens} {bench.consumed}", abs(
            value - loss
        )
    return "", abs(value - loss)


EVAL_RECOMPUTED = Probe(
    name="eval-recomputed",
    category=Category.REPORTING,
    meaning="an evaluation is on val, on as many tokens as it claims, and its loss is right",
    threshold="every window from val; |Δ| ≤ 0.0006 + 0.2 % of the judge's loss in eval mode; tokens equal",
    threshold_source="four decimals round by 0.00005; measured: unrounded losses agree to 1e-6",
    usual_causes=(
        "dropout active in the evaluation",
        "windows of the training split, or the training loss copied",
        "a mean over batches of unequal size, or over part of the tokens",
        "labels shifted in the evaluation only",
    ),
    run=_eval_recomputed,
)
