"""Probes of the gradients: cleared, averaged, clipped, and those of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.rehearsal.bench import Made, RehearsalBench
    from ml_intern_cli.judge.rehearsal.replay import Recomputed

_STEP_LINE = r"\.step\("


# --- zero-grad, accumulation ---------------------------------------------------------------------


def _zero_grad(bench: RehearsalBench) -> Measurement:
    stale = []
    for made in bench.made:
        backs = [back for call in made.step.calls for back in call.backwards]
        if backs and int(backs[0].get("carried", 0)):
            stale.append((made, int(backs[0]["carried"])))
    return Measurement(
        passed=not stale,
        measured=f"{len(stale)} of {len(bench.made)} steps begin with the gradients of the one before",
        allowed="none",
        component=bench.line(r"zero_grad", _STEP_LINE) if stale else "",
        detail=f"{stale[0][1]} parameters, first in {stale[0][0].where}" if stale else "",
    )


ZERO_GRAD = Probe(
    name="zero-grad",
    category=Category.TRAINING,
    meaning="the gradients are cleared between two optimizer steps",
    threshold="no gradient is left when the first backward pass of a step begins",
    threshold_source="looked at in every parameter as the backward pass begins",
    usual_causes=(
        "zero_grad() missing, or called on another optimizer",
        "zero_grad() between backward and step",
    ),
    run=_zero_grad,
)


def _accumulation(bench: RehearsalBench) -> Measurement:
    planned = bench.windows_per_step()
    problems: list[tuple[Made, str]] = []
    weights = set()
    for made in bench.made:
        calls = made.step.calls
        ranks = len(made.start.processes)
        rows = sum(call.inputs()[0].shape[0] for call in calls) * ranks
        if planned is not None and rows != planned:
            problems.append((made, f"{rows} windows make a step, {planned} planned"))
        backs = [back for call in calls for back in call.backwards]
        if len(backs) > 1 and any(not int(back.get("carried", 1)) for back in backs[1:]):
            problems.append((made, "the gradients of earlier micro-batches are cleared before the step"))
        weight = _weight(bench, made)
        if weight is not None:
            weights.add(round(weight, 3))
            if abs(weight - 1) > 0.02:
                problems.append(
                    (made, f"the losses of the {len(calls)} micro-batches add up with weight {weight:.3g}")
                )
    told = ", ".join(map(str, sorted(weights)[:3])) or "unknown size"
    made_, text = problems[0] if problems else (bench.made[0], "")
    return Measurement(
        passed=not problems,
        measured=f"{len(bench.made[0].step.calls)} micro-batches with weights of {told} in all",
        allowed="the planned windows, their losses averaged: weights of 1 in all",
        component=bench.line(r"backward\(", r"accumul") if problems else "",
        detail=f"{made_.where}: {text}" if problems else "",
    )


def _weight(bench: RehearsalBench, made: Made) -> float | None:
    """The sum of the weights with which the micro-batches' mean losses entered the gradient."""
    if bench.record.config.get("label_smoothing"):
        return None  # the gradient of the logits then says less
    total = 0.0
    for call in made.step.calls:
        if not call.backwards:
            return None
        weights = call.recovered("weights")
        targets = call.recovered("targets")
        if "seed" in call.backwards[0]:
            total += float(call.backwards[0]["seed"])
        elif weights is not None and targets is not None:
            total += float(weights[targets >= 0].double().sum())
        else:
            return None
    return total


ACCUMULATION = Probe(
    name="accumulation",
    category=Category.TRAINING,
    meaning="a step takes the planned number of windows, and averages over its micro-batches",
    threshold="micro_batch x accumulation windows; weights of 1 ± 0.02 in all",
    threshold_source="the gradient that enters each micro-batch's loss is its weight",
    usual_causes=(
        "the loss not divided by the number of micro-batches, or divided twice",
        "zero_grad() within the accumulation",
        "a step after every micro-batch",
    ),
    run=_accumulation,
)


# --- grad-clip, gradient -------------------------------------------------------------------------


def _found(made: Made) -> tuple[list[torch.Tensor], float]:
    """The gradients as the (last) optimizer found them, sampled, and their norm."""
    import torch

    update = made.step.updates[-1]
    before = update.samples("before")
    samples = update.samples("gradients")
    zeroed = [
        torch.zeros_like(b) if g is None and b is not None else g
        for g, b in zip(samples, before, strict=True)
    ]
    norm = sum(value**2 for value in update.found["norms"]) ** 0.5
    return [part for part in zeroed if part is not None], float(norm)


def _grad_clip(bench: RehearsalBench) -> Measurement:
    limit = bench.record.config.get("grad_clip")
    if not isinstance(limit, (int, float)):
        return Measurement(passed=True, measured="train_config.json has no grad_clip", allowed="-")
    wrong = []
    largest = 0.0
    for made in bench.made:
        norm = _found(made)[1]
        largest = max(largest, norm)
        if limit > 0 and norm > limit * (1 + 1e-3):
            wrong.append((made, f"the optimizer gets a gradient of norm {norm:.4g}"))
            continue
        own = bench.recomputed(made) if made in bench.fresh else None
        weight = _weight(bench, made)
        if own is None or weight is None:
            continue
        expected = own.norm * weight if limit <= 0 else min(own.norm * weight, limit)
        if norm < expected * 0.98 and not made.step.updates[-1].found["missing"]:
            wrong.append((made, f"a gradient of norm {own.norm * weight:.4g} is cut to {norm:.4g}"))
    return Measurement(
        passed=not wrong,
        measured=f"norms up to {largest:.4g}",
        allowed=f"clipped to {limit:g} and no further" if limit > 0 else "not clipped",
        component=bench.line("clip_grad", r"backward\(") if wrong else "",
        detail=f"{wrong[0][0].where}: {wrong[0][1]}" if wrong else "",
    )


GRAD_CLIP = Probe(
    name="grad-clip",
    category=Category.TRAINING,
    meaning="the norm of the whole mean gradient is clipped to grad_clip, and not further",
    threshold="norm ≤ grad_clip, and ≥ 0.98 of what clipping leaves",
    threshold_source="measured: fp32 norms agree to 2e-6; the rehearsal's clip is low enough to be reached",
    usual_causes=(
        "no clipping, or after the step",
        "each micro-batch or each value clipped instead of the mean",
        "another limit than train_config.json's",
    ),
    run=_grad_clip,
)


def _gradient(bench: RehearsalBench) -> Measurement:
    compared, largest = 0, 0.0
    for made in bench.fresh:
        own = bench.recomputed(made)
        backs = [back for call in made.step.calls for back in call.backwards]
        if own is None or (backs and int(backs[0].get("carried", 0))) or len(made.start.processes) > 1:
            continue  # not written down; or zero-grad's and the replicas' affair
        compared += 1
        reference = own.mean()
        found, norm = _found(made)
        scale = _fit(found, reference)
        if own.norm > 0 and (norm == 0 or scale < 0):
            is_gone = norm == 0
            return Measurement(
                passed=False,
                measured=f"a gradient of norm {norm:.2g} in {made.where}",
                allowed=f"the judge's gradient of the same batch, of norm {own.norm:.2g}",
                component=bench.line("zero_grad" if is_gone else "clip_grad", r"backward\("),
                detail="no gradient is left when the optimizer steps"
                if is_gone
                else "the gradient that reaches the optimizer points the other way: the loss is maximised",
            )
        difference = _distance(found, reference, scale)
        largest = max(largest, difference)
        if difference > 10 * bench.tolerance(made):
            shares = _shares(made, found, reference, scale)
            share, name = max(shares)
            off = [entry for entry in shares if entry[0] > 10 * bench.tolerance(made)]
            is_everywhere = len(off) > len(shares) // 2
            return Measurement(
                passed=False,
                measured=f"{difference:.2g} of its norm away in {made.where}",
                allowed=f"≤ {10 * bench.tolerance(made):.2g} from the judge's gradient of the same batch",
                component=bench.line("clip_grad", r"backward\(") + ("" if is_everywhere else f", {name}"),
                detail=f"{len(off)} of {len(shares)} parameters; {name} by {share:.2g} of its norm"
                f"{_only_one(own, found)} (step at {made.step.updates[-1].line})",
            )
    if not compared:
        return Measurement(passed=True, measured="not compared: no state was written down", allowed="-")
    return Measurement(
        passed=True,
        measured=f"within {largest:.1g} in {compared} steps",
        allowed="the judge's gradient of the same batch, up to its length",
    )


def _flat(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([part.double().reshape(-1) for part in parts])


def _fit(found: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    a, b = _flat(found), _flat(reference)
    return float((a @ b) / (b @ b).clamp_min(1e-30))


def _distance(found: list[torch.Tensor], reference: list[torch.Tensor], scale: float) -> float:
    a, b = _flat(found), _flat(reference) * scale
    return float((a - b).norm() / a.norm().clamp_min(1e-30))


def _shares(
    made: Made, found: list[torch.Tensor], reference: list[torch.Tensor], scale: float
) -> list[tuple[float, str]]:
    """How much each parameter's gradient differs, as a share of its norm."""
    return [
        (
            float(
                (a.double() - scale * b.double()).norm() / max(1e-12, abs(scale) * float(b.double().norm()))
            ),
            name,
        )
        for a, b, name in zip(found, reference, made.process.parameter_names, strict=True)
        if float(a.abs().max()) > 0 or float(b.abs().max()) > 0
    ]


def _only_one(own: Recomputed, found: list[torch.Tensor]) -> str:
    """Says so when the gradient is that of a single micro-batch."""
    for number, parts in enumerate(own.gradients, start=1):
        reference = list(parts)
        if len(own.gradients) > 1 and _distance(found, reference, _fit(found, reference)) < 1e-3:
            return f"; it is that of micro-batch {number} alone"
    return ""


GRADIENT = Probe(
    name="gradient",
    category=Category.TRAINING,
    meaning="the gradient that reaches the optimizer is that of the loss on the step's own batch",
    threshold="≤ 1 % of its norm from the judge's own (bf16: 20 %), up to the factor of clipping",
    threshold_source="measured: fp32 gradients of one batch are 3e-8 apart; bf16 rounds each number by 0.4 %",
    usual_causes=(
        "gradients cleared, changed, dropped or kept between backward and step",
        "only one of the micro-batches counted",
        "values clipped one by one",
        "part of the model detached in train.py",
    ),
    run=_gradient,
)
