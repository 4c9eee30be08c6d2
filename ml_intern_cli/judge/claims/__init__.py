"""Probes of what a training claims: its losses, its logs, its checkpoint, its samples, its data.

Everything in the path's directory was written by the author's programs. These probes recompute what can be
recomputed from the weights, and hold the rest against what an honest training cannot help but leave behind.
"""

from __future__ import annotations

from ml_intern_cli.judge.claims.artifact import ARTIFACT
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.claims.logs import FINISHED_HONESTLY, STEP_RECORDS
from ml_intern_cli.judge.claims.losses import BEST_IS_BEST, EVAL_CLAIM, TRAIN_CLAIM
from ml_intern_cli.judge.claims.origin import CHECKPOINT_ORIGIN
from ml_intern_cli.judge.claims.samples import SAMPLES
from ml_intern_cli.judge.claims.splits import MEMORISED, TRAIN_HELDOUT_OVERLAP
from ml_intern_cli.judge.claims.surroundings import JUDGED_ALIKE, SURROUNDINGS
from ml_intern_cli.judge.claims.trained import (
    TRAINED_BATCH_INDEPENDENCE,
    TRAINED_CAUSALITY,
    TRAINED_SHIFT,
)
from ml_intern_cli.judge.claims.untouched import CONFIG_UNTOUCHED, DATA_UNTOUCHED, PROGRAMS_UNTOUCHED
from ml_intern_cli.judge.probe import Probe

CLAIMS: tuple[Probe[ClaimBench], ...] = (
    DATA_UNTOUCHED,
    PROGRAMS_UNTOUCHED,
    CONFIG_UNTOUCHED,
    EVAL_CLAIM,
    BEST_IS_BEST,
    TRAIN_CLAIM,
    STEP_RECORDS,
    FINISHED_HONESTLY,
    CHECKPOINT_ORIGIN,
    ARTIFACT,
    TRAINED_CAUSALITY,
    TRAINED_BATCH_INDEPENDENCE,
    TRAINED_SHIFT,
    MEMORISED,
    TRAIN_HELDOUT_OVERLAP,
    SAMPLES,
    JUDGED_ALIKE,
    SURROUNDINGS,
)
"""In the order they run."""
