"""Every probe of a classifier's or regressor's data and untrained model, in the order they run."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.probes.structure import COMPILE, INSTANTIATE, PARAM_COUNT
from ml_intern_cli.judge.supervised.coupling import (
    HIDDEN_ACTIVATION,
    INPUT_USE,
    PADDING_BLIND,
    REPEATABILITY,
    ROW_INDEPENDENCE,
)
from ml_intern_cli.judge.supervised.data_probes import DATA_PROBES
from ml_intern_cli.judge.supervised.learning import (
    EVEN_START,
    GRADIENT_REACH,
    INITIAL_ERROR,
    LIVE_UNITS,
    OVERFIT_BATCH,
)
from ml_intern_cli.judge.supervised.rehearsal.probes import ROW_REHEARSAL_PROBES
from ml_intern_cli.judge.supervised.scaling import FEATURE_SCALE, INPUT_RANGE, RUNNING_STATISTICS
from ml_intern_cli.judge.supervised.structure import NUMBER_FORMAT, OUTPUT_SHAPE, RAW_OUTPUTS, ROUND_TRIP

ROW_PROBES: tuple[Probe[Any], ...] = (
    OUTPUT_SHAPE,
    REPEATABILITY,
    RAW_OUTPUTS,
    ROW_INDEPENDENCE,
    INPUT_USE,
    FEATURE_SCALE,
    INPUT_RANGE,
    RUNNING_STATISTICS,
    HIDDEN_ACTIVATION,
    INITIAL_ERROR,
    PADDING_BLIND,
    EVEN_START,
    LIVE_UNITS,
    GRADIENT_REACH,
    OVERFIT_BATCH,
    NUMBER_FORMAT,
    ROUND_TRIP,
)
"""Of the untrained model. ``compile``, ``instantiate`` and ``param-count`` are those of any model."""


def probes_before_training(*, has_target: bool) -> tuple[Probe[Any], ...]:
    """In order: files and construction, data, model, train.py."""
    shared: tuple[Probe[Any], ...] = (COMPILE, INSTANTIATE, *((PARAM_COUNT,) if has_target else ()))
    return (*shared, *DATA_PROBES, *ROW_PROBES, *ROW_REHEARSAL_PROBES)
