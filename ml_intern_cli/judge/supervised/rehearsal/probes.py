"""Every probe of a rehearsal, in the order they run."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.supervised.rehearsal.gradients import CLIPPING, FRESH_GRADIENTS
from ml_intern_cli.judge.supervised.rehearsal.losses import LOSS_GRADIENT, ROW_LABELS, ROW_LOSS, VAL_EVALUATED
from ml_intern_cli.judge.supervised.rehearsal.optimizer import (
    OPTIMIZER_SETTINGS,
    RATE_SCHEDULE,
    TRAINED_PARAMETERS,
    UPDATE_RULE,
)
from ml_intern_cli.judge.supervised.rehearsal.replicas import RANKS_APART, REPLICAS_IN_STEP
from ml_intern_cli.judge.supervised.rehearsal.rows import EPOCH_ORDER, REHEARSED, ROWS_FROM_TRAIN, SCALING_SET
from ml_intern_cli.judge.supervised.rehearsal.states import FRESH_NOISE, MODES, RESUMED, SAVED_STATE

ROW_REHEARSAL_PROBES: tuple[Probe[Any], ...] = (
    REHEARSED,
    RANKS_APART,  # what processes do wrong shows in the others too
    REPLICAS_IN_STEP,
    ROWS_FROM_TRAIN,
    EPOCH_ORDER,
    ROW_LABELS,
    LOSS_GRADIENT,
    SCALING_SET,
    ROW_LOSS,
    VAL_EVALUATED,
    TRAINED_PARAMETERS,
    OPTIMIZER_SETTINGS,
    RATE_SCHEDULE,
    FRESH_GRADIENTS,
    CLIPPING,
    UPDATE_RULE,
    MODES,
    FRESH_NOISE,
    SAVED_STATE,
    RESUMED,
)
