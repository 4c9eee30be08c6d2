"""Every probe of an untrained model, in the order they run. A new probe is written, then listed here."""

from __future__ import annotations

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.probes.bench import Bench
from ml_intern_cli.judge.probes.coupling import BATCH_INDEPENDENCE, CAUSALITY, CONTEXT_USE, DETERMINISM
from ml_intern_cli.judge.probes.layers import (
    LAYER_CALLS,
    NORMALISATION,
    RESIDUAL_STREAM,
    SAME_INITIALISATION,
    SYMMETRY,
)
from ml_intern_cli.judge.probes.learning import GRADIENTS, INITIAL_LOSS, OBJECTIVE, OVERFIT_ONE_BATCH
from ml_intern_cli.judge.probes.structure import COMPILE, FORWARD_SHAPE, INSTANTIATE, PARAM_COUNT, SAVE_LOAD

PROBES: tuple[Probe[Bench], ...] = (
    COMPILE,
    INSTANTIATE,
    PARAM_COUNT,
    FORWARD_SHAPE,
    DETERMINISM,
    INITIAL_LOSS,
    OBJECTIVE,
    CAUSALITY,
    BATCH_INDEPENDENCE,
    CONTEXT_USE,
    LAYER_CALLS,
    RESIDUAL_STREAM,
    NORMALISATION,
    SAME_INITIALISATION,
    GRADIENTS,
    OVERFIT_ONE_BATCH,
    SYMMETRY,
    SAVE_LOAD,
)
