"""Does it hand over what the loss expects, whole: shapes, raw outputs, precision, round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable, load_tensors, stored_tensors
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.bench import RowBench


def _output_shape(bench: RowBench) -> Measurement:
    import torch

    model, shapes = bench.model(), []
    inputs, _ = bench.batch(7)
    with torch.no_grad():
        shapes += [tuple(bench.outputs(model, inputs[:count]).shape) for count in (1, 2, len(inputs))]
    return Measurement(passed=True, measured=" ".join(map(str, shapes)), allowed="one row of outputs per row")


OUTPUT_SHAPE = Probe(
    name="output-shape",
    category=Category.MODEL,
    meaning="the model gives one logit per class, or one value, for each row, from one row up",
    threshold="(B, C), or (B,) or (B, 1), for 1, 2 and 7 rows; every value finite",
    threshold_source="the contract of a path",
    usual_causes=(
        "a squeeze that drops a batch of one",
        "a head of another size",
        "a flatten over the batch",
    ),
    run=_output_shape,
)


def _raw_outputs(bench: RowBench) -> Measurement:
    import torch

    inputs, targets = bench.batch(64)
    drawn = []
    with torch.no_grad():
        for seed, gain in ((3, 1.0), (4, 4.0), (5, 16.0)):
            drawn.append(bench.outputs(bench.redrawn(seed, gain=gain), inputs))
    outputs = torch.cat(drawn)
    low, high = float(outputs.min()), float(outputs.max())
    measured = f"from {low:.3g} to {high:.3g}"
    if not bench.dataset.is_classification:
        outside = float(((targets < low) | (targets > high)).float().mean())
        return Measurement(
            passed=outside <= 0.05,
            measured=f"{measured}, {outside:.0%} of the targets outside",
            allowed="≤ 5 % of the targets outside what the outputs can be",
            component="" if outside <= 0.05 else "the output layer",
        )
    sums = outputs.sum(-1)
    if low >= 0 and bool((sums - 1).abs().max() < 1e-3):
        form = "probabilities: each row sums to one (softmax)"
    elif low >= 0 and high <= 1:
        form = "squashed into [0, 1] (sigmoid)"
    elif low >= 0:
        form = "never negative (ReLU or softplus)"
    elif max(-low, high) <= 1.0:
        form = "squashed into [-1, 1] (tanh)"
    else:
        form = ""
    return Measurement(
        passed=not form,
        measured=f"{measured}; {form}" if form else measured,
        allowed="logits, free in both directions",
        component="the output layer" if form else "",
    )


RAW_OUTPUTS = Probe(
    name="raw-outputs",
    category=Category.MODEL,
    meaning="outputs are logits, or can reach the targets: no activation squashes what the loss reads",
    threshold="not all ≥ 0, not all within [-1, 1], with weights 1, 4 and 16 times the usual",
    threshold_source=(
        "cross-entropy applies softmax itself; UMLAUT and TheDeepChecker: redundant or wrong activation"
    ),
    usual_causes=("softmax in forward and again in the loss", "an activation after the last layer"),
    run=_raw_outputs,
)


def _number_format(bench: RowBench) -> Measurement:
    import torch

    odd = [f"{name} is {p.dtype}" for name, p in bench.model().named_parameters() if p.dtype != torch.float32]
    inputs, _ = bench.batch(16)
    double, single = bench.redrawn(1, dtype=torch.float64), bench.redrawn(1)
    with torch.no_grad():
        coarse = bench.outputs(single, inputs)
        if coarse.dtype != torch.float32:
            odd.append(f"outputs are {coarse.dtype}")
        try:
            exact = bench.outputs(double, bench.typed(inputs, torch.float64)).double()
        except Unusable:
            return Measurement(
                passed=not odd,
                measured="no float64 pass to compare with",
                allowed="float32",
                detail="; ".join(odd),
            )
    shift, scale = bench.dataset.target_scaling
    size = float((exact.abs() if bench.dataset.is_classification else (exact - shift).abs() / scale).max())
    error = float((coarse.double() - exact).abs().max()) / scale / max(1e-12, size)
    return Measurement(
        passed=not odd and error <= 1e-3,
        measured=f"relative error {error:.1g}",
        allowed="≤ 1e-3 against float64; parameters and outputs float32",
        component=odd[0].split(" is ")[0] if odd else "",
        detail="; ".join(odd[:4]),
    )


NUMBER_FORMAT = Probe(
    name="number-format",
    category=Category.MODEL,
    meaning="the forward pass is computed in float32, and loses nothing to a coarser type",
    threshold="relative error against float64 ≤ 1e-3",
    threshold_source="float32 gives 1e-6 in a small network, bfloat16 4e-3, float16 overflows at 65,504",
    usual_causes=("a cast to half inside forward", "raw features of a million beside features of one"),
    run=_number_format,
)


def _round_trip(bench: RowBench) -> Measurement:
    import torch
    from safetensors.torch import load, save

    original, inputs = bench.redrawn(2), bench.batch(8)[0]
    restored = bench.build(bench.seed + 1, scaled=False)  # neither its weights nor its scaling fit by luck
    try:
        load_tensors(restored, load(save(stored_tensors(original))))
    except Unusable as error:
        return Measurement(
            passed=False, measured="does not load", allowed="identical outputs", detail=str(error)
        )
    with torch.no_grad():
        moved = _largest(bench.outputs(original, inputs) - bench.outputs(restored, inputs))
    return Measurement(passed=moved == 0, measured=f"max |Δ| {moved:.2g}", allowed="identical outputs")


ROUND_TRIP = Probe(
    name="round-trip",
    category=Category.MODEL,
    meaning=(
        "a checkpoint holds all of the model, its scaling included: loaded elsewhere it computes the same"
    ),
    threshold="identical outputs (max |Δ| = 0)",
    threshold_source="the same numbers through the same operations give the same result",
    usual_causes=(
        "mean and std as plain attributes instead of buffers",
        "layers in a plain list instead of nn.ModuleList",
    ),
    run=_round_trip,
)


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())
