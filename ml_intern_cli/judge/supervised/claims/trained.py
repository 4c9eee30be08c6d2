"""What the probes of claims work on: what training says, the data, and what the model left answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact

if TYPE_CHECKING:
    from ml_intern_cli.judge.records import Records
    from ml_intern_cli.judge.supervised.dataset import Dataset, Floats
    from ml_intern_cli.judge.supervised.host import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What these probes work on: claims, data, and outputs from the process of the model."""

    artifact: Artifact
    dataset: Dataset
    records: Records
    predictions: Predictions

    def setting(self, name: str, default: float) -> float:
        """A number of train_config.json."""
        value = self.artifact.train_config.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def losses(self, split: Split, *, smoothed: bool) -> Floats:
        """The loss per row; ``smoothed``: with the label smoothing of training."""
        smoothing = self.setting("label_smoothing", 0.0) if smoothed else 0.0
        return row_losses(self.dataset, self.predictions.outputs[split], split, smoothing)


def row_losses(dataset: Dataset, outputs: Floats, split: Split, smoothing: float = 0.0) -> Floats:
    """Cross-entropy in nats, or squared error of scaled targets, per row ``(N,)``."""
    import numpy as np

    targets = dataset.rows(split).targets
    if not dataset.is_classification:
        squared: Floats = ((outputs[:, 0] - targets) / dataset.target_scaling[1]) ** 2
        return squared
    shifted = outputs - outputs.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    own = logs[np.arange(len(targets)), targets]
    losses: Floats = -((1 - smoothing) * own + smoothing * logs.mean(1))
    return losses
