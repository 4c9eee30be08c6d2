"""What moves which logit: later tokens, other rows, padding and the cache must not."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.trace import Trace, first_moved, traced
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

_EXACT = 1e-4  # share of the largest logit, for runs of one shape
_SAME = 1e-6  # the same, where nothing was changed
_ROUNDED = 1e-3  # the same, where another shape adds in another order
_SOURCE = (
    "fp32 rounding stays below 1e-5 of the largest logit for one shape and 1e-4 between two; "
    "a token that leaks through trained weights moves logits by 1e-2 and more"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How far logits moved that should not have, what was done to them, and where it began."""

    size: float  # max |Δ|, as a share of the largest logit
    allowed: float
    what: str
    component: str

    @property
    def excess(self) -> float:
        """Above 1 it is too much."""
        return self.size / self.allowed


def _compare(
    base: tuple[torch.Tensor, Trace],
    changed: tuple[torch.Tensor, Trace],
    *,
    of_base: Any,
    of_changed: Any,
    allowed: float,
    what: str,
) -> Move:
    scale = float(base[0].abs().max()) or 1.0
    size = float((base[0][of_base] - changed[0][of_changed]).abs().max()) / scale
    blamed = first_moved(base[1], changed[1], of_base, of_changed, allowed=allowed) if size > allowed else ""
    return Move(size=size, allowed=allowed, what=what, component=blamed)


def _worst(moves: list[Move]) -> Measurement:
    worst = max(moves, key=lambda move: move.excess)
    passed = worst.size <= worst.allowed
    return Measurement(
        passed=passed,
        measured=f"max |Δ| {worst.size:.2g} of the largest logit",
        allowed=f"≤ {worst.allowed:.0e}",
        component="" if passed else worst.component or "the logits",
        detail="" if passed else f"{worst.what} (max |Δ| {worst.size:.2g} of the largest logit)",
    )


def _require_steady(bench: AuditBench) -> None:
    """Raises Unusable: nothing can be compared, because the same ids give other logits each time."""
    if _twice(bench).size > _SAME:
        raise Unusable("the same ids give other logits each time: see checkpoint-determinism")


def _twice(bench: AuditBench) -> Move:
    """How far the logits of the same ids are apart, one call after the other."""

    def run() -> Move:
        import torch

        ids = bench.probed_ids(2)
        torch.manual_seed(bench.question.seed)
        first = traced(bench, ids)
        second = traced(bench, ids)  # noise would go on from where the first run left it
        everything = (slice(None),)
        what = "the same ids gave other logits the second time, in eval mode"
        return _compare(first, second, of_base=everything, of_changed=everything, allowed=_SAME, what=what)

    return bench.once("twice", run)


def _causality(bench: AuditBench) -> Measurement:
    import torch

    _require_steady(bench)
    ids = bench.probed_ids(1)
    other, length = bench.other_ids(ids), ids.shape[1]
    base = traced(bench, ids)
    moves = []
    for position in sorted({1, length // 4, length // 2, length - 1}):
        one = ids.clone()
        one[:, position] = other[:, position]
        before = (slice(None), slice(0, position))
        what = f"changing token {position} moved the logits of earlier ones"
        moves.append(
            _compare(base, traced(bench, one), of_base=before, of_changed=before, allowed=_EXACT, what=what)
        )
    middle = length // 2
    before = (slice(None), slice(0, middle))
    rest = torch.cat([ids[:, :middle], other[:, middle:]], dim=1)
    what = f"changing all tokens from {middle} on moved the logits of earlier ones"
    moves.append(
        _compare(base, traced(bench, rest), of_base=before, of_changed=before, allowed=_EXACT, what=what)
    )
    cut = traced(bench, ids[:, :middle])
    what = f"leaving out all tokens from {middle} on moved the logits of earlier ones"
    moves.append(_compare(base, cut, of_base=before, of_changed=before, allowed=_ROUNDED, what=what))
    return _worst(moves)


CAUSALITY = Probe(
    name="checkpoint-causality",
    category=Category.MODEL,
    meaning="no logit of the trained model depends on a later token",
    threshold="max |Δ| of earlier logits ≤ 1e-4 of the largest logit (1e-3 for another length)",
    threshold_source=_SOURCE,
    usual_causes=(
        "a causal mask that is missing in one attention",
        "a mean or a normalisation over time",
        "code in the checkpoint that was changed after training",
    ),
    run=_causality,
)


def _batch(bench: AuditBench) -> Measurement:
    import torch

    _require_steady(bench)
    ids = bench.probed_ids(3)
    others = bench.other_ids(ids)
    first, last = (slice(0, 1),), (slice(2, 3),)
    base = traced(bench, ids)
    moves = [
        _compare(base, traced(bench, changed), of_base=row, of_changed=now, allowed=allowed, what=what)
        for row, changed, now, allowed, what in (
            (first, torch.cat([ids[:1], others[1:]]), first, _EXACT, "replacing others moved row 0"),
            (last, torch.cat([others[:2], ids[2:]]), last, _EXACT, "replacing others moved row 2"),
            (first, ids[:1], first, _ROUNDED, "row 0 has other logits alone than in a batch of 3"),
        )
    ]
    return _worst(moves)


BATCH_INDEPENDENCE = Probe(
    name="checkpoint-batch-independence",
    category=Category.MODEL,
    meaning="a text's logits do not depend on the texts beside it in the batch",
    threshold="max |Δ| of a row's logits ≤ 1e-4 of the largest logit (1e-3 for another batch size)",
    threshold_source=_SOURCE,
    usual_causes=("statistics over the batch", "expert capacity shared by the whole batch"),
    run=_batch,
)


def _determinism(bench: AuditBench) -> Measurement:
    return _worst([_twice(bench)])


DETERMINISM = Probe(
    name="checkpoint-determinism",
    category=Category.MODEL,
    meaning="in eval mode the same ids give the same logits twice: no dropout, no noise, no memory",
    threshold="max |Δ| ≤ 1e-6 of the largest logit",
    threshold_source="the same operations in the same order; accelerators may add in another order",
    usual_causes=("dropout that ignores eval mode", "noise in a router", "state kept between two calls"),
    run=_determinism,
)


def _padding(bench: AuditBench) -> Measurement:
    import torch

    _require_steady(bench)
    named = inspect.signature(bench.model.forward).parameters
    if "attention_mask" not in named:
        return Measurement(passed=True, measured="forward takes no attention_mask", allowed="-")
    ids = bench.probed_ids(2)
    short = ids[:, : ids.shape[1] * 3 // 4]
    filling = bench.other_ids(ids)[:, : ids.shape[1] - short.shape[1]]
    ones, zeros = torch.ones_like(short), torch.zeros_like(filling)
    base = traced(bench, short, attention_mask=ones)
    moves = []
    for side in ("left", "right"):
        parts = ((filling, short), (zeros, ones)) if side == "left" else ((short, filling), (ones, zeros))
        padded, mask = (torch.cat(part, dim=1) for part in parts)
        arguments = {"attention_mask": mask}
        if "position_ids" in named:  # as generate() gives them
            arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        start = filling.shape[1] if side == "left" else 0
        of_changed = (slice(None), slice(start, start + short.shape[1]))
        what = f"tokens that the mask hides on the {side} moved the logits of the text"
        moves.append(
            _compare(
                base,
                traced(bench, padded, **arguments),
                of_base=(slice(None),),
                of_changed=of_changed,
                allowed=_ROUNDED,
                what=what,
            )
        )
    return _worst(moves)


PADDING = Probe(
    name="padding",
    category=Category.MODEL,
    meaning="padding, on the left or on the right, moves no logit of the text",
    threshold="max |Δ| of the text's logits ≤ 1e-3 of the largest logit",
    threshold_source=_SOURCE,
    usual_causes=(
        "attention_mask that is taken and not used",
        "positions that count the padding",
        "a mask that is not combined with the causal one",
    ),
    run=_padding,
)


def _cache(bench: AuditBench) -> Measurement:
    import torch

    _require_steady(bench)
    ids = bench.probed_ids(2)
    whole = bench.logits(ids)
    split = ids.shape[1] // 2
    logits, output = bench.forward(ids[:, :split], use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        return Measurement(passed=True, measured="it keeps no cache", allowed="-")
    parts = [logits]
    singles = range(split, min(split + 8, ids.shape[1]))
    for start, stop in [*((at, at + 1) for at in singles), (singles.stop, ids.shape[1])]:
        if start < stop:
            logits, output = bench.forward(ids[:, start:stop], use_cache=True, past_key_values=cache)
            cache = output.past_key_values
            parts.append(logits)
    cached = torch.cat(parts, dim=1)
    off = ((whole - cached).abs().amax(dim=(0, 2)) / (float(whole.abs().max()) or 1.0)).tolist()
    worst = max(range(len(off)), key=lambda at: off[at])
    passed = off[worst] <= _ROUNDED
    return Measurement(
        passed=passed,
        measured=f"max |Δ| {off[worst]:.2g} of the largest logit",
        allowed=f"≤ {_ROUNDED:.0e}",
        component="" if passed else "past_key_values",
        detail="" if passed else f"with the cache, the logits of token {worst} differ from those without",
    )


CACHE_AGREEMENT = Probe(
    name="cache-agreement",
    category=Category.MODEL,
    meaning="with the key-value cache, token by token, the logits are those of one pass",
    threshold="max |Δ| ≤ 1e-3 of the largest logit",
    threshold_source=_SOURCE,
    usual_causes=(
        "positions that start anew with each call",
        "keys that are cached before they are rotated, or in another layer's place",
        "a window of attention that is not that of training",
    ),
    run=_cache,
)


def _save_load(bench: AuditBench) -> Measurement:
    import torch

    _require_steady(bench)
    ids = bench.probed_ids(2)
    folder = bench.question.scratch / "saved"
    model = bench.model
    with bench.foreign_code("save_pretrained"):
        model.save_pretrained(folder)
    again, _ = bench.load(folder, torch.float32)
    before, after = model.state_dict(), again.state_dict()
    lost = [
        name
        for name, tensor in before.items()
        if name not in after or not torch.equal(tensor, after[name].to(tensor))
    ]
    moved = float((bench.logits(ids) - bench.logits(ids, model=again)).abs().max())
    passed = not lost and moved <= 1e-6 * float(bench.logits(ids).abs().max())
    return Measurement(
        passed=passed,
        measured=f"max |Δ| {moved:.2g}, {len(lost)} tensors changed",
        allowed="the same logits and tensors",
        component="" if passed else (lost[0] if lost else "save_pretrained"),
        detail="" if not lost else f"saved and loaded again, {', '.join(lost[:4])} differ",
    )


SAVE_LOAD = Probe(
    name="checkpoint-save-load",
    category=Category.ARTIFACT,
    meaning="saved by its own library and loaded again, it is the same model",
    threshold="the same tensors and logits",
    threshold_source="exact: the same numbers through the same operations",
    usual_causes=(
        "a tensor that is neither parameter nor buffer",
        "weights that are tied in code and not in the configuration",
    ),
    run=_save_load,
)


def _precision(bench: AuditBench) -> Measurement:
    import torch

    if bench.params > _MOST_PARAMS_COPIED:
        return Measurement(passed=True, measured="not compared above 2B parameters", allowed="-")
    low, _ = bench.load(bench.files.directory, torch.bfloat16)
    exact = bench.few_losses
    rounded = bench.losses(bench.few_windows, model=low)
    off = rounded.mean - exact.mean
    passed = abs(off) <= _LARGEST_ROUNDING
    return Measurement(
        passed=passed,
        measured=f"bf16 {rounded.mean:.4f}, fp32 {exact.mean:.4f} nats per token",
        allowed=f"|Δ| ≤ {_LARGEST_ROUNDING}",
        component="" if passed else "bfloat16",
    )


_MOST_PARAMS_COPIED = 2_000_000_000
_LARGEST_ROUNDING = 0.05

PRECISION_AGREEMENT = Probe(
    name="precision-agreement",
    category=Category.MODEL,
    meaning="in bf16 the model is as good as in fp32",
    threshold="|loss in bf16 - loss in fp32| ≤ 0.05 nats per token",
    threshold_source="sound models differ by less than 0.01; 0.05 is 5 % of perplexity",
    usual_causes=(
        "activations or weights that outgrow the mantissa",
        "positions or a softmax computed in half precision",
    ),
    run=_precision,
)

PROBES = (
    DETERMINISM,
    CAUSALITY,
    BATCH_INDEPENDENCE,
    PADDING,
    CACHE_AGREEMENT,
    PRECISION_AGREEMENT,
    SAVE_LOAD,
)
