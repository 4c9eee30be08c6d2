"""Can it learn: where the loss starts, what is minimised, where gradients reach, one batch by heart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import count_parameters
from ml_intern_cli.judge.evaluation import logits_of, token_losses
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.blame import strongest, whole_module
from ml_intern_cli.judge.probes.layers import is_flat

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench


def _initial_loss(bench: Bench) -> Measurement:
    import torch

    inputs, targets = bench.text(4, bench.length)
    with torch.no_grad():
        loss = float(token_losses(bench.logits(bench.model(), inputs), targets).mean())
    uniform = math.log(bench.vocab_size)
    allowed = 0.1 * uniform
    passed = abs(loss - uniform) <= allowed
    return Measurement(
        passed=passed,
        measured=f"{loss:.3f} nats (ln V = {uniform:.3f}, Δ {loss - uniform:+.3f})",
        allowed=f"|Δ| ≤ {allowed:.3f}",
        component="" if passed else strongest(bench, bench.model(), inputs),
    )


INITIAL_LOSS = Probe(
    name="initial-loss",
    category=Category.MODEL,
    meaning="before training the model is as unsure as a uniform guess over the vocabulary",
    threshold="|loss - ln V| ≤ 0.1 ln V on the training text",
    threshold_source=(
        "logits of standard deviation s start s²/2 above ln V; weights of 0.02 give 0.03 at width 128 and "
        "0.8 at width 4,096, an initialisation ten times too wide gives several nats"
    ),
    usual_causes=(
        "weights initialised too wide",
        "a missing final norm",
        "logits scaled twice",
        "the target seen by the input",
    ),
    run=_initial_loss,
)


def _objective(bench: Bench) -> Measurement:
    import torch

    model = bench.drawn
    if not callable(getattr(model, "loss", None)):
        return Measurement(passed=True, measured="no loss(): the cross-entropy of the logits", allowed="-")
    inputs, targets = bench.text(4, bench.length)
    with torch.no_grad():
        own = float(token_losses(logits_of(bench.artifact, model, inputs), targets).mean())
        reported = float(bench.objective(model, inputs, targets)[1])
    allowed = 1e-3 * own
    return Measurement(
        passed=abs(reported - own) <= allowed,
        measured=f"loss() reports {reported:.4f}, the logits have {own:.4f}",
        allowed=f"|Δ| ≤ {allowed:.2g}",
        component="" if abs(reported - own) <= allowed else f"{type(model).__name__}.loss",
    )


OBJECTIVE = Probe(
    name="objective",
    category=Category.MODEL,
    meaning="the cross-entropy that loss() reports is that of the logits against the next token",
    threshold="relative difference ≤ 1e-3",
    threshold_source="fp32 sums agree to 1e-6, a shift by one token changes the mean of 1,000 tokens by 1e-2",
    usual_causes=(
        "labels shifted twice or not at all",
        "a token left out of the mean",
        "an auxiliary term in what is logged",
    ),
    run=_objective,
)

_GRADIENT_ROUNDS = 8


def _gradients(bench: Bench) -> Measurement:
    allowed = "finite, and somewhere not zero, for all"
    first = bench.model()
    frozen = _never_updated(bench, first)
    unreached = {
        name: _slices(parameter) for name, parameter in first.named_parameters() if parameter.requires_grad
    }
    total = sum(len(slices) for slices in unreached.values())
    not_finite: set[str] = set()
    tokens = 0
    for round_number in range(_GRADIENT_ROUNDS):
        # Round 0 is the author's own initialisation. Later ones redraw the weights, and with them the
        # routers: an expert that any router could reach is reached within a few.
        model = first if round_number == 0 else bench.redrawn(seed=10 + round_number)
        tokens += _backward(bench, model)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and name in unreached:
                magnitude = parameter.grad.abs().reshape(len(_slices(parameter)), -1).amax(dim=1)
                if not bool(magnitude.isfinite().all()):
                    not_finite.add(name)
                unreached[name] -= set(magnitude.nonzero().flatten().tolist())
        model.zero_grad(set_to_none=True)
        if not_finite or not any(unreached.values()):
            break
    problems = [f"{name} gets a gradient that is not finite" for name in sorted(not_finite)]
    problems += [f"{name} is frozen and nothing else updates it" for name in frozen]
    problems += [_unreached(name, slices, first) for name, slices in unreached.items() if slices]
    missing = sum(map(len, unreached.values()))
    to_blame = sorted(not_finite) or frozen or [name for name, slices in unreached.items() if slices]
    return Measurement(
        passed=not problems,
        measured=f"{total - missing} of {total} weights reached by {tokens:,} tokens",
        allowed=allowed,
        component=whole_module(first, to_blame),
        detail="; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else ""),
    )


def _slices(parameter: torch.Tensor) -> set[int]:
    """Parts that must each get a gradient: every expert of stacked expert weights, else the whole."""
    return set(range(parameter.shape[0])) if parameter.ndim > 2 else {0}


def _unreached(name: str, slices: set[int], model: nn.Module) -> str:
    """A line for one parameter."""
    count = len(_slices(model.get_parameter(name)))
    if len(slices) == count:
        return f"{name} gets no gradient"
    which = ", ".join(map(str, sorted(slices)[:6]))
    return f"{name}: {len(slices)} of {count} experts get no gradient ({which})"


def _backward(bench: Bench, model: nn.Module) -> int:
    """Accumulates the gradients of one batch; returns its tokens."""
    inputs, targets = bench.text(4, bench.length)
    model.train()
    with bench.artifact.foreign_code("the backward pass"):
        bench.objective(model, inputs, targets)[0].backward()  # type: ignore[no-untyped-call]
    model.eval()
    return inputs.numel()


def _never_updated(bench: Bench, model: nn.Module) -> list[str]:
    """Parameters without gradient that after_optimizer_step() does not move either."""
    frozen = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }
    if frozen and callable(getattr(model, "after_optimizer_step", None)):
        _backward(bench, model)
        _after_optimizer_step(bench, model)
        model.zero_grad(set_to_none=True)
        frozen = {name: before for name, before in frozen.items() if before.equal(model.get_parameter(name))}
    return sorted(frozen)


def _after_optimizer_step(bench: Bench, model: nn.Module) -> None:
    """The update that train.py leaves to the model."""
    update = getattr(model, "after_optimizer_step", None)
    if callable(update):
        with bench.artifact.foreign_code("after_optimizer_step()"):
            update()


GRADIENTS = Probe(
    name="gradients",
    category=Category.MODEL,
    meaning="the training loss reaches every trainable parameter, and every expert of stacked expert weights",
    threshold="finite everywhere; not zero somewhere in each, within 8 batches and redrawn routers",
    threshold_source="a weight that no batch and no router reaches is no part of the model",
    usual_causes=(
        "a layer that is built and not called",
        "detach() or no_grad() inside the forward pass",
        "requires_grad switched off",
        "experts that the router can never choose",
    ),
    run=_gradients,
)

_OVERFIT_STEPS = 80
_OVERFIT_SHAPE = (4, 16)
_LOOK_EVERY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Overfitted:
    """A model after some steps on one batch."""

    model: nn.Module
    flat: frozenset[str]  # matrices that started with all rows equal, or all columns
    losses: tuple[float, ...]
    steps: int


class _Adam:
    """torch's AdamW without weight decay; its class would import the compiler, which takes seconds."""

    def __init__(self, parameters: list[nn.Parameter], *, rate: float) -> None:
        import torch

        self.rate = rate
        self.state = [
            (one, torch.zeros_like(one), torch.zeros_like(one), torch.zeros((), device=one.device))
            for one in parameters
        ]

    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        import torch
        from torch.optim.adamw import adamw

        moved = [one for one in self.state if one[0].grad is not None]
        if not moved:
            return
        parameters, means, squares, steps = (list(column) for column in zip(*moved, strict=True))
        with torch.no_grad():
            adamw(
                parameters,
                [one.grad for one in parameters],
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.95,
                lr=self.rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


def overfit(bench: Bench) -> Overfitted:
    """Trains a new model on 64 tokens until it knows them, for at most 80 steps. Raises Unusable.

    Where that fails it is tried once more at a higher rate: models that scale their logits down need it.
    """
    done = _overfit(bench, haste=1.0)
    return done if done.losses[-1] <= _goal(bench) else _overfit(bench, haste=6.0)


def _overfit(bench: Bench, *, haste: float) -> Overfitted:
    import torch

    model = bench.artifact.build(bench.seed)
    flat = frozenset(name for name, one in model.named_parameters() if one.ndim > 1 and is_flat(one.detach()))
    inputs, targets = bench.text(_OVERFIT_SHAPE[0], min(_OVERFIT_SHAPE[1], bench.artifact.seq_len))
    # 3e-3 suits AdamW up to 10M parameters; larger models take less, by about the fourth root of their size.
    rate = haste * 3e-3 * min(1.0, (1e7 / count_parameters(model)) ** 0.25)
    optimizer = _Adam([parameter for parameter in model.parameters() if parameter.requires_grad], rate=rate)
    goal = _goal(bench)
    torch.manual_seed(bench.seed)
    losses = []
    for step in range(_OVERFIT_STEPS + 1):
        if step % _LOOK_EVERY == 0:
            with torch.no_grad():
                losses.append(
                    float(token_losses(logits_of(bench.artifact, model.eval(), inputs), targets).mean())
                )
            if losses[-1] <= goal or not math.isfinite(losses[-1]) or step == _OVERFIT_STEPS:
                break
        with bench.artifact.foreign_code("a training step"):
            bench.objective(model.train(), inputs, targets)[0].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.zero_grad(set_to_none=True)
        _after_optimizer_step(bench, model)
    return Overfitted(model=model, flat=flat, losses=tuple(losses), steps=(len(losses) - 1) * _LOOK_EVERY)


def _goal(bench: Bench) -> float:
    return 0.25 * math.log(bench.vocab_size)


def _overfit_one_batch(bench: Bench) -> Measurement:
    done, goal = bench.overfitted, _goal(bench)
    squashed = done.losses[-1] > goal and _are_probabilities(bench)
    return Measurement(
        passed=done.losses[-1] <= goal,
        measured=f"{done.losses[0]:.2f} → {done.losses[-1]:.2f} nats in {done.steps} steps",
        allowed=f"≤ {goal:.2f} within {_OVERFIT_STEPS} steps",
        component=f"{type(done.model).__name__}.forward" if squashed else "",
        detail="what forward returns are probabilities already" if squashed else "",
    )


def _are_probabilities(bench: Bench) -> bool:
    """Whether the model's logits have been through a softmax."""
    import torch

    with torch.no_grad():
        logits = bench.logits(bench.model(), bench.random_ids(1))
    ones = torch.ones_like(logits[..., 0])
    return bool((logits >= 0).all()) and torch.allclose(logits.sum(-1), ones, atol=1e-3)


OVERFIT_ONE_BATCH = Probe(
    name="overfit-one-batch",
    category=Category.MODEL,
    meaning="trained on one batch of 64 tokens of text, the model learns it by heart",
    threshold="cross-entropy of its logits ≤ 0.25 ln V within 80 steps of AdamW, at one of two rates",
    threshold_source=(
        "64 tokens known by frequency alone cost half of ln V and more, by their predecessor a few tenths; "
        "sound models of 0.5M to 100M parameters need 10 to 40 steps"
    ),
    usual_causes=(
        "loss() that minimises something else",
        "labels shifted",
        "gradients cut off",
        "a softmax before the loss's own",
        "a wrong initialisation",
    ),
    run=_overfit_one_batch,
)
