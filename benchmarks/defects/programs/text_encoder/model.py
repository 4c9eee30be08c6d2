"""A transformer encoder over padded token ids, pooled into one vector per row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class TextEncoderConfig:
    """Sizes of the network."""

    vocab_size: int
    pad_id: int
    max_length: int
    num_classes: int
    hidden_size: int
    num_heads: int
    num_blocks: int
    dropout: float


class Attention(nn.Module):
    """Every token looks at every token that is no padding."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        """Of vectors (B, T, D) and is_token (B, T) bool: mixed vectors (B, T, D)."""
        batch, length, size = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, size // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        scores = q @ k.transpose(-1, -2) * (size // self.num_heads) ** -0.5
        scores = scores.masked_fill(~is_token[:, None, None, :], float("-inf"))
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, size))


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual around it."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = Attention(size, num_heads)
        self.mlp_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 4 * size)
        self.down = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        """One block."""
        x = x + self.dropout(self.attention(self.attention_norm(x), is_token))
        return x + self.dropout(self.down(functional.gelu(self.up(self.mlp_norm(x)))))


class TextEncoder(nn.Module):
    """Token ids (B, T) int64 → logits (B, C)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_length, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.hidden_size, config.num_heads, config.dropout) for _ in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_classes)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C)."""
        is_token = inputs != self.pad_id
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.dropout(self.embed(inputs) + self.positions(positions))
        for block in self.blocks:
            x = block(x, is_token)
        weights = is_token.to(x.dtype)[..., None]
        pooled = (self.norm(x) * weights).sum(1) / weights.sum(1)
        return self.head(pooled)
