"""DeepSeek-V3 from transformers' own building block, under the contract of a path.

The layers are `transformers.DeepseekV3ForCausalLM`'s and so are the parameter names; added here are
the update of the routers' bias, which transformers leaves to the trainer, and logits as a plain tensor.

Sources: github.com/huggingface/transformers, models/deepseek_v3; bias update: arXiv 2408.15664.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter


@dataclass
class DeepseekV3Config:
    """The fields of `transformers.DeepseekV3Config` that matter here, and the speed of the bias update."""

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 3
    num_attention_heads: int = 128
    num_key_value_heads: int | None = None
    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    n_routed_experts: int = 256
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    bias_update_speed: float = 0.001
    max_position_embeddings: int = 4096
    rope_parameters: dict[str, Any] | None = None
    rope_interleave: bool = True
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None


class DeepseekV3(nn.Module):
    """transformers' decoder and output head."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.config = config
        whole = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**asdict(config)))
        self.model = whole.model
        # Tied to the embedding there is no second matrix, and none in the checkpoint.
        self.lm_head = None if config.tie_word_embeddings else whole.lm_head
        self.routers = [module for module in self.modules() if isinstance(module, DeepseekV3TopkRouter)]
        for router in self.routers:
            router.register_buffer("load", torch.zeros(config.n_routed_experts), persistent=False)
            router.register_forward_hook(_count_load)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Maps tokens (B, T) to logits (B, T, V)."""
        hidden = self.model(input_ids, use_cache=False).last_hidden_state
        return (
            F.linear(hidden, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)
        )

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Lowers the bias of experts above the mean load and raises it below, then forgets the load."""
        for router in self.routers:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(router.load)
            router.e_score_correction_bias += self.config.bias_update_speed * torch.sign(
                router.load.mean() - router.load
            )
            router.load.zero_()


def _count_load(
    router: nn.Module, _inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Adds the rows that each expert was given: ``outputs`` are router logits, weights and experts (N, K)."""
    if router.training:
        load: Any = router.load
        load += torch.bincount(outputs[2].flatten(), minlength=len(load))
