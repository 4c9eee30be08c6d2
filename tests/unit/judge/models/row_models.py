"""Models of rows for the judge's tests: features, images and token ids. All are sound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class RowNetConfig:
    shape: tuple[int, ...] = (12,)  # of a row
    outputs: int = 3  # classes; 1 for regression
    width: int = 32
    dropout: float = 0.0
    batch_norm: bool = False
    freeze_first: bool = False


class RowNet(nn.Module):
    """A two-layer perceptron over scaled features."""

    def __init__(self, config: RowNetConfig) -> None:
        super().__init__()
        features = 1
        for size in config.shape:
            features *= size
        self.first = nn.Linear(features, config.width)
        self.norm = nn.BatchNorm1d(config.width) if config.batch_norm else nn.Identity()
        self.second = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, config.outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("input_mean", torch.zeros(()))
        self.register_buffer("input_std", torch.ones(()))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        if config.outputs == 1 or len(config.shape) == 1:
            self.input_mean, self.input_std = torch.zeros(config.shape), torch.ones(config.shape)
        if config.freeze_first:
            self.first.requires_grad_(False)

    def set_scaling(
        self, input_mean: Tensor, input_std: Tensor, target_mean: Tensor, target_std: Tensor
    ) -> None:
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)
        self.target_mean.copy_(target_mean)
        self.target_std.copy_(target_std)

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = (inputs - self.input_mean) / self.input_std
        hidden = functional.relu(self.norm(self.first(scaled.flatten(1))))
        hidden = functional.relu(self.second(self.dropout(hidden)))
        out = self.head(self.dropout(hidden))
        return out * self.target_std + self.target_mean


@dataclass
class ConvNetConfig:
    outputs: int = 10
    width: int = 16


class ConvNet(nn.Module):
    """Two convolutions over (1, 8, 8) images of 0 to 16."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, config.width, 3, padding=1)
        self.second = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.head = nn.Linear(config.width * 4, config.outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.max_pool2d(functional.relu(self.first(inputs / 16)), 2)
        hidden = functional.max_pool2d(functional.relu(self.second(hidden)), 2)
        return self.head(hidden.flatten(1))


@dataclass
class TokenNetConfig:
    vocab_size: int = 50
    outputs: int = 2
    width: int = 32
    pad_id: int = 0


class TokenNet(nn.Module):
    """The mean of embeddings that are no padding, then a perceptron."""

    def __init__(self, config: TokenNetConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.embedding = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_id)
        self.hidden = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, config.outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        kept = (inputs != self.pad_id).to(self.head.weight.dtype).unsqueeze(-1)
        mean = (self.embedding(inputs) * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self.head(functional.gelu(self.hidden(mean)))
