"""Probes: gradients are those of the rows of the step, and clipped as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import CLIPPED
from ml_intern_cli.judge.supervised.rehearsal.bench import difference, total_norm
from ml_intern_cli.judge.supervised.rehearsal.steps import CLOSE, LOOKED_AT, named, whole_steps

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


def _fresh_gradients(bench: RehearsalBench) -> Measurement:
    steps = whole_steps(bench)
    worst, problem = 0.0, ""
    earlier: dict[str, torch.Tensor] = {}
    for number, event in enumerate(steps[:LOOKED_AT]):
        got = named(event, "grad:")
        if not got:
            problem = problem or f"step {number + 1} has no gradients"
            continue
        expected = {name: value for name, value in bench.expected_gradients(number).items() if name in got}
        away = _direction(expected, got)
        worst = max(worst, away)
        if away > CLOSE and not problem:
            kept = {name: value + earlier[name] for name, value in expected.items() if name in earlier}
            if kept and _direction(kept, got) <= CLOSE:
                problem = f"step {number + 1}: the gradients of the step before were not cleared (zero_grad)"
            elif len(bench.whole.processes) > 1 and _direction(bench.own_gradients(0, number), got) <= CLOSE:
                problem = f"step {number + 1}: gradients are not averaged over the processes"
            else:
                worst_name = difference(_unit(expected), _unit(got))[1]
                problem = f"step {number + 1}: gradients are not those of its batch, most so {worst_name}"
        earlier = got
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g} in direction",
        allowed=f"≤ {CLOSE:g}",
        component=bench.place("forward") + (", zero_grad" if "zero_grad" in problem else "")
        if problem
        else "",
        detail=problem,
    )


def _direction(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Relative distance after both are brought to length one: clipping does not count."""
    common = {name: second[name] for name in first if name in second}
    if total_norm(first) == 0 or total_norm(common) == 0:
        return 0.0 if total_norm(first) == total_norm(common) else 1.0
    return difference(_unit(first), _unit(common))[0]


def _unit(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    size = max(total_norm(values), 1e-30)
    return {name: value / size for name, value in values.items()}


FRESH_GRADIENTS = Probe(
    name="fresh-gradients",
    category=Category.TRAINING,
    meaning="the optimizer gets the gradients of this step's batch, and nothing of the last one's",
    threshold="relative distance in direction ≤ 2e-3 from the judge's own backward pass, over 5 steps",
    threshold_source=(
        "measured: float32 backward passes agree to 1e-7; with the last step's gradients added they are 0.3 "
        "and more away"
    ),
    usual_causes=("zero_grad missing", "gradients not averaged over processes", "gradients changed by hand"),
    run=_fresh_gradients,
)


def _clipping(bench: RehearsalBench) -> Measurement:
    limit = bench.setting("grad_clip")
    worst, problem = 0.0, ""
    for number, event in enumerate(whole_steps(bench)[:LOOKED_AT]):
        got = named(event, "grad:")
        expected = {name: value for name, value in bench.expected_gradients(number).items() if name in got}
        if _direction(expected, got) > CLOSE:
            continue  # fresh-gradients says so
        before = total_norm(expected)
        due = min(before, limit) if limit > 0 else before
        measured = total_norm(got)
        away = abs(measured - due) / max(due, 1e-12)
        worst = max(worst, away)
        if away > CLOSE and not problem:
            problem = f"step {number + 1}: a gradient of {before:.3g} reaches the optimizer as {measured:.3g}"
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g}",
        allowed=f"norm clipped to {limit:g}" if limit > 0 else "not clipped",
        component=f"{bench.line(CLIPPED)}, grad_clip" if problem else "",
        detail=problem,
    )


CLIPPING = Probe(
    name="clipping",
    category=Category.TRAINING,
    meaning="the gradient reaches the optimizer in its size, clipped to grad_clip by its norm",
    threshold="norm within 0.2 %",
    threshold_source="measured: float32 norms agree to 7e-7",
    usual_causes=("clipping after the step, or not at all", "clipping by value", "a scaled loss"),
    run=_clipping,
)
