"""A small convolutional network with batch norm, for images of one channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class DigitsCnnConfig:
    """Sizes of the network."""

    image_size: int
    num_classes: int
    channels: tuple[int, ...]  # per convolution; each after the first halves the image
    dropout: float


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU: (B, in, H, W) → (B, out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        return functional.relu(self.norm(self.conv(x)))


class DigitsCnn(nn.Module):
    """Pixels (B, 1, H, W) float32 in their own unit → logits (B, C)."""

    def __init__(self, config: DigitsCnnConfig) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(1, 1, 1))
        self.register_buffer("input_std", torch.ones(1, 1, 1))
        widths = (1, *config.channels)
        strides = (1, *[2] * (len(config.channels) - 1))
        self.blocks = nn.ModuleList(
            ConvBlock(narrow, wide, stride)
            for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        side = config.image_size // 2 ** (len(config.channels) - 1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.channels[-1] * side * side, config.num_classes)

    def set_scaling(self, input_mean: Tensor, input_std: Tensor, *_: Tensor) -> None:
        """Mean and deviation of the training pixels."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = (inputs - self.input_mean) / self.input_std
        for block in self.blocks:
            x = block(x)
        x = self.dropout(x.flatten(1))
        return self.head(x)
