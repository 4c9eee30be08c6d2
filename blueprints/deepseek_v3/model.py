"""DeepSeek-V3: latent attention, fine-grained experts, balance without an auxiliary loss.

Covered: multi-head latent attention (MLA) with decoupled rotary positions, DeepSeekMoE with shared
experts, sigmoid gating with bias-corrected top-k and group limits, the bias update that keeps the
experts' load even, leading dense layers, multi-token prediction (MTP), YaRN.
Not covered: key-value caching, FP8, expert parallelism.

Field names of the configuration and parameter names are those of `transformers`, so a checkpoint
of this module loads there as `DeepseekV3ForCausalLM`, and the other way round.

Sources:
    DeepSeek-V3, arXiv 2412.19437 (sections 2.1 and 2.2); DeepSeek-V2 (MLA), arXiv 2405.04434;
    auxiliary-loss-free balancing, arXiv 2408.15664; YaRN, arXiv 2309.00071;
    parameter layout: github.com/huggingface/transformers, models/deepseek_v3.

Shapes: B batch, T positions, N = B * T tokens, H hidden size, A attention heads, E routed experts,
K experts per token, S = N * K routed rows, I width of one expert, V vocabulary.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call"
# (calling a module or a tensor's method is untyped in PyTorch)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

# The kernels of autograd itself; they have no public name.
softmax_backward = torch.ops.aten._softmax_backward_data  # noqa: SLF001
silu_backward = torch.ops.aten.silu_backward.grad_input

LATENT_NORM_EPS = 1e-6  # of the norms inside attention; the published code does not take it from the config


@dataclass
class DeepseekV3Config:
    """The architecture's numbers, under transformers' names; the defaults are the published model.

    Raises:
        ValueError: the numbers contradict each other.
    """

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432  # of the dense layers
    moe_intermediate_size: int = 2048  # of one expert
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 3  # that many leading layers have no experts
    num_attention_heads: int = 128
    num_key_value_heads: int | None = None  # as many as attention heads: MLA shares the latent instead
    q_lora_rank: int | None = 1536  # None: queries are not compressed
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
    bias_update_speed: float = 0.001  # per optimizer step (2412.19437, section 4.2)
    num_nextn_predict_layers: int = 0  # multi-token prediction modules, for training only
    mtp_loss_weight: float = 0.3  # lambda of 2412.19437, section 4.2
    max_position_embeddings: int = 4096
    rope_parameters: dict[str, Any] | None = None  # None: plain RoPE with base 10,000
    rope_interleave: bool = True
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError("num_key_value_heads must equal num_attention_heads")
        if self.qk_rope_head_dim % 2:
            raise ValueError("qk_rope_head_dim must be even")
        if self.n_routed_experts % self.n_group or self.n_routed_experts // self.n_group < 2:
            raise ValueError("n_group must divide n_routed_experts into groups of at least two")
        if not 0 < self.topk_group <= self.n_group:
            raise ValueError("topk_group must be in 1..n_group")
        if not 0 < self.num_experts_per_tok <= self.topk_group * (self.n_routed_experts // self.n_group):
            raise ValueError("num_experts_per_tok exceeds the experts of topk_group groups")


def is_plain_cpu(x: Tensor) -> bool:
    """Whether the hand-written kernels apply: on a CPU, where no compiler is at work.

    They save passes over memory, which is what a small model on a CPU spends its time on besides
    matrix products. Elsewhere the same mathematics is left to PyTorch's kernels and compiler.
    """
    return x.is_cpu and not torch.compiler.is_compiling()


# Under autocast, what a hand-written kernel takes is cast before and its gradients are cast back by autograd.
in_autocast_precision = custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
as_in_forward = custom_bwd(device_type="cpu")


# ---------------------------------------------------------------------------------------------
# Normalisation
# ---------------------------------------------------------------------------------------------


class _RMSNormFunction(torch.autograd.Function):
    """RMS normalisation in as few passes over memory as PyTorch's operators on a CPU allow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalises ``x`` (N, H), in the weight's precision; under autocast the result is in that one's."""
        wide = x.to(weight.dtype)
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (N, 1)
        ctx.save_for_backward(x, weight, scale)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        return torch.mul(wide * scale, weight, out=torch.empty_like(x, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With r = scale: dw = sum(g * x * r) over rows, dx = g * w * r - x * r**3 * mean(g * x * w)."""
        x, weight, scale = ctx.saved_tensors
        x, grad = x.to(weight.dtype), grad.to(weight.dtype)
        product = grad * x
        grad_weight = product.t().mv(scale.squeeze(1))
        shift = product.mv(weight).unsqueeze(1) * scale.pow(3).div_(-x.shape[-1])  # (N, 1)
        return (grad * weight).mul_(scale).addcmul_(x, shift), grad_weight, None


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, arXiv 1910.07467."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension of ``x`` (..., H)."""
        if is_plain_cpu(x):
            return _RMSNormFunction.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps).view(x.shape)
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


# ---------------------------------------------------------------------------------------------
# Rotary positions
# ---------------------------------------------------------------------------------------------


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's temperature for a context that is ``factor`` times longer (2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_factor(config: DeepseekV3Config) -> float:
    """How many times longer the context is than it was in pre-training."""
    rope = config.rope_parameters or {}
    return rope.get("factor") or config.max_position_embeddings / rope["original_max_position_embeddings"]


def attention_scale(config: DeepseekV3Config) -> float:
    """What scores are multiplied with before the softmax."""
    rope = config.rope_parameters or {}
    scale = float((config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5)
    if rope.get("rope_type") == "yarn" and rope.get("mscale_all_dim"):
        scale *= yarn_mscale(yarn_factor(config), rope["mscale_all_dim"]) ** 2
    return scale


def rope_frequencies(config: DeepseekV3Config) -> tuple[Tensor, float]:
    """Angles per position (qk_rope_head_dim / 2,), and the factor on cosine and sine.

    Raises:
        ValueError: a rope_type other than "default" and "yarn".
    """
    rope = config.rope_parameters or {}
    base, dim = rope.get("rope_theta", 10000.0), config.qk_rope_head_dim
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return frequencies, 1.0
    if kind != "yarn":
        raise ValueError(f"rope_type must be 'default' or 'yarn', not {kind!r}")

    original, factor = rope["original_max_position_embeddings"], yarn_factor(config)

    def dimension_of(rotations: float) -> float:
        """The dimension that turns so many times within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dimension_of(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(dimension_of(rope.get("beta_slow") or 1)), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    frequencies = frequencies * (1 - ramp) + frequencies / factor * ramp
    scale = rope.get("attention_factor")
    if scale is None:
        mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        if mscale and mscale_all_dim:
            scale = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
        else:
            scale = yarn_mscale(factor, 1.0)
    return frequencies, scale


class RotaryEmbedding(nn.Module):
    """The rotation of every position, computed once per forward pass and shared by all layers."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        frequencies, self.scale = rope_frequencies(config)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, num_positions: int) -> Tensor:
        """Returns complex numbers (T, 1, qk_rope_head_dim / 2)."""
        dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
        positions = torch.arange(num_positions, device=self.frequencies.device, dtype=dtype)
        angles = torch.outer(positions, self.frequencies.to(dtype)).unsqueeze(1)
        return torch.polar(torch.full_like(angles, self.scale), angles)


def rotate(x: Tensor, rotary: Tensor, *, interleaved: bool) -> Tensor:
    """Rotates the pairs of ``x`` (B, T, A, D), which are neighbours or, not interleaved, D / 2 apart.

    The result has them as neighbours. Queries and keys meet only in a dot product, so their order is free.
    """
    wide = x.to(rotary.real.dtype)
    pairs = (
        torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
        if interleaved
        else torch.complex(*wide.chunk(2, -1))
    )
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)


# ---------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------


class _CausalAttention(torch.autograd.Function):
    """Softmax attention on a CPU, a block of queries at a time against the keys up to its end.

    Of what a causal mask would discard, little is computed: 5 of 8 products for four blocks. PyTorch's
    CPU kernels compute all when keys and values differ in width.
    """

    BLOCK = 64  # queries; shorter blocks skip more but multiply less efficiently

    @staticmethod
    @in_autocast_precision
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends with scaled queries and keys (B * A, T, D) to values (B * A, T, D')."""
        out = torch.empty_like(value)
        attended = []
        for rows, seen in _CausalAttention._blocks(query.shape[1]):
            future = query.new_full((rows.stop - rows.start, seen.stop), -torch.inf).triu_(rows.start + 1)
            scores = torch.baddbmm(future, query[:, rows], key[:, seen].transpose(1, 2))
            attended.append(scores.softmax(-1))
            out[:, rows] = torch.bmm(attended[-1], value[:, seen])
        ctx.save_for_backward(query, key, value, *attended)
        return out

    @staticmethod
    @as_in_forward
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, block by block as in the forward pass."""
        query, key, value, *attended = ctx.saved_tensors
        grad_query, grad_key, grad_value = (
            torch.empty_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
        )
        for (rows, seen), weights in zip(_CausalAttention._blocks(query.shape[1]), attended, strict=True):
            grad_value[:, seen] += torch.bmm(weights.transpose(1, 2), grad[:, rows])
            grad_weights = torch.bmm(grad[:, rows], value[:, seen].transpose(1, 2))
            grad_scores = softmax_backward(grad_weights, weights, -1, weights.dtype)
            grad_query[:, rows] = torch.bmm(grad_scores, key[:, seen])
            grad_key[:, seen] += torch.bmm(grad_scores.transpose(1, 2), query[:, rows])
        return grad_query, grad_key, grad_value

    @staticmethod
    def _blocks(length: int) -> list[tuple[slice, slice]]:
        """The queries of each block, and the keys that it sees."""
        starts = range(0, length, _CausalAttention.BLOCK)
        ends = [min(start + _CausalAttention.BLOCK, length) for start in starts]
        return [(slice(start, end), slice(0, end)) for start, end in zip(starts, ends, strict=True)]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """Attends with queries and keys (B, A, T, D) to values (B, A, T, D'); position t sees 0 to t."""
    if not is_plain_cpu(query):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    flat = (x.flatten(0, 1) for x in (query * scale, key, value))
    return _CausalAttention.apply(*flat).view(value.shape)


class Attention(nn.Module):
    """Multi-head latent attention: keys and values come from one small latent per token (2405.04434, 2.1)."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        nope_dim, rope_dim, v_dim = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.config = config
        self.qk_dim = nope_dim + rope_dim
        self.scale = attention_scale(config)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * self.qk_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * self.qk_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.kv_lora_rank + rope_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, eps=LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, heads * (nope_dim + v_dim), bias=False)
        self.o_proj = nn.Linear(heads * v_dim, hidden, bias=False)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Attends causally within each row of ``x`` (B, T, H)."""
        config, heads = self.config, self.config.num_attention_heads
        if config.q_lora_rank is None:
            query = self.q_proj(x)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        query = query.unflatten(-1, (heads, self.qk_dim))  # (B, T, A, D)
        q_nope, q_rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], -1)

        latent, k_rope = self.kv_a_proj_with_mqa(x).split([config.kv_lora_rank, config.qk_rope_head_dim], -1)
        key_value = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (heads, -1))
        k_nope, value = key_value.split([config.qk_nope_head_dim, config.v_head_dim], -1)

        query = torch.cat([q_nope, rotate(q_rope, rotary, interleaved=config.rope_interleave)], -1)
        k_rotated = rotate(
            k_rope.unsqueeze(2), rotary, interleaved=config.rope_interleave
        )  # one for all heads
        key = torch.cat([k_nope, k_rotated.expand(-1, -1, heads, -1)], -1)
        out = causal_attention(*(part.transpose(1, 2) for part in (query, key, value)), scale=self.scale)
        return self.o_proj(out.transpose(1, 2).flatten(2))


# ---------------------------------------------------------------------------------------------
# Feed-forward: dense, and mixture of experts
# ---------------------------------------------------------------------------------------------


class _SegmentedSwiGLU(torch.autograd.Function):
    """SwiGLU networks on a CPU, one per segment of the rows, which stays cached from step to step."""

    # Of rows. In bfloat16 every new length of a segment costs ten times its product: oneDNN compiles
    # kernels per shape. Segments that are a little too long come in few lengths.
    MULTIPLE = 32

    @staticmethod
    @in_autocast_precision
    def forward(ctx: Any, rows: Tensor, gate_up: Tensor, down: Tensor, counts: list[int]) -> Tensor:
        """Maps the ``counts[e]`` rows of segment e, of ``rows`` (S, H), by ``gate_up[e]`` and ``down[e]``.

        Args:
            ctx: Keeps what the backward pass needs.
            rows: All segments, one after the other.
            gate_up: Matrices (E, 2 * I, H): the gates' rows above those of the values.
            down: Matrices (E, H, I).
            counts: The length of each segment.
        """
        inner = rows.new_empty(len(rows), gate_up.shape[1])
        out = torch.empty_like(rows)
        segments = zip(*(x.split(counts) for x in (rows, inner, out)), gate_up, down, strict=True)
        for row, inner_part, out_part, up_matrix, down_matrix in segments:
            torch.mm(row, up_matrix.t(), out=inner_part)
            gate, value = inner_part.chunk(2, dim=-1)
            torch.mm(F.silu(gate).mul_(value), down_matrix.t(), out=out_part)
        ctx.save_for_backward(rows, gate_up, down, inner)
        ctx.counts = counts
        return out

    @staticmethod
    @as_in_forward
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the rows and of every matrix; zero for an expert without rows."""
        rows, gate_up, down, inner = ctx.saved_tensors
        grad_rows, grad_gate_up, grad_down = (torch.empty_like(x) for x in (rows, gate_up, down))
        by_row = zip(*(x.split(ctx.counts) for x in (rows, inner, grad, grad_rows)), strict=True)
        by_expert = zip(gate_up, down, grad_gate_up, grad_down, strict=True)
        for (row, inner_part, grad_out, grad_row), (
            up_matrix,
            down_matrix,
            grad_up_matrix,
            grad_down_matrix,
        ) in zip(by_row, by_expert, strict=True):
            gate, value = inner_part.chunk(2, dim=-1)
            opened = F.silu(gate)
            torch.mm(grad_out.t(), opened * value, out=grad_down_matrix)
            grad_product = grad_out @ down_matrix
            grad_inner = torch.empty_like(inner_part)
            grad_gate, grad_value = grad_inner.chunk(2, dim=-1)
            torch.mul(grad_product, opened, out=grad_value)
            silu_backward(grad_product.mul_(value), gate, grad_input=grad_gate)
            torch.mm(grad_inner, up_matrix, out=grad_row)
            torch.mm(grad_inner.t(), row, out=grad_up_matrix)
        return grad_rows, grad_gate_up, grad_down, None


class MLP(nn.Module):
    """SwiGLU, arXiv 2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, H) to (B, T, H)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Chooses K experts per token by sigmoid affinity plus a bias; the bias has no part in the weights.

    Source: 2412.19437, section 2.1.2, equations 12 to 16.
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.top_k, self.num_groups, self.top_groups = (
            config.num_experts_per_tok,
            config.n_group,
            config.topk_group,
        )
        self.is_normalised, self.scaling = config.norm_topk_prob, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.register_buffer("load", torch.zeros(config.n_routed_experts), persistent=False)
        self.e_score_correction_bias: Tensor
        self.load: Tensor  # rows that each expert was given since the last update

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns weights and expert indices, both (N, K), of the tokens ``x`` (N, H)."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight
            affinity = F.linear(x.to(weight.dtype), weight).sigmoid()  # (N, E), never in half precision
        with torch.no_grad():
            choice = affinity + self.e_score_correction_bias
            if self.top_groups < self.num_groups:
                groups = choice.view(len(x), self.num_groups, -1)
                best_two = groups.topk(2, dim=-1).values.sum(-1)  # (N, groups)
                best = best_two.topk(self.top_groups, dim=-1, sorted=False).indices
                shut = torch.ones_like(groups[..., 0], dtype=torch.bool).scatter_(1, best, value=False)
                choice = groups.masked_fill(shut.unsqueeze(-1), -torch.inf).view_as(choice)
            experts = choice.topk(self.top_k, dim=-1, sorted=False).indices
        weights = affinity.gather(1, experts)
        if self.is_normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scaling, experts

    def count(self, experts: Tensor) -> Tensor:
        """How often each expert (E,) stands in ``experts`` (N, K)."""
        choices = experts.flatten()
        # As bincount, but with a size that a compiler knows beforehand.
        return choices.new_zeros(len(self.load)).scatter_add_(0, choices, torch.ones_like(choices))

    @torch.no_grad()
    def update_bias(self, speed: float) -> None:
        """Lowers the bias of experts above the mean load by ``speed`` and raises it below; forgets the load.

        Source: arXiv 2408.15664, algorithm 1.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.load)
        self.e_score_correction_bias += speed * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class _Dispatch(torch.autograd.Function):
    """Copies each token to its K rows; the gradient is the sum over them, gathered and not scattered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_row: Tensor, row_of_choice: Tensor) -> Tensor:
        """Maps tokens (N, H) to rows (S, H)."""
        ctx.save_for_backward(row_of_choice)
        return x.index_select(0, token_of_row)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Maps the gradient of rows (S, H) to that of tokens (N, H)."""
        (row_of_choice,) = ctx.saved_tensors
        return F.embedding_bag(row_of_choice, grad, mode="sum"), None, None


class _Combine(torch.autograd.Function):
    """Sums the K rows of each token by weight, gathered and not scattered."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor, choice_of_row: Tensor, row_of_choice: Tensor
    ) -> Tensor:
        """Maps rows (S, H) and weights (N, K) to tokens (N, H)."""
        ctx.save_for_backward(rows, weights, choice_of_row, row_of_choice)
        return F.embedding_bag(row_of_choice, rows, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Maps the gradient of tokens (N, H) to those of rows and weights."""
        rows, weights, choice_of_row, row_of_choice = ctx.saved_tensors
        grad_of_row = grad.index_select(0, token_of(choice_of_row, weights.shape))
        grad_weights = (grad_of_row * rows).sum(-1)[row_of_choice]
        weight_of_row = F.pad(weights.flatten(), (0, 1))[choice_of_row]  # zero for rows that pad a segment
        return grad_of_row.mul_(weight_of_row.unsqueeze(1)), grad_weights, None, None


def token_of(choice_of_row: Tensor, shape: torch.Size) -> Tensor:
    """The token (S,) of each row's choice among (N, K); of a row that pads a segment, any."""
    return (choice_of_row // shape[1]).clamp_(max=shape[0] - 1)


def sort_by_expert(experts: Tensor, counts: Tensor, *, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lays the choices (N, K) out in rows, one segment per expert.

    Args:
        experts: The chosen experts (N, K).
        counts: How often each expert (E,) is chosen.
        multiple: What a segment's length is a multiple of.

    Returns:
        The choice of each row (S,), which is N * K for a row that only pads its segment; the row of each
        choice (N, K); the length of each segment (E,).
    """
    choices = experts.flatten().argsort()
    positions = torch.arange(len(choices), device=choices.device)
    if multiple == 1:
        choice_of_row, lengths = choices, counts
    else:
        lengths = (counts + multiple - 1) // multiple * multiple
        padding = (lengths - counts).cumsum(0) - (lengths - counts)  # rows before each expert's segment
        positions = positions + padding.repeat_interleave(counts)
        choice_of_row = choices.new_full((int(lengths.sum()),), len(choices))
        choice_of_row[positions] = choices
    row_of_choice = torch.empty_like(choices)
    row_of_choice[choices] = positions
    return choice_of_row, row_of_choice.view_as(experts), lengths


def segmented_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiplies segment e, the next ``counts[e]`` of ``rows`` (S, D), with ``weight[e]`` (O, D)."""
    device = rows.device.type
    if torch.is_autocast_enabled(device):
        rows, weight = rows.to(torch.get_autocast_dtype(device)), weight.to(torch.get_autocast_dtype(device))
    if rows.dtype is torch.bfloat16:  # the one type that compilers know this operator for
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=counts.cumsum(0, dtype=torch.int32))
    return torch.cat([F.linear(*pair) for pair in zip(rows.split(counts.tolist()), weight, strict=True)])


class Experts(nn.Module):
    """E SwiGLU networks; each works on one contiguous segment of the rows, sorted by expert."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor, rows_per_expert: Tensor) -> Tensor:
        """Runs tokens ``x`` (N, H) through ``experts`` (N, K) and sums the results by ``weights`` (N, K)."""
        on_cpu = is_plain_cpu(x)
        choice_of_row, row_of_choice, lengths = sort_by_expert(
            experts, rows_per_expert, multiple=_SegmentedSwiGLU.MULTIPLE if on_cpu else 1
        )
        rows = _Dispatch.apply(x, token_of(choice_of_row, experts.shape), row_of_choice)
        if on_cpu:
            rows = _SegmentedSwiGLU.apply(rows, self.gate_up_proj, self.down_proj, lengths.tolist())
        else:
            gate, value = segmented_linear(rows, self.gate_up_proj, lengths).chunk(2, dim=-1)
            rows = segmented_linear(F.silu(gate) * value, self.down_proj, lengths)
        return _Combine.apply(rows, weights.to(rows.dtype), choice_of_row, row_of_choice)


class MoE(nn.Module):
    """Shared experts for every token, plus K of E routed ones (arXiv 2401.06066)."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, H) to (B, T, H)."""
        tokens = x.view(-1, x.shape[-1])
        weights, experts = self.gate(tokens)
        rows_per_expert = self.gate.count(experts)
        if self.training:
            self.gate.load += rows_per_expert
        routed: Tensor = self.experts(tokens, weights, experts, rows_per_expert)
        return self.shared_experts(x) + routed.view_as(x)


# ---------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: DeepseekV3Config, *, is_dense: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if is_dense else MoE(config)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Maps (B, T, H) to (B, T, H)."""
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        return x + self.mlp(self.post_attention_layernorm(x))


class SharedHead(nn.Module):
    """The norm before the output head, which a prediction module shares with the model."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class PredictionLayer(DecoderLayer):
    """One multi-token prediction module (2412.19437, section 2.2), stored after the last layer."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__(config, is_dense=False)
        self.enorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def predict(self, hidden: Tensor, embedded: Tensor, rotary: Tensor) -> Tensor:
        """Joins what is known up to each position with the next token's embedding, both (B, T, H)."""
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        return self.shared_head.norm(self(x, rotary))


class Decoder(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.num_layers = config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [
            DecoderLayer(config, is_dense=i < config.first_k_dense_replace) for i in range(self.num_layers)
        ]
        layers += [PredictionLayer(config) for _ in range(config.num_nextn_predict_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Maps tokens (B, T) to normalised hidden states (B, T, H)."""
        x = self.embed_tokens(input_ids)
        rotary = self.rotary_emb(x.shape[1])
        for layer in self.layers[: self.num_layers]:
            x = layer(x, rotary)
        return self.norm(x)


class _LinearCrossEntropy(torch.autograd.Function):
    """Output head and cross-entropy together, with their gradients, a chunk of tokens at a time.

    The logits, by far the largest tensor of a small model, are never whole in memory, and their
    gradient is made in their place. As in Liger Kernel, arXiv 2410.10989, section 3.2.
    """

    CHUNK = 512  # tokens; each chunk passes over the whole gradient of the weight

    @staticmethod
    @in_autocast_precision
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of ``targets`` (N,) under the logits ``hidden @ weight.T`` (N, H), (V, H)."""
        wide = torch.promote_types(weight.dtype, torch.float32)  # of probabilities, and of sums over chunks
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=wide)
        total = grad_weight.new_zeros(())
        chunks = zip(
            *(x.split(_LinearCrossEntropy.CHUNK) for x in (hidden, targets, grad_hidden)), strict=True
        )
        for part, target, grad_part in chunks:
            probabilities = F.softmax(part @ weight.t(), dim=-1, dtype=wide)
            chosen = probabilities.gather(1, target.unsqueeze(1))
            # A probability that underflows to zero would be an infinite loss.
            total -= chosen.clamp_(min=torch.finfo(chosen.dtype).tiny).log_().sum()
            grad_logits = probabilities.scatter_add_(1, target.unsqueeze(1), -torch.ones_like(chosen))
            grad_logits = grad_logits.to(weight.dtype)
            torch.mm(grad_logits, weight, out=grad_part)
            grad_weight += grad_logits.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / len(targets)

    @staticmethod
    @as_in_forward
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scales what the forward pass left."""
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad / len(grad_hidden)
        return grad_hidden * scale, grad_weight * scale, None


class DeepseekV3(nn.Module):
    """The language model. Weights start as the paper's: normal with ``initializer_range``."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        # Tied to the embedding there is no second matrix, and none in the checkpoint.
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=config.initializer_range)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, H)."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Maps tokens (B, T) to logits (B, T, V)."""
        return F.linear(self.model(input_ids), self.head_weight)

    def loss(self, input_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to minimise, and the next-token cross-entropy in it, in nats per token.

        They differ by the multi-token term: module k, at position t, predicts the target of position
        t + k from the tokens up to there; the last k positions have no such target.

        Args:
            input_ids: Tokens (B, T).
            targets: The token after each of them (B, T).
        """
        hidden = self.model(input_ids)
        cross_entropy = self._cross_entropy(hidden, targets)
        predictors = self.model.layers[self.model.num_layers :]
        if not predictors:
            return cross_entropy, cross_entropy
        rotary = self.model.rotary_emb(input_ids.shape[1])
        further = torch.zeros_like(cross_entropy)
        for depth, predictor in enumerate(predictors, start=1):
            assert isinstance(predictor, PredictionLayer)
            embedded = self.model.embed_tokens(targets[:, depth - 1 :])
            length = embedded.shape[1]
            hidden = predictor.predict(hidden[:, :length], embedded, rotary[:length])
            further = further + self._cross_entropy(hidden[:, : length - 1], targets[:, depth:])
        return cross_entropy + self.config.mtp_loss_weight * further / len(predictors), cross_entropy

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of ``hidden`` (B, T, H) against ``targets`` (B, T)."""
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if is_plain_cpu(hidden) and torch.is_grad_enabled():
            return _LinearCrossEntropy.apply(hidden, self.head_weight, targets)
        return F.cross_entropy(F.linear(hidden, self.head_weight).float(), targets)

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Evens the experts' load out; call once after each optimizer step."""
        for module in self.modules():
            if isinstance(module, Router):
                module.update_bias(self.config.bias_update_speed)
