"""Every probe of an untrained model, in the order they run. A new probe is written, then listed here."""

from __future__ import annotations

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.probes.attention import ATTENTION_SCALE, CONTEXT_REACH, POSITIONS
from ml_intern_cli.judge.probes.bench import Bench
from ml_intern_cli.judge.probes.coupling import BATCH_INDEPENDENCE, CAUSALITY, CONTEXT_USE, DETERMINISM
from ml_intern_cli.judge.probes.documents import DOCUMENT_ENDS
from ml_intern_cli.judge.probes.experts import EXPERTS_PER_TOKEN, GATE_WEIGHTS
from ml_intern_cli.judge.probes.feed_forward import NONLINEARITY
from ml_intern_cli.judge.probes.labels import LABEL_SHIFT
from ml_intern_cli.judge.probes.layers import (
    LAYER_CALLS,
    NORMALISATION,
    RESIDUAL_STREAM,
    SAME_INITIALISATION,
    SYMMETRY,
)
from ml_intern_cli.judge.probes.learning import GRADIENTS, INITIAL_LOSS, OBJECTIVE, OVERFIT_ONE_BATCH
from ml_intern_cli.judge.probes.numerics import AUTOCAST, GENERATION, PRECISION, TRAIN_MODE
from ml_intern_cli.judge.probes.structure import COMPILE, FORWARD_SHAPE, INSTANTIATE, PARAM_COUNT, SAVE_LOAD
from ml_intern_cli.judge.probes.ties import TIED_WEIGHTS

PROBES: tuple[Probe[Bench], ...] = (
    COMPILE,
    INSTANTIATE,
    PARAM_COUNT,
    FORWARD_SHAPE,
    PRECISION,
    DETERMINISM,
    TRAIN_MODE,
    INITIAL_LOSS,
    OBJECTIVE,
    LABEL_SHIFT,
    CAUSALITY,
    BATCH_INDEPENDENCE,
    CONTEXT_USE,
    CONTEXT_REACH,
    POSITIONS,
    ATTENTION_SCALE,
    LAYER_CALLS,
    RESIDUAL_STREAM,
    NORMALISATION,
    NONLINEARITY,
    EXPERTS_PER_TOKEN,
    GATE_WEIGHTS,
    TIED_WEIGHTS,
    SAME_INITIALISATION,
    GRADIENTS,
    OVERFIT_ONE_BATCH,
    SYMMETRY,
    SAVE_LOAD,
    AUTOCAST,
    GENERATION,
    DOCUMENT_ENDS,
)
