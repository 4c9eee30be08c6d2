"""Mixtral's kind: a list of experts, the best two per token, their weights normalised; a balancing loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class MixtralLikeConfig:
    """Sizes."""

    vocab_size: int = 512
    hidden_size: int = 48
    num_heads: int = 4
    num_layers: int = 2
    num_local_experts: int = 4
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = True
    aux_loss_weight: float = 0.01
    max_position_embeddings: int = 64


class Attention(nn.Module):
    """Causal attention with ALiBi's distances."""

    def __init__(self, config: MixtralLikeConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        slopes = 2.0 ** (-8.0 * torch.arange(1, config.num_heads + 1) / config.num_heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        steps = torch.arange(length, device=x.device)
        distance = steps[:, None] - steps[None, :]
        bias = -self.slopes[:, None, None] * distance
        bias = bias.masked_fill(distance < 0, float("-inf")).to(x.dtype)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Expert(nn.Module):
    """One feed-forward network."""

    def __init__(self, config: MixtralLikeConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=False)
        self.down = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        return self.down(functional.silu(self.up(x)))


class MoE(nn.Module):
    """The best of the experts for every token."""

    def __init__(self, config: MixtralLikeConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_local_experts))
        self.balance: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        flat = x.flatten(0, 1)
        probabilities = self.gate(flat).softmax(dim=-1)
        weights, chosen = probabilities.topk(self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, slot = (chosen == index).nonzero(as_tuple=True)
            y = y.index_add(0, token, expert(flat[token]) * weights[token, slot, None])
        load = functional.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        self.balance = len(self.experts) * (load * probabilities.mean(0)).sum()
        return y.view_as(x)


class Block(nn.Module):
    """Attention, then experts."""

    def __init__(self, config: MixtralLikeConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.hidden_size)
        self.attention = Attention(config)
        self.norm_2 = nn.RMSNorm(config.hidden_size)
        self.moe = MoE(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        x = x + self.attention(self.norm_1(x))
        return x + self.moe(self.norm_2(x))


class MixtralLike(nn.Module):
    """The model."""

    def __init__(self, config: MixtralLikeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor | float]:
        """(B, T) -> (B, T, V), and the balancing loss."""
        x = self.embed(input_ids)
        balance: Tensor | float = 0.0
        for block in self.blocks:
            x = block(x)
            balance = balance + block.moe.balance
        return self.head(self.norm(x)), balance

    def loss(self, input_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy in it."""
        logits, balance = self(input_ids)
        cross_entropy = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return cross_entropy + self.config.aux_loss_weight * balance, cross_entropy
