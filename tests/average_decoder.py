"""A decoder that mixes tokens by decaying averages: head h weighs a token d steps back by decay[h] ** d.

It looks into the future; tests plant it to see that this is caught.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


@dataclass
class AverageDecoderConfig:
    vocab_size: int = 1024
    width: int = 96
    layers: int = 3
    heads: int = 4
    hidden: int = 368


class Mixer(nn.Module):
    def __init__(self, config: AverageDecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.gate = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.decay = nn.Parameter(torch.linspace(-1.0, 3.0, config.width))  # before the sigmoid, per channel

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        batch, length, width = x.shape
        value = self.value(x).view(batch, length, self.heads, -1)  # (B, T, H, D / H)
        decay = torch.sigmoid(self.decay).view(self.heads, -1).mean(-1)  # (H,)
        steps = torch.arange(length, device=x.device)
        distance = (steps[:, None] - steps[None, :]).abs()  # (T, T)
        weight = decay[:, None, None] ** distance  # (H, T, T)
        weight = weight / weight.sum(-1, keepdim=True)
        mixed = torch.einsum("hts,bshd->bthd", weight, value).reshape(batch, length, width)
        return self.out(mixed * silu(self.gate(x)))


class Block(nn.Module):
    def __init__(self, config: AverageDecoderConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.width)
        self.mixer = Mixer(config)
        self.mlp_norm = nn.RMSNorm(config.width)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.side = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        h = self.mlp_norm(x)
        return x + self.down(silu(self.side(h)) * self.up(h))


class AverageDecoder(nn.Module):
    def __init__(self, config: AverageDecoderConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T
