"""After training: each claim recomputed from the outputs of the model's own process.

``trained`` what the probes work on · ``logs`` what training says of itself · ``weights`` what it left.
"""

from __future__ import annotations

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.supervised.claims.logs import (
    BEST_STEP,
    LOG_REPLAYED,
    ROW_RECORDS,
    TRAIN_CLAIM,
    VAL_CLAIM,
)
from ml_intern_cli.judge.supervised.claims.trained import Trained
from ml_intern_cli.judge.supervised.claims.weights import (
    CHECKPOINT_FITS,
    CHECKPOINT_KIN,
    CLASS_ORDER,
    SIGNAL,
    TRAINED_ROWS_APART,
    UNSEEN_SPLITS,
)

CLAIM_PROBES: tuple[Probe[Trained], ...] = (
    CHECKPOINT_FITS,
    VAL_CLAIM,
    TRAIN_CLAIM,
    LOG_REPLAYED,
    ROW_RECORDS,
    BEST_STEP,
    CHECKPOINT_KIN,
    TRAINED_ROWS_APART,
    CLASS_ORDER,
    UNSEEN_SPLITS,
    SIGNAL,
)
