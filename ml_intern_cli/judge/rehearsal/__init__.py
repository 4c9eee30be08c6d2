"""train.py rehearsed before it trains, and every probe of what it did, in the order they run."""

from __future__ import annotations

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.rehearsal.batches import NO_REPLAY, WINDOW_LABELS, WINDOWS_FROM_TRAIN
from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
from ml_intern_cli.judge.rehearsal.gradients import ACCUMULATION, GRAD_CLIP, GRADIENT, ZERO_GRAD
from ml_intern_cli.judge.rehearsal.optimizer import LEARNING_RATE, OPTIMIZER_COVERAGE, WEIGHT_DECAY_GROUPS
from ml_intern_cli.judge.rehearsal.remains import CHECKPOINT_WHOLE, FILES_UNTOUCHED
from ml_intern_cli.judge.rehearsal.replicas import DATA_SHARDED, REPLICAS_AGREE
from ml_intern_cli.judge.rehearsal.reporting import EVAL_RECOMPUTED, LOGGED_LOSS, LOGGED_STEPS
from ml_intern_cli.judge.rehearsal.running import TRAIN_RUNS
from ml_intern_cli.judge.rehearsal.states import RESUME, TRAIN_MODE, TRAINING_PRECISION
from ml_intern_cli.judge.rehearsal.updating import UPDATE

PROBES: tuple[Probe[RehearsalBench], ...] = (
    TRAIN_RUNS,
    WINDOW_LABELS,
    WINDOWS_FROM_TRAIN,
    NO_REPLAY,
    OPTIMIZER_COVERAGE,
    WEIGHT_DECAY_GROUPS,
    LEARNING_RATE,
    TRAIN_MODE,
    TRAINING_PRECISION,
    ZERO_GRAD,
    ACCUMULATION,
    GRAD_CLIP,
    GRADIENT,
    UPDATE,
    RESUME,
    LOGGED_LOSS,
    LOGGED_STEPS,
    EVAL_RECOMPUTED,
    CHECKPOINT_WHOLE,
    FILES_UNTOUCHED,
    REPLICAS_AGREE,
    DATA_SHARDED,
)
