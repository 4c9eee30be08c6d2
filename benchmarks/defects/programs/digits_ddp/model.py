"""Two hidden layers with layer norm, for images or tables; nothing in it is random."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class ParallelMlpConfig:
    """Sizes of the network."""

    input_shape: tuple[int, ...]
    scaling_shape: tuple[int, ...]
    num_classes: int
    hidden_size: int


class ParallelMlp(nn.Module):
    """Inputs (B, …) float32 in their own units → logits (B, C)."""

    def __init__(self, config: ParallelMlpConfig) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(config.scaling_shape))
        self.register_buffer("input_std", torch.ones(config.scaling_shape))
        self.first = nn.Linear(prod(config.input_shape), config.hidden_size)
        self.first_norm = nn.LayerNorm(config.hidden_size)
        self.second = nn.Linear(config.hidden_size, config.hidden_size)
        self.second_norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_classes)

    def set_scaling(self, input_mean: Tensor, input_std: Tensor, *_: Tensor) -> None:
        """Mean and deviation of the training inputs."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = ((inputs - self.input_mean) / self.input_std).flatten(1)
        x = functional.relu(self.first_norm(self.first(x)))
        x = functional.relu(self.second_norm(self.second(x)))
        return self.head(x)
