"""Models without attention: a gated linear recurrence, a causal convolution, and a stack of LSTMs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class RecurrentLikeConfig:
    """Sizes, and the kind of mixer: "recurrence", "convolution" or "lstm"."""

    vocab_size: int = 512
    width: int = 48
    layers: int = 3
    kernel: int = 5
    kind: str = "recurrence"


class Recurrence(nn.Module):
    """s_t = a_t s_(t-1) + (1 - a_t) v_t, per channel."""

    def __init__(self, config: RecurrentLikeConfig) -> None:
        super().__init__()
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.forget = nn.Linear(config.width, config.width)
        self.gate = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        value, keep = self.value(x), torch.sigmoid(self.forget(x) + 2.0)
        state = torch.zeros_like(value[:, 0])
        states = []
        for step in range(x.shape[1]):
            state = keep[:, step] * state + (1 - keep[:, step]) * value[:, step]
            states.append(state)
        return self.out(torch.stack(states, dim=1) * functional.silu(self.gate(x)))


class Convolution(nn.Module):
    """A convolution over the tokens before."""

    def __init__(self, config: RecurrentLikeConfig) -> None:
        super().__init__()
        self.kernel = config.kernel
        self.inner = nn.Conv1d(config.width, config.width, config.kernel)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        padded = functional.pad(x.transpose(1, 2), (self.kernel - 1, 0))
        return self.out(functional.gelu(self.inner(padded)).transpose(1, 2))


class Block(nn.Module):
    """Mixer, then a feed-forward network."""

    def __init__(self, config: RecurrentLikeConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(config.width)
        self.mixer = Recurrence(config) if config.kind == "recurrence" else Convolution(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class Lstm(nn.Module):
    """One LSTM, nothing around it."""

    def __init__(self, config: RecurrentLikeConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.width, config.width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.lstm(x)[0]


class RecurrentLike(nn.Module):
    """The model."""

    def __init__(self, config: RecurrentLikeConfig) -> None:
        super().__init__()
        layer = Lstm if config.kind == "lstm" else Block
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=0.3)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
