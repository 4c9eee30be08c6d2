"""Probe: a step moves the parameters as the optimizer's rule says, and nothing else moves them."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from ml_intern_cli.judge.rehearsal.bench import Made, RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Update

_STEP_LINE = r"\.step\("
_BUILT = r"optim\.\w+\("


_ELEMENTWISE = {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "Adadelta"}
_NOT_OF_THE_RULE = {"names", "strangers", "initial_lr", "fused", "foreach", "capturable", "differentiable"}
_SANE_EPSILON = (1e-12, 1e-4)


def _update(bench: RehearsalBench) -> Measurement:
    compared = 0
    for made in bench.made:
        problem, component = _wrong_update(bench, made)
        if problem:
            return Measurement(
                passed=False,
                measured=f"another update in {made.where}",
                allowed="one step of the optimizer with the planned settings, and nothing else",
                component=component,
                detail=f"{made.where}: {problem}",
            )
        compared += 1
    return Measurement(
        passed=True,
        measured=f"{compared} updates recomputed",
        allowed="one step of the optimizer with the planned settings, and nothing else",
    )


def _wrong_update(bench: RehearsalBench, made: Made) -> tuple[str, str]:
    """What is wrong with a step's update, and where; two empty strings when nothing is."""
    for find in (_again, _unplanned, _off_the_rule, _moved_afterwards, _not_moved_afterwards):
        problem, component = find(bench, made)
        if problem:
            return problem, component
    return "", ""


def _again(bench: RehearsalBench, made: Made) -> tuple[str, str]:
    kinds = [
        (update.optimizer, tuple(tuple(group["names"]) for group in update.groups))
        for update in made.step.updates
    ]
    if len(set(kinds)) == len(kinds):
        return "", ""
    return f"{len(kinds)} optimizer steps are made on one gradient", made.step.updates[1].line or bench.line(
        _STEP_LINE
    )


def _unplanned(bench: RehearsalBench, made: Made) -> tuple[str, str]:
    planned = [bench.record.config.get("beta1"), bench.record.config.get("beta2")]
    other = _another_rule(bench, made)
    if other:
        return other, bench.line(_BUILT)
    for group in (group for update in made.step.updates for group in update.groups):
        betas = group.get("betas")
        if betas and None not in planned and list(betas) != planned:
            return f"betas are {betas}, planned {planned}", bench.line("betas", _BUILT)
        epsilon = group.get("eps")
        if isinstance(epsilon, float) and not _SANE_EPSILON[0] <= epsilon <= _SANE_EPSILON[1]:
            return f"eps is {epsilon:g}", bench.line(r"eps", _BUILT)
    return "", ""


def _another_rule(bench: RehearsalBench, made: Made) -> str:
    """What an optimizer of torch that no setting names does otherwise than AdamW, which is planned."""
    config = bench.artifact.config | bench.record.config
    said = {
        word
        for key, value in config.items()
        if "optim" in key.lower()
        for word in re.findall(r"[a-z]+", str(value).lower())  # AdamW does not name Adam
    }
    updates = [
        update
        for update in made.step.updates
        if str(update.found["module"]).startswith("torch.optim") and update.optimizer.lower() not in said
    ]
    has_betas = any("betas" in group for update in made.step.updates for group in update.groups)
    if updates and not has_betas and None not in (config.get("beta1"), config.get("beta2")):
        return f"{updates[0].optimizer} has no betas, which are planned, and no setting names it"
    for group in (group for update in updates if update.optimizer == "Adam" for group in update.groups):
        if group.get("weight_decay") and not group.get("decoupled_weight_decay"):
            return "Adam adds the decay to the gradient (AdamW does not), and no setting names it"
    return ""


def _off_the_rule(_: RehearsalBench, made: Made) -> tuple[str, str]:
    for update in made.step.updates:
        name = _disagrees(made, update)
        if name:
            return f"{name} is not where {update.optimizer} takes it", f"{update.line or 'train.py'}, {name}"
    return "", ""


def _moved_afterwards(bench: RehearsalBench, made: Made) -> tuple[str, str]:
    """A parameter that the next step does not find where the optimizer, or the model itself, left it."""
    own = _own_moves(bench, made)
    if not made.step.sums_next or own is None:
        return "", ""
    left = dict(zip(made.process.parameter_names, made.step.updates[-1].left["sums"], strict=True))
    found = dict(zip(made.process.tensor_names, made.step.sums_next, strict=False))
    names = [name for name in made.process.model["trainable"] if name in found and name not in own]
    moved = [name for name in names if left[name] != found[name]]
    line = made.step.updates[-1].line or bench.line(_STEP_LINE)
    return (f"{moved[0]} is changed after the optimizer's step", f"{line}, {moved[0]}") if moved else ("", "")


def _not_moved_afterwards(bench: RehearsalBench, made: Made) -> tuple[str, str]:
    """A tensor that the model's own update would have moved, and that the next step finds unmoved."""
    following, own = _next(made), _own_moves(bench, made)
    if following is None or not own:
        return "", ""
    found = dict(zip(made.process.tensor_names, following.step.first.event.get("sums", ()), strict=False))
    trainable = set(made.process.model["trainable"])
    stays = sorted(n for n, before in own.items() if n not in trainable and found.get(n) == before)
    line = made.step.updates[-1].line or bench.line(_STEP_LINE)
    return (f"after_optimizer_step() is not called: {stays[0]} stays", line) if stays else ("", "")


def _own_moves(bench: RehearsalBench, made: Made) -> dict[str, int] | None:
    """Tensors that after_optimizer_step() moves, by what they were before; None where it cannot be told."""
    if not callable(getattr(bench.replay.model, "after_optimizer_step", None)):
        return {}
    if not made.step.first.event.get("state") or made not in bench.fresh:
        return None
    return bench.own_moves(made)


def _next(made: Made) -> Made | None:
    steps = made.process.steps
    index = steps.index(made.step)
    return type(made)(made.start, made.process, steps[index + 1]) if index + 1 < len(steps) else None


def _disagrees(made: Made, update: Update) -> str:
    """The parameter whose samples are not where torch's optimizer of that name takes them; or empty."""
    import torch

    if not str(update.found["module"]).startswith("torch.optim") or update.optimizer not in _ELEMENTWISE:
        return ""
    names = made.process.parameter_names
    before = dict(zip(names, update.samples("before"), strict=True))
    after = dict(zip(names, update.samples("after"), strict=True))
    gradients = dict(zip(names, update.samples("gradients"), strict=True))
    moments = update.moments("before")
    worst, culprit = 0.0, ""
    for group in update.groups:
        settings = {
            key: value for key, value in group.items()
            if key not in _NOT_OF_THE_RULE
        }  # fmt: skip
        for name in group["names"]:
            start, gradient, end = before[name], gradients[name], after[name]
            if start is None or gradient is None or end is None:
                continue
            own = torch.nn.Parameter(start.clone())
            own.grad = gradient.clone()
            optimizer = getattr(torch.optim, update.optimizer)([own], **_accepted(update.optimizer, settings))
            for kind, value in moments.get(name, {}).items():
                optimizer.state[own][kind] = value.clone() if hasattr(value, "clone") else torch.tensor(value)
            optimizer.step()
            moved = (own.detach() - start).abs().max()
            difference = (own.detach() - end).abs().max()
            # One rounding of the parameter itself, and one part in a thousand of how far it moves.
            slack = 1e-3 * float(moved) + 4e-7 * float(start.abs().max())
            if float(difference) > slack and float(difference) / max(slack, 1e-30) > worst:
                worst, culprit = float(difference) / max(slack, 1e-30), name
    return culprit


def _accepted(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    import torch

    known = inspect.signature(getattr(torch.optim, name)).parameters
    return {
        key: tuple(v) if isinstance(v, list) else v
        for key, v in settings.items()
        if key in known and v is not None
    }


UPDATE = Probe(
    name="update",
    category=Category.TRAINING,
    meaning="a step moves the parameters exactly as the optimizer's rule and the planned settings say",
    threshold=(
        "≤ 1e-3 of the movement from the rule; betas as planned, decay apart from the gradient, eps between"
        " 1e-12 and 1e-4; or the optimizer named by a setting"
    ),
    threshold_source=(
        "the rule is elementwise, so samples suffice; measured: 1e-7 beyond one rounding; beta1, beta2 and"
        " weight_decay in train_config.json are AdamW's (arXiv 1711.05101)"
    ),
    usual_causes=(
        "weights written back or replaced after the step",
        "two steps on one gradient",
        "betas or eps written into train.py",
        "Adam or SGD where AdamW is planned: a setting `optimizer` says that it is meant",
        "after_optimizer_step() of the model not called",
    ),
    run=_update,
)
