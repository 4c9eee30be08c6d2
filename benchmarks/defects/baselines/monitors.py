"""A monitor of the loss curve as training dashboards have one, and UMLAUT's published rules."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks.defects.baselines.run_folder import Alarm, Run

_SPIKE = 3.0  # times the lowest loss so far
_LEAST_FALL = 0.05  # of the first losses, by the last ones
_LEARNING_RATE = (1e-7, 0.01)  # UMLAUT's bounds of usual rates
_HIGH_ACCURACY = 0.95
_HIGH_DROPOUT = 0.5


def loss_monitor(run: Run) -> Iterator[Alarm]:
    """Not finite, a spike, a plateau."""
    losses = run.losses
    if not losses:
        yield Alarm("no losses", "training")
        return
    if not all(map(math.isfinite, losses)):
        yield Alarm("a loss is not finite", "training")
        return
    lowest = math.inf
    for step, loss in enumerate(losses, start=1):
        if loss > _SPIKE * lowest and step > len(losses) // 10:
            yield Alarm(f"spike at step {step}: {loss:.2f} after {lowest:.2f}", "training")
            break
        lowest = min(lowest, loss)
    few = max(1, len(losses) // 20)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    if last > (1 - _LEAST_FALL) * first:
        yield Alarm(f"plateau: {first:.2f} to {last:.2f}", "training")
    middle = sum(losses[len(losses) // 4 :][:few]) / few
    if last > 1.05 * middle:
        yield Alarm(f"rises: {middle:.2f} to {last:.2f}", "training")


def umlaut(run: Run) -> Iterator[Alarm]:
    """The rules of Schoop, Huang and Hartmann, UMLAUT (CHI 2021), as far as they apply to a PyTorch model.

    Exploding or vanishing loss, learning rate out of range, inputs out of range, overfitting, suspiciously
    high validation accuracy, softmax missing or doubled, activations missing, dropout too high. Its rules
    about the order of image dimensions have nothing to look at here.
    """
    if any(not math.isfinite(loss) for loss in run.losses):
        yield Alarm("NaN in the loss", "training")
    rate = float(run.settings.get("learning_rate", 1e-3))
    if not _LEARNING_RATE[0] <= rate <= _LEARNING_RATE[1]:
        yield Alarm(f"learning rate {rate:g} is out of the usual range", "training")
    evals = [float(row["eval_loss"]) for row in run.evaluations]
    if len(evals) >= 3 and evals[-1] > evals[-2] > min(evals):
        yield Alarm("possible overfitting: the validation loss rises", "data")
    if run.evaluations and float(run.evaluations[-1].get("accuracy", 0.0)) > _HIGH_ACCURACY:
        yield Alarm("check for leakage: validation accuracy is very high", "data")
    try:
        yield from _of_model(run)
    except Exception as error:  # noqa: BLE001, whatever the path's code raises
        yield Alarm(f"the model cannot be run: {type(error).__name__}", "model")


def _of_model(run: Run) -> Iterator[Alarm]:
    import torch
    from torch import nn

    model, inputs = run.model, run.inputs("val", 8)
    if inputs.is_floating_point() and float(inputs.abs().max()) > 1.0:
        yield Alarm("input data exceeds typical limits", "data")
    with torch.no_grad():
        output = model(inputs)
        output = output if isinstance(output, torch.Tensor) else output[0]
        if run.task != "regression":
            sums = output.float().sum(-1)
            if bool((output >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
                yield Alarm("softmax in front of a loss that takes logits", "model")
        if run.task == "language":
            accuracy = float((output[:, :-1].argmax(-1) == inputs[:, 1:]).float().mean())
            if accuracy > _HIGH_ACCURACY:
                yield Alarm("check for leakage: validation accuracy is very high", "data")
        linear = [name for name, module in model.named_modules() if _is_linear_stack(module)]
        if linear:
            yield Alarm(f"missing activation functions: {linear[0]}", "model")
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    if max(rates, default=0.0) > _HIGH_DROPOUT:
        yield Alarm("dropout rate is high", "model")


def _is_linear_stack(module: object) -> bool:
    """Whether a stack of linear layers that takes one vector is linear: f(2x) - 2 f(x) + f(0) = 0."""
    import torch
    from torch import nn

    if not isinstance(module, nn.Module) or isinstance(module, nn.ModuleList | nn.MultiheadAttention):
        return False
    children = list(module.children())
    linears = [child for child in children if isinstance(child, nn.Linear)]
    if len(linears) < 2 or len(linears) != len([c for c in children if any(True for _ in c.parameters())]):
        return False
    try:
        x = torch.randn(4, linears[0].in_features, generator=torch.Generator().manual_seed(0))
        twice, once, none = module(2 * x), module(x), module(0 * x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False  # attention and the like, which do not take one vector
    return bool(torch.allclose(twice - 2 * once + none, torch.zeros_like(once), atol=1e-5))
