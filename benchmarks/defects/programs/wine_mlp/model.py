"""Two hidden layers with ReLU and dropout, for a table of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class WineMlpConfig:
    """Sizes of the network."""

    num_features: int
    num_classes: int
    hidden_size: int
    dropout: float


class WineMlp(nn.Module):
    """Features (B, F) float32 in their own units → logits (B, C)."""

    def __init__(self, config: WineMlpConfig) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(config.num_features))
        self.register_buffer("input_std", torch.ones(config.num_features))
        self.first = nn.Linear(config.num_features, config.hidden_size)
        self.second = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.num_classes)

    def set_scaling(self, input_mean: Tensor, input_std: Tensor, *_: Tensor) -> None:
        """Mean and deviation of each feature over the training rows."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = (inputs - self.input_mean) / self.input_std
        x = functional.relu(self.first(x))
        x = self.dropout(functional.relu(self.second(x)))
        return self.head(x)
