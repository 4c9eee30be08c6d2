"""Shares with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_Z = 1.959963984540054  # of a two-sided 95 % interval


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``total``."""

    hits: int
    total: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        """Counts outcomes."""
        values = list(outcomes)
        return cls(sum(values), len(values))

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval.

        Source: Wilson, JASA 22 (1927); recommended in Brown, Cai and DasGupta, Statistical Science 16.
        """
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        """``97.1 % (68/70, 90.2–99.2)``."""
        if not self.total:
            return "–"
        low, high = self.interval
        return f"{self.value:.1%} ({self.hits}/{self.total}, {100 * low:.1f}–{100 * high:.1f})"
