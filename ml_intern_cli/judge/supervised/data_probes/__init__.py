"""The data themselves: whole, apart, alike, labelled as the rows say. Run before training and after it."""

from __future__ import annotations

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.supervised.data_probes.bench import DataBench
from ml_intern_cli.judge.supervised.data_probes.labels import LABEL_CONFLICT, LABEL_SIGNAL, TARGET_LEAK
from ml_intern_cli.judge.supervised.data_probes.splits import (
    ROWS_SOUND,
    ROWS_UNTOUCHED,
    SCALING_FIT,
    SPLIT_DRIFT,
    SPLIT_OVERLAP,
)

DATA_PROBES: tuple[Probe[DataBench], ...] = (
    ROWS_SOUND,
    ROWS_UNTOUCHED,
    SPLIT_OVERLAP,
    SPLIT_DRIFT,
    LABEL_CONFLICT,
    LABEL_SIGNAL,
    TARGET_LEAK,
    SCALING_FIT,
)
