"""Are features brought to one scale, and does normalisation learn the scale it is to use later."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.bench import forward
from ml_intern_cli.judge.supervised.places import forward_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.supervised.bench import RowBench

_DOMINANCE = 30.0


def _feature_scale(bench: RowBench) -> Measurement:
    import numpy as np
    import torch

    train = bench.dataset.rows(Split.TRAIN).inputs
    if bench.dataset.is_tokens or train.ndim > 2 or train.shape[1] < 3:
        return Measurement(passed=True, measured="no table of features", allowed="-")
    spread = train.astype(np.float64).std(0)
    varying = np.flatnonzero(spread > 0)
    inputs = bench.batch(32)[0].double()
    moves = np.zeros(len(varying))
    with torch.no_grad():
        for seed in (6, 7, 8):
            try:
                model, rows = bench.redrawn(seed, dtype=torch.float64), inputs
                base = bench.outputs(model, rows)
            except Unusable:
                model, rows = bench.redrawn(seed), inputs.float()
                base = bench.outputs(model, rows)
            for index, feature in enumerate(varying):
                changed = rows.clone()
                changed[:, feature] += 0.1 * spread[feature]
                moves[index] += float((bench.outputs(model, changed) - base).abs().mean())
    median = max(float(np.median(moves)), 1e-300)
    dominance, neglect = float(moves.max()) / median, median / max(float(moves.min()), 1e-300)
    passed = max(dominance, neglect) <= _DOMINANCE
    odd = int(varying[moves.argmax() if dominance >= neglect else moves.argmin()])
    return Measurement(
        passed=passed,
        measured=f"a feature moves outputs {dominance:.3g} times as much as the median one, "
        f"another {neglect:.3g} times less",
        allowed=f"≤ {_DOMINANCE:g} times",
        component="" if passed else f"input {odd}, set_scaling",
        detail="" if passed else "features are not brought to one scale",
    )


FEATURE_SCALE = Probe(
    name="feature-scale",
    category=Category.MODEL,
    meaning="no feature of a table drowns the others by its unit alone",
    threshold=(
        "with redrawn weights, one std of the strongest feature "
        "moves outputs ≤ 30 times as much as the median's"
    ),
    threshold_source=(
        "measured: up to 2.7 times where features are scaled; raw wine 879, raw breast-cancer 8,150, raw "
        "diabetes 24, which passes; source: UMLAUT"
    ),
    usual_causes=(
        "set_scaling missing or not called",
        "scaling applied twice",
        "std taken over the whole table",
    ),
    run=_feature_scale,
)

_LARGEST = 30.0


def _input_range(bench: RowBench) -> Measurement:
    allowed = f"root mean square ≤ {_LARGEST:g} in every feature or channel"
    if bench.dataset.is_tokens:
        return Measurement(passed=True, measured="token ids", allowed=allowed)
    name, given = _first_weighted(bench)
    if given is None:
        return Measurement(passed=True, measured="no layer with weights sees the inputs", allowed=allowed)
    sizes = given.double().square().flatten(0, -2).mean(0).sqrt()
    largest = float(sizes.max())
    passed = largest <= _LARGEST
    told = f"input {int(sizes.argmax())} comes to {name} with a root mean square of {largest:.3g}"
    return Measurement(
        passed=passed,
        measured=f"{largest:.3g} into {name}",
        allowed=allowed,
        component="" if passed else f"input {int(sizes.argmax())}, {forward_line(bench.model())}",
        detail="" if passed else told,
    )


def _first_weighted(bench: RowBench) -> tuple[str, torch.Tensor | None]:
    """The first layer called that has a matrix of weights, and what it is given, its features last."""
    seen: list[tuple[str, torch.Tensor]] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not seen and args:
            is_convolution = max(weight.ndim for weight in module.parameters(recurse=False)) > 2
            given = args[0].detach().clone()
            seen.append((name, given.movedim(1, -1) if is_convolution else given))

    model = bench.model()
    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_modules()
        if any(weight.ndim > 1 for weight in module.parameters(recurse=False))
    ]
    try:
        bench.outputs(model, bench.batch(256)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else ("", None)


INPUT_RANGE = Probe(
    name="input-range",
    category=Category.MODEL,
    meaning="what the first layer with weights is given is not in the hundreds",
    threshold=f"root mean square ≤ {_LARGEST:g} of every feature or channel, over 256 training rows",
    threshold_source=(
        "initialisations assume inputs near one (arXiv 1502.01852); raw pixels of 8 × 8 digits, up to 16,"
        " are allowed; source: UMLAUT (inputs beyond [-1, 1])"
    ),
    usual_causes=("set_scaling missing or not called", "forward uses the raw inputs", "pixels of 0 to 255"),
    run=_input_range,
)


def _running_statistics(bench: RowBench) -> Measurement:
    model = bench.build(bench.seed).train()
    called: set[str] = set()
    keeping: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        and getattr(module, "running_var", None) is not None
    }
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in keeping.items()
    ]
    before = {name: _statistics(module) for name, module in keeping.items()}
    try:
        forward(bench.artifact, bench.dataset, model, bench.batch(64)[0])
    finally:
        for hook in hooks:
            hook.remove()
    stuck = [name for name in sorted(called) if bool((_statistics(keeping[name]) == before[name]).all())]
    passed = not stuck or bench.artifact.declares_freezing
    return Measurement(
        passed=passed,
        measured=f"{len(called) - len(stuck)} of {len(called)} layers update what they use in eval mode",
        allowed="all, unless a setting says that they are frozen",
        component="" if passed else ", ".join(stuck[:4]),
        detail="" if passed else "a pass in train mode leaves running_mean and running_var as they were",
    )


def _statistics(module: nn.Module) -> torch.Tensor:
    import torch

    return torch.stack([module.running_mean, module.running_var]).clone()  # type: ignore[list-item]


RUNNING_STATISTICS = Probe(
    name="running-statistics",
    category=Category.MODEL,
    meaning="batch normalisation learns, while it trains, the mean and variance that it uses in eval mode",
    threshold="running_mean or running_var of every layer that is called moves in train mode",
    threshold_source="exact: one batch moves them by momentum times its distance, which is never all zero",
    usual_causes=("momentum=0", "the layer kept in eval mode", "statistics put back after every batch"),
    run=_running_statistics,
)
