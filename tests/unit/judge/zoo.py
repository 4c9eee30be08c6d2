"""Sound models of many kinds, for the judge to pass: a file of models/, and the settings of one kind."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_intern_cli.brains import blueprints
from ml_intern_cli.resources import resource
from tests.judged_path import MODELS


@dataclass(frozen=True)
class Kind:
    """One sound model."""

    file: str
    model_class: str
    config: dict[str, Any] = field(default_factory=dict)
    seq_len: int = 64


def _transformers(kind: str, **settings: Any) -> Kind:
    return Kind("transformers_like.py", "TransformersLike", {"kind": kind, "settings": settings})


_SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}

OWN = {
    "mini-gpt": Kind("mini_gpt.py", "MiniGPT", {"hidden_size": 48, "num_layers": 2}),
    "gpt2": Kind("gpt2_like.py", "Gpt2Like"),
    "gpt2-untied": Kind("gpt2_like.py", "Gpt2Like", {"tie_word_embeddings": False, "dropout": 0.0}),
    "llama": Kind("llama_like.py", "LlamaLike"),
    "llama-tied": Kind("llama_like.py", "LlamaLike", {"tie_word_embeddings": True}),
    "qk-norm": Kind("llama_like.py", "LlamaLike", {"qk_norm": True}),
    "sliding-window": Kind("llama_like.py", "LlamaLike", {"sliding_window": 16}),
    "scaled-embeddings": Kind(
        "llama_like.py", "LlamaLike", {"scale_embeddings": True, "tie_word_embeddings": True}
    ),
    "parallel": Kind("llama_like.py", "LlamaLike", {"parallel": True}),
    "post-norm": Kind("llama_like.py", "LlamaLike", {"norm": "post"}),
    "post-norm-wide": Kind("llama_like.py", "LlamaLike", {"norm": "post", "hidden_size": 128}),
    "branch-norm": Kind("llama_like.py", "LlamaLike", {"norm": "branch"}),
    "both-norms": Kind("llama_like.py", "LlamaLike", {"norm": "both"}),
    "zero-outputs": Kind("llama_like.py", "LlamaLike", {"zero_init_outputs": True}),
    "mixtral-alibi": Kind("mixtral_like.py", "MixtralLike"),
    "mixtral-not-normalised": Kind("mixtral_like.py", "MixtralLike", {"norm_topk_prob": False}),
    "recurrence": Kind("recurrent_like.py", "RecurrentLike", {"kind": "recurrence"}),
    "convolution": Kind("recurrent_like.py", "RecurrentLike", {"kind": "convolution"}),
    "lstm": Kind("recurrent_like.py", "RecurrentLike", {"kind": "lstm", "layers": 2}),
}
TRANSFORMERS = {
    "hf-gpt2": _transformers("gpt2", n_embd=48, n_layer=2, n_head=4, n_positions=128),
    "hf-llama": _transformers("llama", **_SMALL),
    "hf-qwen3": _transformers("qwen3", **_SMALL, head_dim=12),
    "hf-mistral": _transformers("mistral", **_SMALL, sliding_window=16),
    "hf-gemma2": _transformers("gemma2", **_SMALL, head_dim=12, sliding_window=16, query_pre_attn_scalar=12),
    "hf-olmo2": _transformers("olmo2", **_SMALL),
    "hf-gpt-neox": _transformers(
        "gpt_neox", **{k: v for k, v in _SMALL.items() if k != "num_key_value_heads"}
    ),
    "hf-mixtral": _transformers("mixtral", **_SMALL, num_local_experts=4, num_experts_per_tok=2),
    "hf-bloom": _transformers("bloom", hidden_size=48, n_layer=2, n_head=4),
    "hf-mpt": _transformers("mpt", d_model=128, n_heads=4, n_layers=2, max_seq_len=128),
    "hf-mamba": _transformers("mamba", hidden_size=48, num_hidden_layers=2, state_size=8, time_step_rank=4),
    "hf-phi": _transformers("phi", **_SMALL),
    "hf-smollm3": _transformers("smollm3", **_SMALL, no_rope_layers=[1, 0]),
}


def write(directory: Path, kind: Kind, *edits: tuple[str, str], vocab_size: int) -> Path:
    """``path-a/`` with the sound model, or with a defect planted by replacing text in it."""
    path = directory / "path-a"
    path.mkdir(parents=True)
    source = (MODELS / kind.file).read_text()
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        source = source.replace(old, new)
    (path / "model.py").write_text(source)
    config = {"_model_class": kind.model_class, "vocab_size": vocab_size, **kind.config}
    if "settings" in config:
        config["settings"] = {"vocab_size": vocab_size, **config["settings"]}
    (path / "config.json").write_text(json.dumps(config))
    (path / "train_config.json").write_text(json.dumps({"seq_len": kind.seq_len}))
    return path


def write_blueprint(
    directory: Path,
    name: str,
    *edits: tuple[str, str],
    variant: str,
    params: int,
    vocab_size: int,
    **config: Any,
) -> Path:
    """``path-a/`` with a variant of a blueprint at a size."""
    blueprint = blueprints.load(name)
    sizing = blueprint.solve(params, vocab_size=vocab_size, seq_len=128)
    source = (resource("blueprints") / name.replace("-", "_") / blueprint.VARIANTS[variant].file).read_text()
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        source = source.replace(old, new)
    path = directory / "path-a"
    path.mkdir(parents=True)
    (path / "model.py").write_text(source)
    values = {**sizing.config, **blueprint.CONFIG_EXTRAS, **config}
    (path / "config.json").write_text(json.dumps(values))
    (path / "train_config.json").write_text(json.dumps({"seq_len": 128}))
    return path
