"""Is a planted defect one? Its held-out score is worse than healthy ones are, or something stated is untrue.

The scores are the benchmark's own. What does neither is inert: listed apart, and in no figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

SEEDS = "seed-"
"""Clean variations whose names begin so differ from the healthy path only by the seed."""
_SIGMAS = 3.0
_LEAST_SPREAD = 0.01  # relative; of few seeds the spread may be small by chance


@dataclass(frozen=True, slots=True)
class Spread:
    """Scores of one program's healthy trainings; lower is better."""

    mean: float
    deviation: float
    count: int

    @property
    def worst_healthy(self) -> float:
        """A score above this is not chance."""
        return self.mean + _SIGMAS * max(self.deviation, _LEAST_SPREAD * abs(self.mean))


def spreads(rows: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Program → spread, where at least three seeds have been run."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if not row["is_defect"] and row["change"].startswith(SEEDS) and row["score"] is not None:
            scores.setdefault(row["program"], []).append(row["score"])
    return {
        name: Spread(mean(values), stdev(values), len(values))
        for name, values in scores.items()
        if len(values) >= 3
    }


def harm_of(row: Mapping[str, Any], spread: Spread | None) -> str:
    """What a defect does, in words; empty where it does nothing that was measured."""
    found = []
    if not row["train"]["ended"]:
        found.append(f"training ends with code {row['train']['code']}")
    elif row["score"] is None or not math.isfinite(row["score"]):
        found.append("the artifact cannot be used")
    elif spread is not None and row["score"] > spread.worst_healthy:
        found.append(f"held-out score {row['score']:.3f}, healthy {spread.mean:.3f} ± {spread.deviation:.3f}")
    claim = row.get("claim")
    if claim and claim["is_false"]:
        found.append(f"stated {claim['stated']}, measured {claim['measured']}")
    return "; ".join(found)
