"""A DeepSeek-like decoder: latent attention with decoupled rotary positions, RMSNorm, SwiGLU, tied head.

With ``n_routed_experts`` above zero every layer but the first has a shared expert and routed ones:
sigmoid affinities, a bias that balances the load after each optimizer step and takes no part in the
gates (arXiv 2412.19437, section 2.1.2; 2408.15664, algorithm 1).

Shapes: B batch, T positions, H hidden size, A heads, N = B * T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class LatentConfig:
    """Sizes and switches."""

    vocab_size: int = 512
    hidden_size: int = 96
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    q_lora_rank: int = 48
    kv_lora_rank: int = 32
    qk_nope_head_dim: int = 16
    qk_rope_head_dim: int = 16
    v_head_dim: int = 24
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    n_routed_experts: int = 0
    num_experts_per_tok: int = 2
    routed_scaling_factor: float = 1.0
    bias_update_speed: float = 0.001
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, arXiv 1910.07467."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions for (B, A, T, D): the pairs are D / 2 apart (arXiv 2104.09864)."""
    length, size = x.shape[-2:]
    frequencies = theta ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    positions = torch.arange(length, device=x.device, dtype=torch.float32)
    angles = torch.outer(positions, frequencies).to(x.dtype)  # (T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Attention(nn.Module):
    """Keys and values come from one small latent per token; positions have dimensions of their own."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.num_heads, self.theta = config.num_attention_heads, config.rope_theta
        self.nope, self.rope, self.rank = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.kv_lora_rank,
        )
        self.scale = (self.nope + self.rope) ** -0.5
        self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=False)
        self.q_a_norm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.q_b_proj = nn.Linear(config.q_lora_rank, self.num_heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj = nn.Linear(config.hidden_size, self.rank + self.rope, bias=False)
        self.kv_a_norm = RMSNorm(self.rank, config.rms_norm_eps)
        self.kv_b_proj = nn.Linear(self.rank, self.num_heads * (self.nope + config.v_head_dim), bias=False)
        self.o_proj = nn.Linear(self.num_heads * config.v_head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        length = x.shape[1]
        q = self.q_b_proj(self.q_a_norm(self.q_a_proj(x))).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q_nope, q_rope = q.tensor_split([self.nope], dim=-1)
        latent, k_rope = self.kv_a_proj(x).tensor_split([self.rank], dim=-1)
        latent = self.kv_a_norm(latent)
        key_value = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_nope, v = key_value.tensor_split([self.nope], dim=-1)
        q_rope, k_rope = rotate(q_rope, self.theta), rotate(k_rope.unsqueeze(1), self.theta)
        q = torch.cat([q_nope, q_rope], -1)
        k = torch.cat([k_nope, k_rope.expand(-1, self.num_heads, -1, -1)], -1)
        scores = q @ k.transpose(-1, -2) * self.scale
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        y = weights @ v
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU, arXiv 2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """One shared expert for every token, and the K routed ones with the highest biased affinity."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.top_k, self.scaling = config.num_experts_per_tok, config.routed_scaling_factor
        self.router = nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.intermediate_size // 3) for _ in range(config.n_routed_experts)
        )
        self.shared_expert = MLP(config.hidden_size, config.intermediate_size // 3)
        self.register_buffer("bias", torch.zeros(config.n_routed_experts))
        self.register_buffer("load", torch.zeros(config.n_routed_experts), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        tokens = x.flatten(0, 1)
        affinity = self.router(tokens).float().sigmoid()  # (N, E)
        chosen = (affinity + self.bias).topk(self.top_k, dim=-1).indices  # (N, K)
        gates = affinity.gather(1, chosen)
        gates = gates / gates.sum(-1, keepdim=True)
        gates = gates * self.scaling
        if self.training:
            self.load += torch.bincount(chosen.flatten(), minlength=len(self.experts))
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, slot = (chosen == index).nonzero(as_tuple=True)
            out = out.index_add(0, token, (expert(tokens[token]) * gates[token, slot, None]).to(out.dtype))
        return self.shared_expert(x) + out.view_as(x)

    @torch.no_grad()
    def balance(self, speed: float) -> None:
        """Lowers the bias of busy experts, raises that of idle ones, forgets the load."""
        self.bias += speed * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: LatentConfig, *, has_experts: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if has_experts else MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Latent(nn.Module):
    """The language model."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(
            Block(config, has_experts=config.n_routed_experts > 0 and index > 0)
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embed_tokens(input_ids)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.lm_head(x)

    def after_optimizer_step(self) -> None:
        """Balances the experts."""
        for block in self.blocks:
            if isinstance(block.mlp, MoE):
                block.mlp.balance(self.config.bias_update_speed)
