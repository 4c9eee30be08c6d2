"""MLP-Mixer: patches, mixed over positions and over channels in turn. Source: arXiv 2105.01601."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class DigitsMixerConfig:
    """Sizes of the network."""

    image_size: int
    patch_size: int
    num_classes: int
    hidden_size: int
    num_blocks: int
    dropout: float


class Mlp(nn.Module):
    """Two layers with a GELU between, over the last dimension."""

    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(size, hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.down(self.dropout(functional.gelu(self.up(x))))


class MixerBlock(nn.Module):
    """(B, P, D): first the P patches are mixed, then the D channels."""

    def __init__(self, num_patches: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(hidden_size)
        self.token_mlp = Mlp(num_patches, 2 * num_patches, dropout)
        self.channel_norm = nn.LayerNorm(hidden_size)
        self.channel_mlp = Mlp(hidden_size, 2 * hidden_size, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.channel_norm(x))


class DigitsMixer(nn.Module):
    """Pixels (B, 1, H, W) float32 in their own unit → logits (B, C)."""

    def __init__(self, config: DigitsMixerConfig) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(1, 1, 1))
        self.register_buffer("input_std", torch.ones(1, 1, 1))
        self.patches = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)
        num_patches = (config.image_size // config.patch_size) ** 2
        self.blocks = nn.ModuleList(
            MixerBlock(num_patches, config.hidden_size, config.dropout) for _ in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_classes)

    def set_scaling(self, input_mean: Tensor, input_std: Tensor, *_: Tensor) -> None:
        """Mean and deviation of the training pixels."""
        self.input_mean.copy_(input_mean)
        self.input_std.copy_(input_std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = (inputs - self.input_mean) / self.input_std
        x = self.patches(x).flatten(2).transpose(1, 2)  # (B, P, D)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
