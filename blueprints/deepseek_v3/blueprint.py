"""DeepSeek-V3 at any scale: sizing, tokenizer, training recipe and sources. Pure Python, no torch.

The family, from which the ratios come (hidden size H, layers L, width of one expert I):

    model        params     H   L  heads  q rank  kv rank  experts  per token     I  dense
    Lite / 16B    15.7B  2048  27     16       –      512       64          6  1408      1
    V2           235.7B  5120  60    128    1536      512      160          6  1536      1
    V3           671.0B  7168  61    128    1536      512      256          8  2048      3

Sources: arXiv 2405.04434 (section 3.1.2 and appendix B), arXiv 2412.19437 (section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ml_intern_cli.errors import InvalidInput

Scalar = bool | int | float | str
Config = dict[str, Scalar | None]

NAME = "deepseek-v3"
TITLE = "DeepSeek-V3"
ALIASES = ("deepseekv3", "deepseek v3", "deepseek_v3", "deep seek v3", "ds-v3", "dsv3")
ARXIV_IDS = ("2412.19437",)
SOURCES = (
    ("DeepSeek-V3 technical report: architecture, balancing, multi-token prediction, hyperparameters", "https://arxiv.org/abs/2412.19437"),
    ("DeepSeek-V2: multi-head latent attention, decoupled rotary positions, the 16B model", "https://arxiv.org/abs/2405.04434"),
    ("DeepSeekMoE: fine-grained and shared experts", "https://arxiv.org/abs/2401.06066"),
    ("Balancing experts' load by a bias, without an auxiliary loss", "https://arxiv.org/abs/2408.15664"),
    ("DeepSeek LLM: learning rate and batch size as powers of the compute", "https://arxiv.org/abs/2401.02954"),
    ("Published configuration and weights", "https://huggingface.co/deepseek-ai/DeepSeek-V3"),
    ("Module and configuration in transformers", "https://huggingface.co/docs/transformers/model_doc/deepseek_v3"),
)  # fmt: skip
CONFIG_EXTRAS: MappingProxyType[str, str | list[str]] = MappingProxyType(
    {
        "_model_class": "DeepseekV3",
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
    }
)
"""What config.json holds beside the configuration, for model.py's loaders and for AutoModelForCausalLM."""

LEAST_STEPS, LARGEST_BATCH = 400, 62_914_560  # DeepSeek-V3's own: 15,360 sequences of 4,096 tokens
MIN_PARAMS, MAX_PARAMS = 500_000, 700_000_000_000


class Variant(NamedTuple):
    """One implementation: a file of this folder that becomes a path's model.py."""

    file: str
    approach: str
    hypothesis: str
    why: str


VARIANTS: MappingProxyType[str, Variant] = MappingProxyType(
    {
        "own": Variant(
            file="model.py",
            approach="own module: MLA, sorted expert dispatch, fused norms and loss",
            hypothesis="the same mathematics with less memory traffic sees more tokens in the same time",
            why="at a fixed time budget the faster of two equal models has the lower loss",
        ),
        "transformers": Variant(
            file="model_transformers.py",
            approach="transformers' DeepseekV3 module with its grouped experts",
            hypothesis="the reference implementation learns at least as well per token",
            why="it is maintained and widely tested, so a slip in the own module would show here",
        ),
    }
)


class Sizing(NamedTuple):
    """A solved configuration.

    Attributes:
        config: Every field of ``DeepseekV3Config``.
        params: All parameters, tied weights once.
        active_params: Those that one token is multiplied with: of the routed experts only its own, and
            the embedding only where it is the output matrix too.
    """

    config: Config
    params: int
    active_params: int
    vocab_size: int


class TokenizerChoice(NamedTuple):
    """A tokenizer worth using. ``hub_id`` ``None``: train a byte-level BPE of this size on the data."""

    hub_id: str | None
    vocab_size: int


class Recipe(NamedTuple):
    """How to train a sizing. ``sources`` says where each number comes from, by field name."""

    learning_rate: float
    min_learning_rate_ratio: float
    warmup_fraction: float
    schedule: str
    beta1: float
    beta2: float
    weight_decay: float
    grad_clip: float
    seq_len: int
    tokens_per_step: int
    sources: dict[str, str]


class _Tier(NamedTuple):
    """What grows in steps: the experts, and how many leading layers go without."""

    from_params: float
    experts: int
    per_token: int
    groups: int
    top_groups: int
    dense: int
    seq_len: int


_TIERS = (
    _Tier(0, 8, 2, 1, 1, 1, 128),
    _Tier(3e6, 8, 2, 1, 1, 1, 256),
    _Tier(3e7, 16, 2, 1, 1, 1, 512),
    _Tier(3e8, 32, 4, 1, 1, 1, 1024),
    _Tier(3e9, 64, 6, 1, 1, 1, 4096),
    _Tier(1e11, 160, 6, 8, 3, 1, 4096),
    _Tier(4e11, 256, 8, 8, 4, 3, 4096),
)

PUBLISHED: MappingProxyType[str, Scalar | None] = MappingProxyType(
    {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "first_k_dense_replace": 3,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "bias_update_speed": 0.001,
        "num_nextn_predict_layers": 0,
        "mtp_loss_weight": 0.3,
        "max_position_embeddings": 4096,
        "rope_parameters": None,
        "rope_interleave": True,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
)
"""The 671B model as it was pre-trained (4,096 positions, plain RoPE), without its prediction module."""
PUBLISHED_PARAMS = 671_026_404_352


# ---------------------------------------------------------------------------------------------
# Sizing
# ---------------------------------------------------------------------------------------------


def solve(params: int, *, vocab_size: int | None = None, seq_len: int | None = None) -> Sizing:
    """The configuration of about ``params`` parameters whose proportions are most like the family's.

    Widths and depths around the family's are tried; for each, the experts' width and then that of the
    dense layers are solved for. The result is within 1 % from 5M parameters up and within 3 % below.

    Raises:
        InvalidInput: ``params`` is outside 500k…700B, or a vocabulary leaves no room for layers.
    """
    if not MIN_PARAMS <= params <= MAX_PARAMS:
        raise InvalidInput(
            f"DeepSeek-V3 can be sized from 500k to 700B parameters, not {params:,}",
            hint="ml-intern size deepseek-v3 10M shows a configuration",
        )
    vocab = vocab_size or tokenizers(params)[0].vocab_size
    positions = seq_len or _tier(params).seq_len
    if abs(params - PUBLISHED_PARAMS) < 0.005 * PUBLISHED_PARAMS and vocab == PUBLISHED["vocab_size"]:
        return _sizing({**PUBLISHED, "max_position_embeddings": positions})
    tolerance = 0.01 if params >= 5_000_000 else 0.03
    fitting = []
    for index, (unlikeness, config) in enumerate(_candidates(params, vocab, positions)):
        error = abs(count(config)[0] / params - 1) / tolerance
        if error <= 1:
            fitting.append((unlikeness + 0.1 * error**2, index, config))
    if not fitting:
        raise InvalidInput(
            f"no DeepSeek-V3 of {params:,} parameters has a vocabulary of {vocab:,}",
            hint="use more parameters or a smaller vocabulary",
        )
    *_, config = min(fitting, key=lambda candidate: candidate[:2])
    return _sizing(config)


def count(config: Config) -> tuple[int, int]:
    """All parameters and those active per token, in closed form, without building anything."""
    n = {name: int(value) for name, value in config.items() if isinstance(value, (int, float))}
    hidden, heads = n["hidden_size"], n["num_attention_heads"]
    qk_dim = n["qk_nope_head_dim"] + n["qk_rope_head_dim"]
    q_rank, kv_rank = n.get("q_lora_rank", 0), n["kv_lora_rank"]
    query = q_rank * (hidden + 1 + heads * qk_dim) if q_rank else hidden * heads * qk_dim
    key_value = hidden * (kv_rank + n["qk_rope_head_dim"]) + kv_rank
    key_value += kv_rank * heads * (n["qk_nope_head_dim"] + n["v_head_dim"])
    attention = query + key_value + heads * n["v_head_dim"] * hidden + 2 * hidden  # and two norms

    expert = 3 * hidden * n["moe_intermediate_size"]
    router = n["n_routed_experts"] * hidden
    sparse = attention + router + expert * (n["n_routed_experts"] + n["n_shared_experts"])
    predictor = sparse + 2 * hidden * hidden + 3 * hidden
    num_dense = min(n["first_k_dense_replace"], n["num_hidden_layers"])
    num_sparse = n["num_hidden_layers"] - num_dense
    num_predictors = n["num_nextn_predict_layers"]

    embedding = n["vocab_size"] * hidden
    total = embedding * (1 if config["tie_word_embeddings"] else 2) + hidden
    total += num_dense * (attention + 3 * hidden * n["intermediate_size"])
    total += num_sparse * sparse + num_predictors * predictor

    idle = (n["n_routed_experts"] - n["num_experts_per_tok"]) * expert * (num_sparse + num_predictors)
    return total, total - idle - (0 if config["tie_word_embeddings"] else embedding)


def count_on_meta(config: Config) -> int:
    """The parameters of model.py built with ``config`` on torch's meta device, tied weights once."""
    import importlib.util
    import sys

    import torch

    spec = importlib.util.spec_from_file_location("deepseek_v3_on_meta", Path(__file__).with_name("model.py"))
    if spec is None or spec.loader is None:
        raise ImportError("model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    with torch.device("meta"):
        model = module.DeepseekV3(module.DeepseekV3Config(**config))
    return sum(parameter.numel() for parameter in model.parameters())


def _sizing(config: Config) -> Sizing:
    params, active_params = count(config)
    return Sizing(config, params, active_params, int(config["vocab_size"] or 0))


def _tier(params: int) -> _Tier:
    return next(tier for tier in reversed(_TIERS) if params >= tier.from_params)


def _between(params: int, small: float, large: float) -> float:
    """A quantity that is a power of the parameters, ``small`` at 1M and ``large`` at the published size."""
    return float(small * (large / small) ** (math.log(params / 1e6) / math.log(PUBLISHED_PARAMS / 1e6)))


def _multiple(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _width_step(width: float) -> int:
    """What a matrix side of about ``width`` should be a multiple of."""
    return next(step for limit, step in ((256, 8), (512, 16), (2048, 32), (math.inf, 64)) if width < limit)


def _candidates(params: int, vocab_size: int, positions: int) -> Iterator[tuple[float, Config]]:
    """Configurations near ``params`` with how unlike the family each is (0: exactly its proportions)."""
    aspect = _between(params, 32, 7168 / 61)  # hidden size per layer
    expert_ratio = _between(params, 0.5, 2048 / 7168)  # expert width per hidden size
    for layers in range(3, 73):
        ideal = layers * aspect
        step = next(
            step for limit, step in ((256, 32), (512, 64), (1536, 128), (math.inf, 256)) if ideal < limit
        )
        widths = {_multiple(ideal * factor / 16, step) for factor in range(4, 33)}
        for hidden in sorted(widths):
            config = _proportioned(params, hidden, layers, vocab_size, positions)
            room = params - count(config | {"moe_intermediate_size": 0, "intermediate_size": 0})[0]
            tier = _tier(params)
            active = tier.per_token + 1
            sparse = layers - tier.dense
            width = room / (3 * hidden * (sparse * (tier.experts + 1) + tier.dense * active))
            if width < 8:
                continue
            config["moe_intermediate_size"] = expert = _multiple(width, _width_step(width))
            room -= 3 * hidden * expert * sparse * (tier.experts + 1)
            ideal_dense = active * expert  # as wide as the experts that a token sees
            dense = room / (3 * hidden * tier.dense)
            if not 0.5 <= dense / ideal_dense <= 2:
                continue
            config["intermediate_size"] = _multiple(dense, _width_step(dense))
            yield (
                math.log(hidden / ideal) ** 2
                + math.log(expert / hidden / expert_ratio) ** 2
                + math.log(dense / ideal_dense) ** 2,
                config,
            )


def _proportioned(params: int, hidden: int, layers: int, vocab_size: int, positions: int) -> Config:
    """Everything but the widths of the feed-forward layers, in the family's proportions."""
    tier = _tier(params)
    head_dim = next(dim for limit, dim in ((512, 32), (1536, 64), (math.inf, 128)) if hidden < limit)
    heads = 128 if hidden >= 5120 else 64 if hidden >= 4096 else max(2, round(hidden / head_dim))
    return {
        **PUBLISHED,
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "first_k_dense_replace": tier.dense,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": 1536 if hidden >= 5120 else None,
        "kv_lora_rank": min(512, max(64, _multiple(hidden / 4, 16))),
        "qk_nope_head_dim": head_dim,
        "qk_rope_head_dim": head_dim // 2,
        "v_head_dim": head_dim,
        "n_routed_experts": tier.experts,
        "num_experts_per_tok": tier.per_token,
        "n_group": tier.groups,
        "topk_group": tier.top_groups,
        # The sum of k experts, each weighted 1/k, is sqrt(k) times smaller than one of them.
        "routed_scaling_factor": 2.5 if tier.per_token == 8 else round(math.sqrt(tier.per_token), 2),
        "max_position_embeddings": positions,
        # The paper's 0.006 at width 7168 in general; its published configuration says 0.02.
        "initializer_range": round(0.5 / math.sqrt(hidden), 4),
        "tie_word_embeddings": params < 1_000_000_000,
    }


# ---------------------------------------------------------------------------------------------
# Tokenizer and recipe
# ---------------------------------------------------------------------------------------------


class _Anchor(NamedTuple):
    """A training whose learning rate and batch are known to be good."""

    compute: float  # FLOPs
    learning_rate: float
    tokens_per_step: int
    source: str


SMALLEST = _Anchor(6 * 632e3 * 1e6, 0.0025, 1024, "the best of 1M-parameter runs on builtin:stories")
LARGEST = _Anchor(
    6 * 37e9 * 14.8e12, 2.2e-4, 15360 * 4096, "DeepSeek-V3's own (arXiv 2412.19437, section 4.2)"
)


def tokenizers(params: int) -> list[TokenizerChoice]:
    """Tokenizers for a model of that size, the preferred one first; the last needs no network."""
    trained = TokenizerChoice(None, 2 ** min(16, max(10, round(math.log2(1900 * (params / 1e6) ** 0.45)))))
    if params >= 3_000_000_000:
        return [TokenizerChoice("deepseek-ai/DeepSeek-V3", 129280), trained]
    if params >= 50_000_000:
        return [TokenizerChoice("gpt2", 50257), trained]
    return [trained]


def recipe(sizing: Sizing, *, tokens: int | None = None) -> Recipe:
    """How to train ``sizing`` on ``tokens`` (default: 20 per active parameter).

    Learning rate and batch are powers of the compute C = 6 · active parameters · tokens, in FLOPs, as
    DeepSeek LLM found them to be. Each goes through two points: what learnt best of the settings tried
    at 1M in two minutes on two CPU cores, and what DeepSeek-V3 was trained with. The exponents that
    follow, -0.088 and 0.40, are near the published -0.125 and 0.327.
    """
    compute = 6 * sizing.active_params * (tokens or 20 * sizing.active_params)
    progress = math.log(compute / SMALLEST.compute) / math.log(LARGEST.compute / SMALLEST.compute)

    def at(small: float, large: float) -> float:
        return float(small * (large / small) ** progress)

    batch = 2 ** round(math.log2(at(SMALLEST.tokens_per_step, LARGEST.tokens_per_step)))
    seq_len = int(sizing.config["max_position_embeddings"] or 0)
    law = f"power of C = {compute:.1e} FLOPs through {SMALLEST.source} and {LARGEST.source}"
    report = "arXiv 2412.19437, section 4.2"
    return Recipe(
        learning_rate=float(f"{at(SMALLEST.learning_rate, LARGEST.learning_rate):.2g}"),
        min_learning_rate_ratio=0.1,
        warmup_fraction=0.02,
        schedule="cosine",
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.1,
        grad_clip=1.0,
        seq_len=seq_len,
        tokens_per_step=max(batch, seq_len),
        sources={
            "learning_rate": law,
            "min_learning_rate_ratio": f"2.2e-4 decays to 2.2e-5, {report}",
            "warmup_fraction": "a round share; DeepSeek-V3 took 2,000 steps of a far longer run",
            "schedule": f"cosine decay, {report}",
            "beta1": report,
            "beta2": report,
            "weight_decay": report,
            "grad_clip": report,
            "seq_len": f"about a document of stories for small models, 4,096 from 3B ({report})",
            "tokens_per_step": law,
        },
    )
