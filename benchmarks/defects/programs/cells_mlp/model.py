"""A linear model and two hidden layers with SiLU that correct it, for a table of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class CellsMlpConfig:
    """Sizes of the network."""

    num_features: int
    hidden_size: int
    dropout: float


class CellsMlp(nn.Module):
    """Features (B, F) float32 in their own units → values (B,) in the unit of the target."""

    def __init__(self, config: CellsMlpConfig) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(config.num_features))
        self.register_buffer("input_std", torch.ones(config.num_features))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        self.linear = nn.Linear(config.num_features, 1)
        self.first = nn.Linear(config.num_features, config.hidden_size)
        self.second = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, 1)

    def set_scaling(
        self, input_mean: Tensor, input_std: Tensor, target_mean: Tensor, target_std: Tensor
    ) -> None:
        """Mean and deviation of each feature and of the target over the training rows."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)
        self.target_mean.copy_(target_mean)
        self.target_std.copy_(target_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Values (B,)."""
        scaled = (inputs - self.input_mean) / self.input_std
        x = functional.silu(self.first(scaled))
        x = self.dropout(functional.silu(self.second(x)))
        values = (self.linear(scaled) + self.head(x)).squeeze(-1)
        return values * self.target_std + self.target_mean
