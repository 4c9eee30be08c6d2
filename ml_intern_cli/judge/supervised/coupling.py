"""Which inputs move which outputs: every feature must, other rows and padding must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.numerics import RATE_ROUNDING, dropout_rates
from ml_intern_cli.judge.supervised.bench import forward
from ml_intern_cli.judge.supervised.places import first_divergence, forward_line

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.bench import RowBench
    from ml_intern_cli.judge.supervised.dataset import Array, Dataset

_MOST_FEATURES = 256  # looked at one by one


def _repeatability(bench: RowBench) -> Measurement:
    import torch

    model, (inputs, _) = bench.model(), bench.batch(8)
    with torch.no_grad():
        torch.manual_seed(bench.seed)
        first = forward(bench.artifact, bench.dataset, model, inputs)
        second = forward(bench.artifact, bench.dataset, model, inputs)  # the noise goes on from the first
        moved = float((first - second).abs().max())
        component, detail = first_divergence(bench, model, inputs, inputs) if moved else "", ""
        rate = bench.artifact.config.get("dropout")
        if isinstance(rate, int | float) and not moved:
            noisy = bench.redrawn(1).train()
            once, again = (forward(bench.artifact, bench.dataset, noisy, inputs) for _ in range(2))
            louder = [(name, own) for name, own in dropout_rates(noisy) if own > rate + RATE_ROUNDING]
            if rate > 0 and bool((once == again).all()):
                component, detail = "dropout", f"dropout is {rate} and nothing is dropped in train mode"
            elif louder:
                component, own = louder[0]
                detail = f"{component} drops {own:g}, config.json says {rate}"
    return Measurement(
        passed=moved == 0 and not detail,
        measured=f"max |Δ| {moved:.2g} in eval mode",
        allowed="identical in eval mode; random in train mode where config.json has dropout, and no more",
        component=component,
        detail=detail,
    )


REPEATABILITY = Probe(
    name="repeatability",
    category=Category.MODEL,
    meaning="in eval mode the same rows give the same outputs twice; dropout works in train mode",
    threshold="max |Δ| = 0 in eval mode; no layer drops more than config.json says",
    threshold_source="the same operations in the same order on the same machine",
    usual_causes=(
        "functional dropout without training=self.training",
        "a dropout layer that is never called",
        "a rate written into model.py",
    ),
    run=_repeatability,
)


def _row_independence(bench: RowBench) -> Measurement:
    import torch

    model, tolerance = bench.instrument
    inputs = bench.like(model, bench.batch(6)[0])
    with torch.no_grad():
        base = bench.outputs(model, inputs)
        scale = _spread(base)
        moves = {
            "row 0 has other outputs alone than in a batch": bench.outputs(model, inputs[:1])[0] - base[0],
            "replacing the other rows moved row 0": bench.outputs(
                model, torch.cat([inputs[:1], inputs[1:].flip(0)[:2]])
            )[0]
            - base[0],
            "the order of the rows matters": bench.outputs(model, inputs.flip(0)).flip(0) - base,
        }
    worst, size = max(
        ((what, float(move.abs().max()) / scale) for what, move in moves.items()), key=lambda one: one[1]
    )
    passed = size <= max(tolerance, 1e-7)
    return Measurement(
        passed=passed,
        measured=f"relative |Δ| {size:.1g}",
        allowed=f"≤ {max(tolerance, 1e-7):.0e}",
        component=""
        if passed
        else first_divergence(bench, model, inputs, torch.cat([inputs[:1], inputs[1:].flip(0)[:2]])),
        detail="" if passed else worst,
    )


ROW_INDEPENDENCE = Probe(
    name="row-independence",
    category=Category.MODEL,
    meaning="in eval mode a row's outputs do not depend on the other rows of its batch",
    threshold="max |Δ| ≤ 1e-7 of the spread of the outputs (1e-4 where only float32 runs)",
    threshold_source=(
        "measured: float64 leaves 2e-15 in nine sound programs; statistics of the batch move outputs by 0.2 "
        "and more"
    ),
    usual_causes=(
        "batch statistics used in eval mode",
        "a reshape that mixes rows",
        "softmax over the batch",
    ),
    run=_row_independence,
)


def _input_use(bench: RowBench) -> Measurement:
    import numpy as np
    import torch

    dataset = bench.dataset
    model, _ = bench.instrument
    train = dataset.rows(Split.TRAIN).inputs
    flat = train.reshape(len(train), -1)
    varying = np.flatnonzero(flat.std(0) > 0)
    chosen = varying[
        np.unique(np.linspace(0, len(varying) - 1, min(len(varying), _MOST_FEATURES)).astype(int))
    ]
    picked = bench.batch(12)[0]
    if dataset.is_tokens:  # a position is looked at where it holds a token
        picked = torch.from_numpy(_longest(dataset, train))
        pad = -1 if dataset.manifest.inputs.pad_id is None else dataset.manifest.inputs.pad_id
        held = picked.ne(pad).reshape(len(picked), -1).any(0).numpy()
        chosen = chosen[held[chosen]]
    inputs = bench.like(model, picked)
    unused = []
    with torch.no_grad():
        base = bench.outputs(model, inputs)
        scale = _spread(base)
        for feature in chosen:
            moved = inputs.clone().reshape(len(inputs), -1)
            if dataset.is_tokens:
                moved[:, feature] = torch.from_numpy(_other_tokens(dataset, moved[:, feature].numpy()))
            else:
                moved[:, feature] += float(flat[:, feature].std())
            change = bench.outputs(model, moved.reshape(inputs.shape)) - base
            if float(change.abs().max()) <= 1e-7 * scale:
                unused.append(int(feature))
    share = len(unused) / max(1, len(chosen))
    allowed = 0.1 if train.ndim > 2 else 0.0
    return Measurement(
        passed=share <= allowed,
        measured=f"{len(chosen) - len(unused)} of {len(chosen)} inputs move an output",
        allowed="all" if not allowed else f"≥ {1 - allowed:.0%}",
        component=""
        if share <= allowed
        else ", ".join([*(f"input {one}" for one in unused[:2]), forward_line(model)]),
        detail="" if share <= allowed else "outputs are blind to them; they vary in the training rows",
    )


INPUT_USE = Probe(
    name="input-use",
    category=Category.MODEL,
    meaning="every feature, pixel or token position that varies can move the outputs",
    threshold="all of them (90 % of pixels: strides may drop a border), redrawn weights, a step of one std",
    threshold_source=(
        "measured: the weakest connection in nine sound programs moves outputs by 5e-4, float64 rounding by "
        "2e-15"
    ),
    usual_causes=(
        "a slice that drops columns",
        "a layer that is built and not called",
        "a constant in place of the input",
    ),
    run=_input_use,
)


def _longest(dataset: Dataset, ids: Array) -> Array:
    """The 8 rows with the most tokens."""
    import numpy as np

    pad = dataset.manifest.inputs.pad_id
    lengths = (ids != pad).sum(1) if pad is not None else np.full(len(ids), ids.shape[1])
    rows: Array = ids[np.argsort(-lengths, kind="stable")[:8]]
    return rows


def _other_tokens(dataset: Dataset, ids: Array) -> Array:
    """Another token for each that is no padding."""
    import numpy as np

    info = dataset.manifest.inputs
    size = info.vocab_size or int(dataset.rows(Split.TRAIN).inputs.max()) + 1
    other = (ids + 1 + size // 3) % size
    if info.pad_id is not None:
        other = np.where(other == info.pad_id, (other + 1) % size, other)
        other = np.where(ids == info.pad_id, ids, other)
    result: Array = np.asarray(other, dtype=ids.dtype)
    return result


def _padding_blind(bench: RowBench) -> Measurement:
    import torch

    info, model = bench.dataset.manifest.inputs, bench.instrument[0]
    ids = bench.dataset.rows(Split.TRAIN).inputs
    if info.pad_id is None or not bench.dataset.is_tokens:
        return Measurement(passed=True, measured="no padding in this data", allowed="-")
    length = ids.shape[1]
    lengths = (ids != info.pad_id).sum(1)
    short = ids[(ids[:, -1] == info.pad_id) & (ids[:, 0] != info.pad_id) & (lengths <= 0.7 * length)][:8]
    if not len(short):
        return Measurement(passed=True, measured="no row ends in enough padding to tell", allowed="-")
    cut = int((short != info.pad_id).sum(1).max())
    rows = torch.from_numpy(short)
    with torch.no_grad():
        whole = bench.outputs(model, rows)
        try:
            trimmed = bench.outputs(model, rows[:, :cut])
        except Unusable:
            return Measurement(passed=True, measured="takes rows of full length only", allowed="-")
        moved = float((whole - trimmed).abs().max()) / _spread(whole)
    return Measurement(
        passed=moved <= 1e-4,
        measured=f"relative |Δ| {moved:.1g} without {length - cut} of {length} positions of padding",
        allowed="≤ 1e-4",
        component="" if moved <= 1e-4 else forward_line(model),
        detail="" if moved <= 1e-4 else "padding moves the outputs",
    )


PADDING_BLIND = Probe(
    name="padding-blind",
    category=Category.MODEL,
    meaning="padding at the end of a row of tokens does not move the outputs",
    threshold="relative |Δ| ≤ 1e-4",
    threshold_source=(
        "measured on a text encoder: 0 in float64; padding that is averaged over moves outputs by 0.5"
    ),
    usual_causes=(
        "no mask in attention",
        "a mean over all positions",
        "the last position taken for the last token",
    ),
    run=_padding_blind,
)


def _hidden_activation(bench: RowBench) -> Measurement:
    import torch

    model, _ = bench.instrument
    matrices = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    inputs = bench.like(model, bench.batch(9)[0])
    if bench.dataset.is_tokens or len(matrices) < 2 or inputs.dtype != torch.float64:
        return Measurement(passed=True, measured="one layer, token ids, or no float64 pass", allowed="-")
    first, second, third = inputs[:3], inputs[3:6], inputs[6:9]
    with torch.no_grad():
        corners = [bench.outputs(model, rows) for rows in (first, second, third, first + second - third)]
        bend = float((corners[0] + corners[1] - corners[2] - corners[3]).abs().max())
    curved = bend / max(_spread(torch.cat(corners)), 1e-30)
    return Measurement(
        passed=curved > 1e-7,
        measured=f"relative curvature {curved:.1g} over {len(matrices)} weight matrices",
        allowed="> 1e-7",
        component="" if curved > 1e-7 else forward_line(model),
        detail="" if curved > 1e-7 else "outputs are a linear function of the inputs, in more than one layer",
    )


HIDDEN_ACTIVATION = Probe(
    name="hidden-activation",
    category=Category.MODEL,
    meaning="a network of several layers is more than a linear function of its inputs",
    threshold="f(a) + f(b) - f(c) - f(a + b - c) above 1e-7 of the spread of the outputs",
    threshold_source=(
        "measured: 1e-15 where the activations are left out, 0.3 and more in sound programs; one layer may "
        "be linear"
    ),
    usual_causes=("the activation between two layers left out", "an activation that is the identity"),
    run=_hidden_activation,
)


def _spread(outputs: torch.Tensor) -> float:
    """The size of differences between rows, or of the outputs when all rows are alike."""
    import torch

    centered = outputs - outputs.mean(0, keepdim=True)
    least = 1e-6 if outputs.dtype == torch.float64 else 1e-2  # below it differences are rounding
    return max(float(centered.abs().max()), least * float(outputs.abs().max()), 1e-30)
