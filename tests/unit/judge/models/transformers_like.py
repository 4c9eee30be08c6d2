"""Any causal model of transformers, at a small size, under the contract of a path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import Tensor, nn


@dataclass
class TransformersLikeConfig:
    """The architecture's name in transformers, and its settings."""

    kind: str = "llama"
    settings: dict[str, Any] = field(default_factory=dict)


class TransformersLike(nn.Module):
    """Logits of the wrapped model."""

    def __init__(self, config: TransformersLikeConfig) -> None:
        super().__init__()
        settings = transformers.AutoConfig.for_model(config.kind, **config.settings)
        self.inner = transformers.AutoModelForCausalLM.from_config(settings)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        return self.inner(input_ids=input_ids, use_cache=False).logits
