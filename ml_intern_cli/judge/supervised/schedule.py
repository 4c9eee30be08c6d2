"""The learning rate that train_config.json plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml_intern_cli.judge.artifact import Unusable


def learning_rate_at(step: int, config: Mapping[str, Any]) -> float:
    """The rate of the step after ``step`` steps: linear warm-up, then the schedule. Raises Unusable."""
    try:
        peak, low = float(config["learning_rate"]), float(config["min_learning_rate"])
        warmup, steps = int(config["warmup_steps"]), int(config["steps"])
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        shape = {"constant": 0.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
        return peak - shape[config["schedule"]] * (peak - low)
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(f"train_config.json does not plan a learning rate: {error!r}") from error
