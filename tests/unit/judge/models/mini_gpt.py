"""A small sound GPT with a mixture of experts; tests copy it and plant one defect at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass
class MiniGPTConfig:
    """Sizes."""

    vocab_size: int = 512
    hidden_size: int = 96
    num_heads: int = 4
    num_layers: int = 3
    num_experts: int = 4
    max_position_embeddings: int = 64


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (B, T, H)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Experts(nn.Module):
    """Each token goes to the best of ``num_experts`` feed-forward networks."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.router = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.up = nn.Parameter(torch.empty(config.num_experts, 2 * config.hidden_size, config.hidden_size))
        self.down = nn.Parameter(torch.empty(config.num_experts, config.hidden_size, 2 * config.hidden_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (B, T, H)."""
        flat = x.flatten(0, 1)
        weight, expert = torch.sigmoid(self.router(flat)).max(dim=-1)
        y = torch.zeros_like(flat)
        for index in range(len(self.up)):
            chosen = (expert == index).nonzero().flatten()
            inner = functional.gelu(functional.linear(flat[chosen], self.up[index]))
            y = y.index_add(0, chosen, weight[chosen, None] * functional.linear(inner, self.down[index]))
        return y.view_as(x)


class Block(nn.Module):
    """Attention, then experts."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.hidden_size)
        self.experts = Experts(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (B, T, H)."""
        x = x + self.attention(self.norm_1(x))
        return x + self.experts(self.norm_2(x))


class MiniGPT(nn.Module):
    """Tied embeddings, learned positions."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embed_tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))

    def loss(self, input_ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is minimised, and the cross-entropy in nats per token."""
        cross_entropy = functional.cross_entropy(self(input_ids).flatten(0, 1), targets.flatten())
        return cross_entropy, cross_entropy
