"""Does it hand over what the loss expects, whole: shapes, raw outputs, precision, round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable, load_tensors, stored_tensors
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import forward_line, output_layer

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
            component="" if outside <= 0.05 else output_layer(bench),
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
        component=output_layer(bench) if form else "",
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
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Notes operations that give float16 or bfloat16."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.coarse: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype in {torch.float16, torch.bfloat16}:
                self.coarse.append(f"{function.__name__} gives {result.dtype}")
            return result

    model, inputs = bench.model(), bench.batch(16)[0]
    odd = [f"{name} is {p.dtype}" for name, p in model.named_parameters() if p.dtype != torch.float32]
    watch = Watch()
    with torch.no_grad(), watch:
        outputs = bench.outputs(model, inputs)
    found = [*odd, *watch.coarse]
    if outputs.dtype != torch.float32:
        found.append(f"outputs are {outputs.dtype}")
    return Measurement(
        passed=not found,
        measured=f"{len(odd)} tensors and {len(watch.coarse)} operations in another format",
        allowed="0: all float32",
        component=(odd[0].split(" is ")[0] if odd else forward_line(model)) if found else "",
        detail="; ".join(found[:4]),
    )


NUMBER_FORMAT = Probe(
    name="number-format",
    category=Category.MODEL,
    meaning="the forward pass is computed in float32, and loses nothing to a coarser type",
    threshold="no parameter, operation or output in float16 or bfloat16",
    threshold_source="exact; the contract has no other precision, and bfloat16 rounds to 0.4 %",
    usual_causes=("a cast to half inside forward", "autocast left on"),
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
            passed=False,
            measured="does not load",
            allowed="identical outputs",
            component=str(error)
            .split(";")[0]
            .removeprefix("missing tensor ")
            .removeprefix("unexpected tensor "),
            detail=str(error),
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
