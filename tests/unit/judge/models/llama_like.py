"""Llama's kind: rotary positions, RMSNorm, SwiGLU, grouped keys and values; switches for its relatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class LlamaLikeConfig:
    """Sizes, and what other models do differently."""

    vocab_size: int = 512
    hidden_size: int = 48
    intermediate_size: int = 96
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    num_hidden_layers: int = 3
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    qk_norm: bool = False  # Qwen3
    sliding_window: int | None = None  # Mistral
    scale_embeddings: bool = False  # Gemma
    parallel: bool = False  # GPT-J, PaLM: both branches from one norm
    norm: str = "pre"  # "post": the first transformer; "branch": OLMo 2; "both": Gemma 2
    zero_init_outputs: bool = False  # muP, nanoGPT's speedruns


class RMSNorm(nn.Module):
    """Root-mean-square normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate_half(x: Tensor) -> Tensor:
    """(x1, x2) -> (-x2, x1)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns (B, A, T, D) by the angles of (T, D)."""
    return x * cos + rotate_half(x) * sin


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self, config: LlamaLikeConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        key_value = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """(B, T, H) -> (B, T, H); ``cache`` holds the keys and values before, and gets the new ones."""
        batch, length, width = x.shape
        heads = (batch, length, -1, self.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)
        k = self.k_proj(x).view(heads).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, cos, sin)
        k = rotate(k, cos, sin)
        if cache is not None:
            if cache:
                k = torch.cat([cache[0], k], dim=2)
                v = torch.cat([cache[1], v], dim=2)
            cache[:] = [k, v]
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        seen = torch.arange(k.shape[2], device=x.device)
        now = seen[-length:, None]
        mask = seen[None, :] <= now
        if self.config.sliding_window:
            mask = mask & (seen[None, :] > now - self.config.sliding_window)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaLikeConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Both branches."""

    def __init__(self, config: LlamaLikeConfig) -> None:
        super().__init__()
        self.config = config
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size)
        if not config.parallel:
            self.post_attention_layernorm = RMSNorm(config.hidden_size)
        if config.norm == "both":
            self.attn_out_norm, self.mlp_out_norm = RMSNorm(config.hidden_size), RMSNorm(config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        if self.config.parallel:
            h = self.input_layernorm(x)
            return x + self.self_attn(h, cos, sin, cache) + self.mlp(h)
        if self.config.norm == "post":
            x = self.input_layernorm(x + self.self_attn(x, cos, sin, cache))
            return self.post_attention_layernorm(x + self.mlp(x))
        if self.config.norm == "branch":
            x = x + self.input_layernorm(self.self_attn(x, cos, sin, cache))
            return x + self.post_attention_layernorm(self.mlp(x))
        if self.config.norm == "both":
            x = x + self.attn_out_norm(self.self_attn(self.input_layernorm(x), cos, sin, cache))
            return x + self.mlp_out_norm(self.mlp(self.post_attention_layernorm(x)))
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaLike(nn.Module):
    """The model."""

    def __init__(self, config: LlamaLikeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.Identity() if config.norm == "post" else RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        head_dim = config.hidden_size // config.num_attention_heads
        inv_freq = config.rope_theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        if config.zero_init_outputs:
            for layer in self.layers:
                nn.init.zeros_(layer.self_attn.o_proj.weight)
                nn.init.zeros_(layer.mlp.down_proj.weight)

    def forward(self, input_ids: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embed_tokens(input_ids)
        if self.config.scale_embeddings:
            x = x * self.config.hidden_size**0.5
        start = caches[0][0].shape[2] if caches and caches[0] else 0
        positions = torch.arange(start, start + input_ids.shape[1], device=x.device)
        angles = positions[:, None] * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches[index] if caches is not None else None)
        return self.lm_head(self.norm(x))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int) -> Tensor:
        """Appends the likeliest tokens to (B, T), one by one, with a cache."""
        caches: list[list[Tensor]] = [[] for _ in self.layers]
        step = input_ids
        for _ in range(max_new_tokens):
            step = self(step, caches)[:, -1:].argmax(-1)
            input_ids = torch.cat([input_ids, step], dim=1)
        return input_ids

    def loss(self, input_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy."""
        cross_entropy = functional.cross_entropy(self(input_ids).flatten(0, 1), targets.flatten())
        return cross_entropy, cross_entropy
