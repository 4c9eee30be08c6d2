"""How likely chance alone explains a figure. Small, exact where it can be, and without scipy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Floats


def normal_tail(z: float) -> float:
    """P(Z ≥ z) of a standard normal."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """P(at least so many successes), exact."""
    if successes <= 0:
        return 1.0
    rate = min(max(rate, 1e-12), 1 - 1e-12)
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(successes, trials + 1)
    ]
    return min(1.0, sum(math.exp(log) for log in logs))


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(χ² ≥ statistic)."""
    import torch

    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def class_drift(first: Array, second: Array, num_classes: int) -> tuple[float, int]:
    """P of equal class shares in two samples (chi-square), and the class that differs most."""
    import numpy as np

    table = np.stack([np.bincount(labels, minlength=num_classes) for labels in (first, second)])
    table = table.astype(np.float64)
    present = table.sum(0) > 0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    terms = np.where(present, (table - expected) ** 2 / np.where(present, expected, 1), 0)
    degrees = max(1, int(present.sum()) - 1)
    return chi_square_tail(float(terms.sum()), degrees), int(terms.sum(0).argmax())


def kolmogorov_smirnov(first: Floats, second: Floats) -> float:
    """P that two samples come from one distribution (two-sided, asymptotic)."""
    import numpy as np

    every = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(one), every, side="right") / len(one) for one in (first, second)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    size = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    scaled = (size + 0.12 + 0.11 / size) * distance
    if scaled < 0.2:
        return 1.0
    return min(
        1.0,
        max(0.0, 2.0 * sum((-1.0) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 50))),
    )


def mean_and_error(values: Floats) -> tuple[float, float]:
    """A mean and its standard error."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else float(abs(values).max(initial=1.0))
    return float(values.mean()), spread / math.sqrt(max(1, len(values)))
