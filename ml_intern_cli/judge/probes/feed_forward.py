"""Does a feed-forward compute more than one matrix could."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import settings_like

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench
    from ml_intern_cli.judge.probes.recording import Call

_LEAST_CURVATURE = 1e-4
_NAMED = re.compile(r"mlp|ffn|feed_?forward|expert", re.IGNORECASE)
_LINEAR_BY_DESIGN = {"linear", "identity", "none"}


def _nonlinearity(bench: Bench) -> Measurement:
    """A function f is affine exactly where f(a) + f(b) = f(c) + f(a + b - c)."""
    allowed = f"curvature > {_LEAST_CURVATURE:g}"
    activations = settings_like(bench.config, r"act(ivation)?(_fn|_function)?$")
    if any(str(value).lower() in _LINEAR_BY_DESIGN for _, value in activations):
        return Measurement(passed=True, measured="linear, as config.json says", allowed=allowed)
    found = {}
    for call, given in _feed_forwards(bench):
        curvature = _curvature(bench, call, given)
        if curvature is not None:
            found[call.name] = curvature
    flat = {name: curvature for name, curvature in found.items() if curvature <= _LEAST_CURVATURE}
    return Measurement(
        passed=not flat,
        measured=f"≥ {min(found.values()):.2g} in {len(found)} modules" if found else "no feed-forward found",
        allowed=allowed,
        component=next(iter(flat), ""),
        detail=f"{', '.join(list(flat)[:4])}: several matrices that one could replace" if flat else "",
    )


def _feed_forwards(bench: Bench) -> Iterator[tuple[Call, torch.Tensor]]:
    """The innermost modules of several matrices, with what they were given, ``(..., H)``.

    Two matrices that narrow in between are a factorisation, which may be linear, unless they are named
    otherwise.
    """
    anatomy = bench.anatomy
    inner: list[str] = []
    for call in anatomy.record.calls:  # in the order in which they ended: the innermost first
        given = anatomy.float_input(call)
        widths = _widths(call.module)
        if call.occasion or given is None or len(widths) < 2:
            continue
        if any(name.startswith(f"{call.name}.") for name in inner) or not call.name:
            continue
        inner.append(call.name)
        if max(widths) > given.shape[-1] or _NAMED.search(call.name):
            yield call, given


def _widths(module: nn.Module) -> list[int]:
    """The larger dimension of each matrix that a layer below the module multiplies with."""
    from torch import nn

    weights = (
        getattr(layer, "weight", None) for layer in module.modules() if not isinstance(layer, nn.Embedding)
    )
    return [max(weight.shape) for weight in weights if isinstance(weight, nn.Parameter) and weight.ndim == 2]


def _curvature(bench: Bench, call: Call, given: torch.Tensor) -> float | None:
    """How far the module is from affine, as a share of what it varies by; None when it does not run alone."""
    import torch

    generator = torch.Generator().manual_seed(bench.seed)
    first, second, third = (
        torch.randn(given.shape, generator=generator, dtype=torch.float64).to(given) for _ in range(3)
    )
    corners = [
        bench.anatomy.replay(call, one, given=given) for one in (first, second, third, first + second - third)
    ]
    if any(corner is None for corner in corners):
        return None
    one, two, three, four = (corner for corner in corners if corner is not None)
    varies = float((one - two).abs().max())
    return float((one + two - three - four).abs().max()) / varies if varies else None


NONLINEARITY = Probe(
    name="nonlinearity",
    category=Category.MODEL,
    meaning="a feed-forward of several matrices is more than a linear map, which one of them could be alone",
    threshold=f"f(a) + f(b) - f(c) - f(a + b - c) above {_LEAST_CURVATURE:g} of what f varies by",
    threshold_source=(
        "zero for an affine map, up to rounding (1e-15 in float64, 1e-6 in float32); 0.3 and more behind"
        " GELU, SiLU or ReLU; config.json may say that an activation is linear"
    ),
    usual_causes=(
        "the activation between two matrices left out",
        "gate and value added instead of multiplied, without an activation",
    ),
    run=_nonlinearity,
)
