"""A GPT-2-like decoder: learned positions, LayerNorm before each branch, GELU, tied head, dropout.

With ``num_local_experts`` above zero every feed-forward is a mixture: softmax router, the best
``num_experts_per_tok`` of the experts, and Switch's balancing loss (arXiv 2101.03961, equation 4).

Shapes: B batch, T positions, H hidden size, A heads, N = B * T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class GPTConfig:
    """Sizes and switches."""

    vocab_size: int = 512
    hidden_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    max_position_embeddings: int = 64
    num_local_experts: int = 0
    num_experts_per_tok: int = 2
    router_aux_loss_coef: float = 0.01
    dropout: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        length = x.shape[1]
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv_proj(x).chunk(3, -1)
        )  # (B, A, T, D)
        scores = q @ k.transpose(-1, -2) * self.scale
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        y = self.dropout(weights) @ v
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two matrices with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.down_proj = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.down_proj(functional.gelu(self.up_proj(x)))


class Expert(MLP):
    """A narrower feed-forward."""

    def __init__(self, config: GPTConfig) -> None:
        nn.Module.__init__(self)
        self.up_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.down_proj = nn.Linear(2 * config.hidden_size, config.hidden_size)


class MoE(nn.Module):
    """Each token goes through the K experts that its router prefers."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.router = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_local_experts))
        self.balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H); leaves the balancing loss of this call in ``balance``."""
        tokens = x.flatten(0, 1)
        probabilities = self.router(tokens).float().softmax(-1)  # (N, E)
        gates, chosen = probabilities.topk(self.top_k, dim=-1)  # (N, K)
        gates = gates / gates.sum(-1, keepdim=True)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, slot = (chosen == index).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(tokens[token]) * gates[token, slot, None].to(out.dtype))
        load = functional.one_hot(chosen, len(self.experts)).float().sum(1).mean(0)  # (E,)
        self.balance = len(self.experts) * (load * probabilities.mean(0)).sum() / self.top_k
        return out.view_as(x)


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = MoE(config) if config.num_local_experts else MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """The language model."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embed_tokens(input_ids) + self.embed_positions(positions)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.lm_head(x)

    def loss(self, input_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy in it, nats per token, for (B, T) and (B, T)."""
        logits = self(input_ids)
        cross_entropy = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        balances = [block.mlp.balance for block in self.blocks if isinstance(block.mlp, MoE)]
        if not balances:
            return cross_entropy, cross_entropy
        return cross_entropy + self.config.router_aux_loss_coef * torch.stack(balances).mean(), cross_entropy
