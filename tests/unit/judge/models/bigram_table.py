"""A model that is a table: the next token depends on the present one only. Tests fill it as they like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class BigramTableConfig:
    """Sizes."""

    vocab_size: int = 512


class BigramTable(nn.Module):
    """Row ``i`` holds the logits after token ``i``."""

    def __init__(self, config: BigramTableConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, T, V)."""
        return self.table[input_ids]
