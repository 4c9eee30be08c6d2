"""Which inputs move which outputs: the past must, the future and other rows must not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.blame import Differs, blind_module, culprit, moved_before, moved_row, unequal

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.probes.bench import Bench

_FLOAT_SOURCE = (
    "float64 rounding is below 1e-12 of the logits, a true connection between redrawn weights above 1e-4; "
    "1e-5 (1e-4 where the model only runs in float32) lies between"
)


def _determinism(bench: Bench) -> Measurement:
    import torch

    from ml_intern_cli.judge.evaluation import logits_of

    ids, model = bench.random_ids(2), bench.model()
    with torch.no_grad():
        torch.manual_seed(bench.seed)
        first = logits_of(bench.artifact, model, ids)
        second = logits_of(bench.artifact, model, ids)  # the noise goes on from where the first call left it
        moved = float((first - second).abs().max())
        component = culprit(bench, model, ids, ids, differs=unequal, second_seed=1) if moved else ""
    return Measurement(
        passed=moved == 0, measured=f"max |Δ| {moved:.2g}", allowed="identical logits", component=component
    )


DETERMINISM = Probe(
    name="determinism",
    category=Category.MODEL,
    meaning="in eval mode the same input gives the same logits twice",
    threshold="identical logits (max |Δ| = 0)",
    threshold_source="the same operations in the same order on the same machine",
    usual_causes=(
        "dropout that ignores eval mode",
        "state kept between two forward passes",
        "noise in a router",
    ),
    run=_determinism,
)


@dataclass(frozen=True, slots=True)
class _Move:
    """How far logits moved that should not have, what was done to them, and how to find who moved them."""

    size: float  # max |Δ|
    what: str
    first: torch.Tensor  # the tokens before and after
    second: torch.Tensor
    differs: Differs
    training: bool


def _future_changes(bench: Bench) -> Iterator[_Move]:
    """Changes one token, all later tokens, and the length, and watches the logits before the change."""
    import torch

    model, tolerance = bench.instrument.model, bench.instrument.tolerance
    ids = bench.random_ids(1)
    other = (
        ids + 1 + bench.random_ids(1, seed=1) % (bench.vocab_size - 1)
    ) % bench.vocab_size  # differs everywhere
    length = ids.shape[1]
    positions = sorted({1, length // 4, length // 2, length - 1} - {0})
    middle = length // 2
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            base = bench.logits(model, ids)[0]
        changes = []
        for position in positions:
            one = ids.clone()
            one[:, position] = other[:, position]
            changes.append((one, position, f"changing token {position}"))
        rest = torch.cat([ids[:, :middle], other[:, middle:]], dim=1)
        changes.append((rest, middle, f"changing all tokens from {middle} on"))
        if not training:  # dropout would fall differently on another shape
            changes.append((ids[:, :middle], middle, f"leaving out all tokens from {middle} on"))
        for changed, position, what in changes:
            with torch.no_grad():
                after = bench.logits(model, changed)[0]
            moves = (base[:position] - after[:position]).abs().amax(dim=-1)
            victim = int(moves.argmax())
            yield _Move(
                size=float(moves[victim]),
                what=f"{what} moved the logits of token {victim} in {'train' if training else 'eval'} mode",
                first=ids,
                second=changed,
                differs=moved_before(position, tolerance),
                training=training,
            )
    model.eval()


def _causality(bench: Bench) -> Measurement:
    if bench.length < 2:
        return Measurement(passed=True, measured="one token per window", allowed="-")
    return _no_move(bench, list(_future_changes(bench)))


def _no_move(bench: Bench, moves: list[_Move]) -> Measurement:
    import torch

    model = bench.instrument.model
    with torch.no_grad():
        scale = float(bench.logits(model, bench.random_ids(1)).abs().max())
    allowed = bench.instrument.tolerance * scale
    worst = max(moves, key=lambda move: move.size)
    if worst.size <= allowed:
        return Measurement(passed=True, measured=f"max |Δ| {worst.size:.2g}", allowed=f"≤ {allowed:.1g}")
    model.train(worst.training)
    component = culprit(bench, model, worst.first, worst.second, differs=worst.differs)
    model.eval()
    return Measurement(
        passed=False,
        measured=f"max |Δ| {worst.size:.2g}",
        allowed=f"≤ {allowed:.1g}",
        component=component,
        detail=f"{worst.what} (max |Δ| {worst.size:.2g}, allowed {allowed:.1g})",
    )


CAUSALITY = Probe(
    name="causality",
    category=Category.MODEL,
    meaning="no logit depends on a later token, in eval mode and in train mode",
    threshold="max |Δ| of earlier logits ≤ 1e-5 of the largest logit",
    threshold_source=_FLOAT_SOURCE,
    usual_causes=(
        "a mask missing in one attention branch",
        "a mean or a normalisation over time before the mask",
        "a convolution padded on the right",
        "a router that balances or drops tokens over the sequence",
    ),
    run=_causality,
)


def _batch_independence(bench: Bench) -> Measurement:
    import torch

    model = bench.instrument.model
    ids, others = bench.random_ids(3), bench.random_ids(3, seed=1)
    after, before = torch.cat([ids[:1], others[1:]]), torch.cat([others[:-1], ids[-1:]])
    changes = [
        (0, after, False, "replacing the rows after it moved the logits of row 0 in eval mode"),
        (-1, before, False, "replacing the rows before it moved the logits of row 2 in eval mode"),
        (0, ids[:1], False, "row 0 has other logits alone than in a batch of 3"),
        (-1, ids[-1:], False, "row 2 has other logits alone than in a batch of 3"),
        (0, after, True, "replacing the rows after it moved the logits of row 0 in train mode"),
        (-1, before, True, "replacing the rows before it moved the logits of row 2 in train mode"),
    ]
    moves = []
    for row, changed, training, what in changes:
        model.train(training)
        with torch.no_grad():
            size = float((bench.logits(model, ids)[row] - bench.logits(model, changed)[row]).abs().max())
        differs = moved_row(bench.length, bench.instrument.tolerance, row=row)
        moves.append(_Move(size, what, ids, changed, differs, training))
    model.eval()
    return _no_move(bench, moves)


BATCH_INDEPENDENCE = Probe(
    name="batch-independence",
    category=Category.MODEL,
    meaning="a row's logits do not depend on the other rows of the batch",
    threshold="max |Δ| of a row's logits ≤ 1e-5 of the largest logit",
    threshold_source=_FLOAT_SOURCE,
    usual_causes=(
        "batch normalisation",
        "a reshape that mixes rows",
        "expert capacity shared by the whole batch",
        "scatter to the wrong row in expert dispatch",
    ),
    run=_batch_independence,
)

_USED = 1e-4  # share of the largest logit


def _context_use(bench: Bench) -> Measurement:
    import torch

    if bench.length < 4:
        return Measurement(passed=True, measured="windows too short to tell", allowed="-")
    model = bench.instrument.model
    ids = bench.random_ids(4)
    ids[:, -3] = (ids[:, -2] + 1) % bench.vocab_size  # so that swapping the two changes something
    replaced, swapped = ids.clone(), ids.clone()
    replaced[:, -2] = (ids[:, -2] + 1) % bench.vocab_size
    swapped[:, -3], swapped[:, -2] = ids[:, -2], ids[:, -3]
    with torch.no_grad():
        base = bench.logits(model, ids)[:, -1]
        scale = max(float(base.abs().max()), 1e-12)
        by_value = float((base - bench.logits(model, replaced)[:, -1]).abs().max()) / scale
        by_order = float((base - bench.logits(model, swapped)[:, -1]).abs().max()) / scale
    blind = "to the tokens before it" if by_value < _USED else "to their order" if by_order < _USED else ""
    return Measurement(
        passed=not blind,
        measured=f"relative |Δ| {by_value:.2g} by replacing a token, {by_order:.2g} by swapping two",
        allowed=f"≥ {_USED:.0e} each",
        component=blind_module(bench, model, ids, replaced if by_value < _USED else swapped) if blind else "",
        detail=f"the last logits are blind {blind}" if blind else "",
    )


CONTEXT_USE = Probe(
    name="context-use",
    category=Category.MODEL,
    meaning="a logit depends on the tokens before its own, and on their order",
    threshold=(
        "replacing the last token but one, or swapping it with the one before, moves the last logits "
        "by ≥ 1e-4 of the largest"
    ),
    threshold_source="float64 rounding is below 1e-12, one redrawn attention layer moves them by 1e-2",
    usual_causes=(
        "the attention branch is left out of the residual sum",
        "no position information",
        "a mask that hides everything",
    ),
    run=_context_use,
)
