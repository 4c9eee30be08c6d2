"""What is measured on was not trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.claims.ngrams import hashes, is_in
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_intern_cli.judge.corpus import Tokens

    Hashes = npt.NDArray[np.uint64]

_SIGMAS = 4.0
_UNSEEN_SLACK = 0.05


def _memorised(bench: ClaimBench) -> Measurement:
    """Whether val is easier than held-out text by more than an n-gram model finds it."""
    losses, harder = bench.measured, bench.harder_by
    error = math.hypot(losses.val.standard_error, losses.heldout.standard_error)
    allowed = _UNSEEN_SLACK + _SIGMAS * error
    excess = losses.heldout.mean - losses.val.mean - harder
    passed = excess <= allowed
    return Measurement(
        passed=passed,
        measured=(
            f"held-out {losses.heldout.mean:.3f}, val {losses.val.mean:.3f}, of which the text's own"
            f" {harder:+.3f}"
        ),
        allowed=f"val lower by ≤ {allowed:.3f}",
        component="" if passed else "data/val",
        detail=""
        if passed
        else f"the loss on val is {excess:.3f} lower than on text that nobody could train on",
    )


MEMORISED = Probe(
    name="memorised",
    category=Category.DATA,
    meaning="the split that the author evaluates on is no better known to the model than held-out text",
    threshold=f"val below held-out by ≤ {_UNSEEN_SLACK} nats and four standard errors",
    threshold_source=(
        "two samples of one text; how much easier one is than the other is told by an n-gram model"
    ),
    usual_causes=(
        "training reads the val split",
        "checkpoints were chosen on very few val tokens, very often",
    ),
    run=_memorised,
)

_RUN = 32  # tokens
_MOST_TRAIN_TOKENS = 20_000_000
_MOST_CHECKED_TOKENS = 200_000
_OVERLAP_SLACK = 0.02
_TIMES_NATURAL = 1.5


def _train_heldout_overlap(bench: ClaimBench) -> Measurement:
    """Runs of held-out text that the training text has, against those it has twice itself."""
    import numpy as np

    stream = bench.corpus.stream(Split.TRAIN)
    train = hashes(stream.read(0, _MOST_TRAIN_TOKENS), _RUN)
    keys, counts = np.unique(train, return_counts=True)
    sample = np.linspace(0, len(train) - 1, min(len(train), _MOST_CHECKED_TOKENS)).astype(np.int64)
    twice = float((counts[np.searchsorted(keys, train[sample])] > 1).mean()) if len(train) else 0.0
    allowed = _OVERLAP_SLACK + _TIMES_NATURAL * twice
    shares = {
        split: _share(bench.corpus.stream(split).read(0, _MOST_CHECKED_TOKENS), keys)
        for split in (Split.VAL, Split.HELDOUT)
    }
    worst = max(shares, key=lambda split: shares[split])
    passed = shares[worst] <= allowed
    told = f"{shares[worst]:.1%} of the runs of {_RUN} tokens in {worst} are in the training text"
    return Measurement(
        passed=passed,
        measured=", ".join(f"{split} {share:.1%}" for split, share in shares.items()),
        allowed=f"≤ {allowed:.1%} (training text repeats {twice:.1%} of its own)",
        component="" if passed else f"data/{worst}",
        detail="" if passed else told,
    )


def _share(tokens: Tokens, keys: Hashes) -> float:
    found = hashes(tokens, _RUN)
    return float(is_in(found, keys).mean()) if len(found) else 0.0


TRAIN_HELDOUT_OVERLAP = Probe(
    name="train-heldout-overlap",
    category=Category.DATA,
    meaning="what is measured on is not part of the training text",
    threshold=(
        f"runs of {_RUN} tokens found in the training text: ≤ {_OVERLAP_SLACK:.0%} and {_TIMES_NATURAL}"
        f" times the"
        " share that it repeats itself"
    ),
    threshold_source=(
        f"natural duplicates are as frequent within the training text; compared on its first"
        f" {_MOST_TRAIN_TOKENS // 1_000_000}M tokens"
    ),
    usual_causes=(
        "the splits were cut after documents were duplicated, or by line and not by document",
        "val or held-out documents were added to the training data",
    ),
    run=_train_heldout_overlap,
)
