"""What the probes of the data need, and how often chance fails them."""

from __future__ import annotations

from typing import Protocol

from ml_intern_cli.judge.supervised.dataset import Dataset

CHANCE = 1e-4
"""How often each statistical test of sound data fails, nominally."""
MOST_ROWS = 4_000  # compared pairwise


class DataBench(Protocol):
    """What these probes need."""

    @property
    def dataset(self) -> Dataset:
        """The rows."""
