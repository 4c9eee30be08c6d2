"""The trained weights, on held-out text: causal, one row at a time, and trained on the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

_WINDOWS = 16
_MOVED = 1e-3  # of the largest logit
_MOST_MOVED = 1  # windows
_SHIFTS = (-2, -1, 0, 1, 2)
_SHIFT_WINDOWS = 16
_SHIFT_MARGIN = 0.05  # nats
_SOURCE = (
    "measured: float32 rounding moved logits by 4e-7 of the largest in five trained models; where it tips"
    " a token to another expert it would move them more, so one window may"
)


def _trained_causality(bench: ClaimBench) -> Measurement:
    """Replaces everything from a random place on, and cuts it off; places that the model cannot foresee."""
    import torch

    windows = torch.from_numpy(bench.windows(Split.HELDOUT, _WINDOWS)[:, :-1])
    length = windows.shape[1]
    if length < 4:
        return Measurement(passed=True, measured="windows too short to tell", allowed="-")
    generator = torch.Generator().manual_seed(bench.seed)
    cuts = torch.randint(length // 4, length, (len(windows),), generator=generator)
    others = windows[torch.randperm(len(windows), generator=generator)].roll(1, dims=1)
    later = torch.arange(length) >= cuts[:, None]
    changed = torch.where(later, (others + later) % bench.corpus.vocab_size, windows)
    worst, moved, how = 0.0, 0, ""
    for mode in ("eval", "train"):
        train = mode == "train"
        base = bench.model(windows, train=train, seed=bench.seed)
        again = bench.model(changed, train=train, seed=bench.seed)
        moves = _moves(base, again).masked_fill(later, 0).amax(dim=1)
        if int((moves > _MOVED).sum()) > moved:
            moved, how = int((moves > _MOVED).sum()), f"replacing the tokens after a place in {mode} mode"
        worst = max(worst, float(moves.max()))
        if train:
            bench.restore()
            continue
        for row in range(0, len(windows), 4):
            cut = int(cuts[row])
            alone = bench.model(windows[row : row + 1, :cut])
            move = float(_moves(base[row : row + 1, :cut], alone).max())
            worst = max(worst, move)
            if move > _MOVED and moved <= _MOST_MOVED:
                moved, how = moved + 1, "cutting off the tokens after a place"
    passed = moved <= _MOST_MOVED
    return Measurement(
        passed=passed,
        measured=f"{moved} of {len(windows)} windows, largest move {worst:.1g}",
        allowed=f"≤ {_MOST_MOVED} windows by > {_MOVED:g}",
        component="" if passed else "model.py",
        detail="" if passed else f"{how} moved earlier logits in {moved} of {len(windows)} held-out windows",
    )


def _moves(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """By how much logits ``(B, T, V)`` differ at each place, as a share of the largest."""
    return (first - second).abs().amax(dim=-1) / first.abs().max().clamp_min(1e-12)


TRAINED_CAUSALITY = Probe(
    name="trained-causality",
    category=Category.MODEL,
    meaning="with the trained weights, on held-out text, no logit depends on a later token",
    threshold=(
        f"earlier logits move by ≤ {_MOVED:g} of the largest in all but {_MOST_MOVED} of {_WINDOWS} windows"
    ),
    threshold_source=_SOURCE,
    usual_causes=(
        "a mask that is only missing in one mode or beyond some length",
        "a path that opens during training, as a gate or a router does",
        "code that copies its input into its output",
    ),
    run=_trained_causality,
)


def _trained_batch_independence(bench: ClaimBench) -> Measurement:
    import torch

    windows = torch.from_numpy(bench.windows(Split.HELDOUT, _WINDOWS)[:, :-1])
    if len(windows) < 4:
        return Measurement(passed=True, measured="too few windows to tell", allowed="-")
    base = bench.model(windows)
    half = len(windows) // 2
    first, second = slice(0, half), slice(half, None)
    parts = []
    for kept, others in ((first, second), (second, first)):
        swapped = windows.clone()
        swapped[others] = windows[others].flip(1)
        parts.append(_moves(base[kept], bench.model(swapped)[kept]).amax(dim=1))
    moves = torch.cat(parts)
    alone = max(
        float(_moves(base[row : row + 1], bench.model(windows[row : row + 1])).max()) for row in (0, half - 1)
    )
    moved = int((moves > _MOVED).sum()) + int(alone > _MOVED)
    passed = moved <= _MOST_MOVED
    return Measurement(
        passed=passed,
        measured=f"{moved} of {len(windows)} windows, largest move {max(alone, float(moves.max())):.1g}",
        allowed=f"≤ {_MOST_MOVED} windows by > {_MOVED:g}",
        component="" if passed else "model.py",
        detail="" if passed else "replacing the other rows of the batch moved a row's logits",
    )


TRAINED_BATCH_INDEPENDENCE = Probe(
    name="trained-batch-independence",
    category=Category.MODEL,
    meaning="with the trained weights a row's logits do not depend on the other rows of the batch",
    threshold=f"a row's logits move by ≤ {_MOVED:g} of the largest, in all but {_MOST_MOVED} windows",
    threshold_source=_SOURCE,
    usual_causes=("statistics over the batch", "expert capacity shared by the batch"),
    run=_trained_batch_independence,
)


def _trained_shift(bench: ClaimBench) -> Measurement:
    windows = bench.windows(Split.HELDOUT, _SHIFT_WINDOWS)
    if windows.shape[1] < 6:
        return Measurement(passed=True, measured="windows too short to tell", allowed="-")
    losses = {shift: float(bench.window_losses(windows, shift=shift).mean()) for shift in _SHIFTS}
    lowest = min(losses, key=lambda shift: losses[shift])
    # With tied embeddings an untrained model repeats its input; a little training does not undo that at once.
    is_early = lowest == 0 and losses[1] < bench.measured.plausible_high
    passed = lowest == 1 or is_early or losses[1] - losses[lowest] < _SHIFT_MARGIN
    return Measurement(
        passed=passed,
        measured=", ".join(f"{shift:+d}: {loss:.2f}" for shift, loss in losses.items()),
        allowed="lowest at +1"
        if not is_early
        else f"+1 below {bench.measured.plausible_high:.2f} (unigrams)",
        component="" if passed else "train.py",
        detail="" if passed else f"the model predicts the token at {lowest:+d}, not the next one",
    )


TRAINED_SHIFT = Probe(
    name="trained-shift",
    category=Category.DATA,
    meaning="what the model predicts at a place is the token after it, not another one near it",
    threshold=(
        f"the loss over shifts from -2 to 2 is lowest at +1, to within {_SHIFT_MARGIN} nats; 0 may be"
        f" lower while +1"
        " is below the unigram model"
    ),
    threshold_source="measured: five sound trainings are lower at +1 than at any other shift by 8 nats",
    usual_causes=(
        "labels shifted twice or not at all",
        "inputs and targets cut from the window with the wrong offsets",
        "a checkpoint of a model that copies its input",
    ),
    run=_trained_shift,
)
