"""Is the loss that of the next token, and of no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.evaluation import logits_of
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_SHIFTS = (1, 0, 2, -1, -2)  # of the target against the token whose logits are scored; the right one first
_AGREE = 1e-2
_SHORT = 16  # tokens per row
_CHANGES = 3


def _label_shift(bench: Bench) -> Measurement:
    model = bench.drawn
    allowed = "+1, and to be made smaller"
    if not callable(getattr(model, "loss", None)):
        return Measurement(passed=True, measured="no loss(): train.py shifts the labels", allowed="-")
    inputs, targets = bench.text(2, min(bench.length, _SHORT))
    if inputs.shape[1] < 6:
        return Measurement(passed=True, measured="windows too short to tell", allowed="-")
    reported, minimised = (_alignment(bench, model, inputs, targets, which) for which in (1, 0))
    problem = ""
    if reported != (1, 1):
        problem = f"the loss that is reported {_told(reported)}"
    elif minimised is not None and minimised != (1, 1):
        problem = f"the loss that is minimised {_told(minimised)}"
    return Measurement(
        passed=not problem,
        measured=f"target {_shift(reported)} reported, {_shift(minimised)} minimised",
        allowed=allowed,
        component=f"{type(model).__name__}.loss" if problem else "",
        detail=problem,
    )


Alignment = tuple[int, int] | None
"""The shift at which a loss scores targets, and its sign; None when it is no cross-entropy of the targets."""


def _shift(alignment: Alignment) -> str:
    return "mixed with other terms" if alignment is None else f"{alignment[0]:+d}"


def _told(alignment: Alignment) -> str:
    if alignment is None:
        return "is no cross-entropy of the targets at a shift from -2 to +2"
    shift, sign = alignment
    if sign < 0:
        return f"is the negative cross-entropy, at shift {shift:+d}"
    return f"scores the logits of token t against token t{shift:+d}"


def _alignment(
    bench: Bench, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, which: int
) -> Alignment:
    """Finds the logits that a target is scored against, by changing that target alone.

    Cross-entropy falls by the logit of the new target less that of the old. The ratios between several
    changes of one target do not depend on how many tokens the mean is over, nor on other terms.

    Args:
        bench: Where the loss comes from.
        model: The redrawn model.
        inputs: Tokens ``(B, T)``.
        targets: The next tokens ``(B, T)``.
        which: 0 for what is minimised, 1 for what is reported.
    """
    import torch

    middle = inputs.shape[1] // 2
    old = int(targets[0, middle])
    candidates = [token for token in range(bench.vocab_size) if token != old]
    stride = max(1, len(candidates) // (_CHANGES + 1))
    new = candidates[stride // 2 :: stride][: _CHANGES + 1]
    with torch.no_grad():
        logits = logits_of(bench.artifact, model, inputs)[0].double()
        before = float(bench.objective(model, inputs, targets)[which])
        moves = []
        for token in new:
            changed = targets.clone()
            changed[0, middle] = token
            moves.append(float(bench.objective(model, inputs, changed)[which]) - before)
    moved = torch.tensor(moves, dtype=torch.float64)
    if float(moved.norm()) <= 1e-7 * max(1.0, abs(before)):
        return _from_inputs(bench, model, inputs, targets, before)
    for shift in _SHIFTS:
        scores = logits[middle + 1 - shift]  # targets hold token t + 1 at place t
        expected = torch.stack([scores[old] - scores[token] for token in new]).cpu()
        slope = float((moved @ expected) / (expected @ expected))
        if float((moved - slope * expected).norm()) <= _AGREE * float(moved.norm()):
            return shift, 1 if slope > 0 else -1
    return None


def _from_inputs(
    bench: Bench, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, before: float
) -> Alignment:
    """The shift of a loss that does not look at the targets: its labels are the inputs themselves."""
    import torch

    tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
    with torch.no_grad():
        losses = -logits_of(bench.artifact, model, inputs).double().log_softmax(-1)
    length = inputs.shape[1]
    for shift in (0, 1, 2, -1, -2):
        places = range(max(0, -shift), min(length, length - shift))
        chosen = torch.stack([losses[:, at].gather(1, tokens[:, at + shift, None])[:, 0] for at in places])
        if abs(float(chosen.mean()) - before) <= _AGREE * abs(before) * 1e-2:
            return shift, 1
    return None


LABEL_SHIFT = Probe(
    name="label-shift",
    category=Category.DATA,
    meaning="of the shifts -2 to +2, the loss scores the logits of token t against token t+1, and no other",
    threshold="shift +1 for what is reported and, unless other terms are mixed in, for what is minimised",
    threshold_source=(
        "changing one target moves the loss in proportion to the logits that it is scored against; "
        "with redrawn weights only one position's logits fit, to 1e-2 of the move"
    ),
    usual_causes=(
        "labels shifted by the data and again by the model",
        "labels not shifted at all",
        "torch.roll in the wrong direction",
        "a sign",
    ),
    run=_label_shift,
)
