"""Can it learn: where the loss starts, where gradients reach, units that live, one batch by heart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import count_parameters
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.bench import forward
from ml_intern_cli.judge.supervised.places import output_layer

if TYPE_CHECKING:
    from torch import nn

    from ml_intern_cli.judge.supervised.bench import RowBench


def _initial_error(bench: RowBench) -> Measurement:
    import torch

    inputs, targets = bench.batch(256)
    with torch.no_grad():
        loss = float(bench.row_losses(bench.outputs(bench.model(), inputs), targets).mean())
    if bench.dataset.is_classification:
        uniform = math.log(bench.dataset.num_classes)
        low, high, unit = 0.5 * bench.chance_loss, uniform + 0.5, "nats"
    else:
        loss /= bench.chance_loss
        low, high, unit = 0.1, 10.0, "variances of the target"
    return Measurement(
        passed=low <= loss <= high,
        measured=f"{loss:.3f} {unit}",
        allowed=f"[{low:.3f}, {high:.3f}]",
        component="" if low <= loss <= high else _widest(bench),
        detail="" if loss <= high else "the untrained model is sure of wrong answers",
    )


INITIAL_ERROR = Probe(
    name="initial-error",
    category=Category.MODEL,
    meaning="before training the model is as unsure as a guess",
    threshold=(
        "cross-entropy from half the entropy of the classes to ln C + 0.5; squared error 0.1 to 10 variances"
    ),
    threshold_source=(
        "logits of standard deviation s start about s²/2 above ln C: 0.5 is s = 1; measured in nine sound "
        "programs: 0.07 below to 0.15 above, 0.7 to 1.5 variances"
    ),
    usual_causes=(
        "weights initialised too wide",
        "inputs not scaled",
        "outputs scaled up",
        "targets not scaled",
    ),
    run=_initial_error,
)


def _widest(bench: RowBench) -> str:
    """The weight matrix that is furthest from the usual variance of 1 / fan-in, and the output layer."""
    scales = {
        name: float(parameter.detach().std()) * max(1, parameter[0].numel()) ** 0.5
        for name, parameter in bench.model().named_parameters()
        if parameter.ndim > 1
    }
    widest = max(scales, key=lambda name: scales[name], default="")
    return ", ".join(part for part in (widest, output_layer(bench)) if part)


_ROUNDS = 6


def _gradient_reach(bench: RowBench) -> Measurement:
    first = bench.model()
    trainable = {name for name, parameter in first.named_parameters() if parameter.requires_grad}
    frozen = [name for name, parameter in first.named_parameters() if not parameter.requires_grad]
    unreached, broken = set(trainable), set()
    for number in range(_ROUNDS):
        model = first if number == 0 else bench.redrawn(20 + number)
        _backward(bench, model)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and name in trainable:
                if not bool(parameter.grad.isfinite().all()):
                    broken.add(name)
                if bool((parameter.grad != 0).any()):
                    unreached.discard(name)
        model.zero_grad(set_to_none=True)
        model.eval()
        if broken or not unreached:
            break
    problems = [f"{name} gets a gradient that is not finite" for name in sorted(broken)]
    problems += [f"{name} gets no gradient" for name in sorted(unreached)]
    if frozen and not bench.artifact.declares_freezing:
        problems += [f"{name} is frozen, and config.json does not say so" for name in frozen]
    if not trainable:
        problems.append("no parameter is trainable")
    return Measurement(
        passed=not problems,
        measured=f"{len(trainable) - len(unreached)} of {len(trainable) + len(frozen)} tensors reached",
        allowed="finite, and somewhere not zero, for all",
        component=problems[0].split(" ")[0] if problems and trainable else "",
        detail="; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else ""),
    )


GRADIENT_REACH = Probe(
    name="gradient-reach",
    category=Category.MODEL,
    meaning="the loss reaches every parameter that is not frozen on purpose",
    threshold="finite everywhere; not zero somewhere in each, within 6 draws of the weights",
    threshold_source=(
        "a weight that no draw reaches is no part of the model; frozen layers are named in config.json"
    ),
    usual_causes=(
        "a layer that is built and not called",
        "detach() or no_grad() inside the forward pass",
        "requires_grad switched off",
    ),
    run=_gradient_reach,
)


def _backward(bench: RowBench, model: nn.Module, *, training: bool = True) -> None:
    import torch

    inputs, targets = bench.batch(64)
    model.train(training)
    torch.manual_seed(bench.seed)
    loss = bench.row_losses(forward(bench.artifact, bench.dataset, model, inputs), targets).mean()
    with bench.artifact.foreign_code("the backward pass"):
        loss.backward()  # type: ignore[no-untyped-call]


def _even_start(bench: RowBench) -> Measurement:
    model = bench.build(bench.seed)
    _backward(bench, model, training=False)  # dropout would part units that are the same
    alike = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter.shape[0] < 2 or parameter.grad is None:
            continue
        rows, grads = parameter.detach().flatten(1), parameter.grad.flatten(1)
        scale = float(grads.abs().max())
        if bool((rows == rows[0]).all()) and float((grads - grads[0]).abs().max()) <= 1e-5 * scale:
            alike.append(name)
    return Measurement(
        passed=not alike,
        measured=f"{len(alike)} weight matrices whose units are all the same",
        allowed="0",
        component=alike[0] if alike else "",
        detail="their units start equal and get equal gradients, so they stay equal" if alike else "",
    )


EVEN_START = Probe(
    name="even-start",
    category=Category.MODEL,
    meaning="the units of a layer start different, or get different gradients",
    threshold="no matrix with equal rows and equal gradients of its rows",
    threshold_source=(
        "exact: units with equal weights and gradients never part; a last layer of zeros is fine"
    ),
    usual_causes=("weights filled with a constant", "all layers initialised with zeros"),
    run=_even_start,
)


def _live_units(bench: RowBench) -> Measurement:
    import torch
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        """Notes, per call of a ReLU, which units fire for any row."""

        def __init__(self) -> None:
            super().__init__()
            self.shares: list[float] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if (
                getattr(function, "__name__", "") in {"relu", "relu_", "relu6", "threshold"}
                and result.ndim > 1
            ):
                units = (
                    result.flatten(2).transpose(1, 2).flatten(0, 1)
                    if result.ndim == 4
                    else result.flatten(0, -2)
                )
                self.shares.append(float((units > 0).any(0).float().mean()))
            return result

    watch = Watch()
    with torch.no_grad(), watch:
        bench.outputs(bench.model(), bench.batch(256)[0])
    if not watch.shares:
        return Measurement(passed=True, measured="no ReLU", allowed="-")
    worst = min(watch.shares)
    return Measurement(
        passed=worst >= 0.5,
        measured=f"{worst:.0%} of the units of a layer fire",
        allowed="≥ 50 %",
        component="" if worst >= 0.5 else f"ReLU {watch.shares.index(worst) + 1}",
    )


LIVE_UNITS = Probe(
    name="live-units",
    category=Category.MODEL,
    meaning="the ReLU units of each layer fire for some training row",
    threshold="at least half of them at the start, over 256 rows",
    threshold_source=(
        "measured: 91 % and more in sound programs, 53 % with columns unscaled, which passes, 0 % behind a "
        "bias far below zero; source: TheDeepChecker"
    ),
    usual_causes=("a bias far below zero", "weights of one sign", "inputs far from zero"),
    run=_live_units,
)

_STEPS = 200
_RATES = (5e-3, 1e-3)


def _overfit_batch(bench: RowBench) -> Measurement:
    import torch

    inputs, targets = bench.batch(32 if bench.dataset.is_classification else 8)
    best, start, goal = math.inf, math.nan, 0.0
    for rate in _RATES:
        model = bench.build(bench.seed)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=rate * _size(model), weight_decay=0.0)
        for step in range(_STEPS + 1):
            if step % 10 == 0:
                with torch.no_grad():
                    outputs = forward(bench.artifact, bench.dataset, model.eval(), inputs)
                    loss = float(bench.row_losses(outputs, targets).mean())
                start = loss if step == 0 and math.isnan(start) else start
                goal = 0.25 * (math.log(bench.dataset.num_classes or 1) or bench.chance_loss)
                best = min(best, loss if math.isfinite(loss) else math.inf)
                if best <= goal or not math.isfinite(loss):
                    break
            torch.manual_seed(step)
            with bench.artifact.foreign_code("a training step"):
                outputs = forward(bench.artifact, bench.dataset, model.train(), inputs)
                bench.row_losses(outputs, targets).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
        if best <= goal:
            break
    return Measurement(
        passed=best <= goal,
        measured=f"{start:.3g} → {best:.3g} on {len(inputs)} rows",
        allowed=f"≤ {goal:.3g} within {_STEPS} steps",
        component="" if best <= goal else _strongest_dropout(bench) or output_layer(bench),
    )


def _strongest_dropout(bench: RowBench) -> str:
    """The dropout layer that drops most, where it drops more than half."""
    import torch

    rates = {name: one.p for name, one in bench.model().named_modules() if isinstance(one, torch.nn.Dropout)}
    strongest = max(rates, key=lambda name: rates[name], default="")
    return strongest if rates and rates[strongest] > 0.5 else ""


def _size(model: nn.Module) -> float:
    """Larger models take lower rates."""
    return math.sqrt(math.sqrt(min(1.0, 1e6 / max(1, count_parameters(model)))))


OVERFIT_BATCH = Probe(
    name="overfit-batch",
    category=Category.MODEL,
    meaning="trained on a few rows, the model learns them by heart",
    threshold="≤ a quarter of ln C on 32 rows, or of the variance on 8 rows, within 200 steps of AdamW",
    threshold_source=(
        "measured: nine sound programs need 10 or 20 steps; softmax applied twice "
        "cannot get below 0.45 ln C at C = 2, 0.63 at 10"
    ),
    usual_causes=(
        "activation or init that blocks the gradient",
        "a squashed output",
        "inputs not scaled",
        "too much dropout",
    ),
    run=_overfit_batch,
)
