"""No probe fails a sound model of any kind; each planted defect fails its probe, which names the place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.judge.artifact import Artifact, count_parameters
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.probes import PROBES
from ml_intern_cli.judge.probes.bench import Bench
from tests.unit.judge import zoo

KINDS = zoo.OWN | zoo.TRANSFORMERS


@dataclass(frozen=True)
class Defect:
    """A text edit of a sound model, the probe that must fail, and what it must blame (a full match)."""

    kind: str
    edits: tuple[tuple[str, str], ...]
    probe: str
    component: str
    config: dict[str, Any] = field(default_factory=dict)


ROTATE_Q, ROTATE_K = "q = rotate(q, cos, sin)", "k = rotate(k, cos, sin)"
POSITIONS = "positions = torch.arange(start, start + input_ids.shape[1], device=x.device)"
LAYERS = "for index, layer in enumerate(self.layers):"
LLAMA_LAYERS = "nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))"
PRE_ATTENTION = (
    "x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)\n"
    "        return x + self.mlp(self.post_attention_layernorm(x))"
)
FORWARD_HEAD = "return self.lm_head(self.norm(x))"
CROSS_ENTROPY = "cross_entropy = functional.cross_entropy(self(input_ids).flatten(0, 1), targets.flatten())"
WRONG_SHIFT = CROSS_ENTROPY.replace("targets", "targets.roll(-1, 1)").replace("cross_entropy =", "wrong =")
RETURN_LOSS = "return cross_entropy, cross_entropy"
TIE = "self.lm_head.weight = self.embed_tokens.weight"
ONES = "torch.ones(size)"
END_OF_INIT = (
    "        if config.tie_word_embeddings:\n            self.lm_head.weight = self.embed_tokens.weight\n"
)

_ATTENTION = r"layers\.\d\.self_attn"
_LLAMA = {
    "activation-missing": (
        "nonlinearity",
        [("functional.silu(self.gate_proj(x)) * self.up_proj(x)", "self.gate_proj(x) + self.up_proj(x)")],
        r"layers\.0\.mlp",
    ),
    "positions-reset": ("positions", [(POSITIONS, f"{POSITIONS} % 8")], r"inv_freq"),
    "positions-reset-rarely": ("positions", [(POSITIONS, f"{POSITIONS} % 40")], r"inv_freq"),
    "same-position-for-all": ("positions", [(POSITIONS, f"{POSITIONS} * 0")], r"inv_freq"),
    "rope-without-sign": (
        "positions",
        [("torch.cat([-second, first]", "torch.cat([second, first]")],
        _ATTENTION,
    ),
    "rope-for-other-pairs": (
        "positions",
        [("torch.cat([angles, angles], dim=-1)", "angles.repeat_interleave(2, dim=-1)")],
        _ATTENTION,
    ),
    "rope-on-queries-only": ("positions", [(ROTATE_K, "k = k * 1")], r"inv_freq"),
    "rope-on-half-of-the-queries": (
        "positions",
        [(ROTATE_Q, "q = torch.cat([rotate(q, cos, sin)[..., :6], q[..., 6:]], -1)")],
        _ATTENTION,
    ),
    "one-layer-without-rope": (
        "positions",
        [
            (LAYERS, f"{LAYERS}\n            layer.self_attn.plain = index == 1"),
            (ROTATE_Q, "q = q if self.plain else rotate(q, cos, sin)"),
            (ROTATE_K, "k = k if self.plain else rotate(k, cos, sin)"),
        ],
        r"layers\.1\.self_attn",
    ),
    "window-not-declared": (
        "context-reach",
        [("if self.config.sliding_window:", "if True:"), ("now - self.config.sliding_window", "now - 9")],
        _ATTENTION,
    ),
    "blind-to-itself": (
        "context-reach",
        [("seen[None, :] <= now\n", "(seen[None, :] < now) | (seen == 0)\n")],
        _ATTENTION,
    ),
    "first-token-hidden": (
        "context-reach",
        [("seen[None, :] <= now\n", "(seen[None, :] <= now) & ((seen > 0) | (now == 0))\n")],
        _ATTENTION,
    ),
    "skipped-layer": (
        "layer-calls",
        [(LAYERS, "for index, layer in list(enumerate(self.layers))[1:]:")],
        r"layers\.0",
    ),
    "one-layer-fewer": (
        "layer-calls",
        [("for _ in range(config.num_hidden_layers)", "for _ in range(config.num_hidden_layers - 1)")],
        r"layers",
    ),
    "one-layer-twice": (
        "layer-calls",
        [
            (LAYERS, "for index, layer in enumerate([*self.layers, self.layers[1]]):"),
            ("caches[index] if", "None if"),
        ],
        r"layers\.1",
    ),
    "one-block-n-times": (
        "layer-calls",
        [(LLAMA_LAYERS, "nn.ModuleList([DecoderLayer(config)] * config.num_hidden_layers)")],
        r"layers\.1",
    ),
    "shared-attention": (
        "layer-calls",
        [
            (
                END_OF_INIT,
                f"{END_OF_INIT}        self.layers[2].self_attn.q_proj = self.layers[0].self_attn.q_proj\n",
            )
        ],
        r"layers\.2",
    ),
    "no-residual-around-attention": (
        "residual-stream",
        [(PRE_ATTENTION, PRE_ATTENTION.replace("x = x + self", "x = self"))],
        r"layers\.0",
    ),
    "no-residual-around-mlp": (
        "residual-stream",
        [(PRE_ATTENTION, PRE_ATTENTION.replace("return x + self", "return self"))],
        r"layers\.0",
    ),
    "no-norm-before-attention": (
        "normalisation",
        [(PRE_ATTENTION, PRE_ATTENTION.replace("self.input_layernorm(x)", "x"))],
        r"layers\.0",
    ),
    "no-norm-before-mlp": (
        "normalisation",
        [(PRE_ATTENTION, PRE_ATTENTION.replace("self.post_attention_layernorm(x)", "x"))],
        r"layers\.0",
    ),
    "no-final-norm": ("normalisation", [(FORWARD_HEAD, "return self.lm_head(x)")], r"LlamaLike\.forward"),
    "copied-layers": (
        "same-initialisation",
        [
            (
                END_OF_INIT,
                f"{END_OF_INIT}        self.layers[2].load_state_dict(self.layers[1].state_dict())\n",
            )
        ],
        r"layers\.2\.self_attn\.q_proj\.weight",
    ),
    "both-matrices-zero": (
        "symmetry",
        [
            (
                END_OF_INIT,
                (
                    f"{END_OF_INIT}        nn.init.zeros_(self.layers[1].mlp.up_proj.weight)\n"
                    "        nn.init.zeros_(self.layers[1].mlp.down_proj.weight)\n"
                ),
            )
        ],
        r"layers\.1\.mlp\.(up|down)_proj\.weight",
    ),
    "constant-weights": (
        "symmetry",
        [
            (
                END_OF_INIT,
                (
                    f"{END_OF_INIT}        nn.init.constant_(self.layers[1].mlp.up_proj.weight, 0.02)\n"
                    "        nn.init.constant_(self.layers[1].mlp.gate_proj.weight, 0.02)\n"
                    "        nn.init.constant_(self.layers[1].mlp.down_proj.weight, 0.02)\n"
                ),
            )
        ],
        r"layers\.1\.mlp\.(up|gate|down)_proj\.weight",
    ),
    "labels-shifted-twice": (
        "label-shift",
        [
            (
                CROSS_ENTROPY,
                CROSS_ENTROPY.replace("self(input_ids)", "self(input_ids)[:, :-1]").replace(
                    "targets", "targets[:, 1:]"
                ),
            )
        ],
        r"LlamaLike\.loss",
    ),
    "labels-are-the-inputs": (
        "label-shift",
        [(CROSS_ENTROPY, CROSS_ENTROPY.replace("targets", "input_ids"))],
        r"LlamaLike\.loss",
    ),
    "labels-shifted-back": (
        "label-shift",
        [(CROSS_ENTROPY, CROSS_ENTROPY.replace("targets", "targets.roll(1, dims=1)"))],
        r"LlamaLike\.loss",
    ),
    "minimises-another-shift": (
        "label-shift",
        [
            (
                RETURN_LOSS,
                f"{WRONG_SHIFT}\n        return wrong, cross_entropy",
            )
        ],
        r"LlamaLike\.loss",
    ),
    "minimises-the-negative": (
        "label-shift",
        [(RETURN_LOSS, "return -cross_entropy, cross_entropy")],
        r"LlamaLike\.loss",
    ),
    "weights-in-bfloat16": (
        "precision",
        [(END_OF_INIT, f"{END_OF_INIT}        self.norm.weight.data = self.norm.weight.data.bfloat16()\n")],
        r"norm\.weight",
    ),
    "logits-in-float16": (
        "precision",
        [(FORWARD_HEAD, "return self.lm_head(self.norm(x)).half().float()")],
        r"LlamaLike",
    ),
    "softmax-in-bfloat16": (
        "precision",
        [
            (
                CROSS_ENTROPY,
                (
                    "cross_entropy = functional.nll_loss("
                    "self(input_ids).flatten(0, 1).bfloat16().log_softmax(-1).float(), targets.flatten())"
                ),
            )
        ],
        r"LlamaLike",
    ),
    "cache-restarts-positions": (
        "generation",
        [("start = caches[0][0].shape[2] if caches and caches[0] else 0", "start = 0")],
        r"LlamaLike\.generate",
    ),
    "length-not-heeded": (
        "generation",
        [("for _ in range(max_new_tokens):", "for _ in range(20):")],
        r"LlamaLike\.generate",
    ),
    "noise-from-elsewhere": (
        "dropout-mode",
        [
            ("import torch\n", "import random\n\nimport torch\n"),
            (FORWARD_HEAD, "return self.lm_head(self.norm(x)) * (random.random() if self.training else 1.0)"),
        ],
        r"LlamaLike",
    ),
}

DEFECTS = {
    **{
        name: Defect("llama", tuple(edits), probe, component)
        for name, (probe, edits, component) in _LLAMA.items()
    },
    "tie-declared-and-not-made": Defect(
        "llama", ((TIE, "pass"),), "tied-weights", r"embed_tokens\.weight", {"tie_word_embeddings": True}
    ),
    "tie-made-and-not-declared": Defect(
        "llama", (("if config.tie_word_embeddings:", "if True:"),), "tied-weights", r"embed_tokens\.weight"
    ),
    "head-copied": Defect(
        "llama",
        ((TIE, "self.lm_head.weight.data = self.embed_tokens.weight.data.clone()"),),
        "tied-weights",
        r"embed_tokens\.weight",
        {"tie_word_embeddings": True},
    ),
    "embedding-positions-reset": Defect(
        "gpt2",
        (
            (
                "positions = torch.arange(input_ids.shape[1], device=input_ids.device)",
                "positions = torch.arange(input_ids.shape[1], device=input_ids.device) % 16",
            ),
        ),
        "positions",
        r"wpe.*",
    ),
    "embedding-positions-lost": Defect(
        "gpt2",
        (("self.wte(input_ids) + self.wpe(positions)", "self.wte(input_ids) + 0 * self.wpe(positions)"),),
        "positions",
        r"wpe.*",
    ),
    "scores-not-scaled": Defect(
        "gpt2",
        ((" * q.shape[-1] ** -0.5", ""),),
        "attention-scale",
        r"h\.0\.attn",
        {"n_embd": 64, "n_head": 2},
    ),
    "scores-scaled-twice": Defect(
        "gpt2",
        (("q.shape[-1] ** -0.5", "q.shape[-1] ** -1.0"),),
        "attention-scale",
        r"h\.0\.attn",
        {"n_embd": 128, "n_head": 2},
    ),
    "no-dropout-though-configured": Defect(
        "gpt2",
        (
            ("self.attn_dropout(scores.softmax(dim=-1))", "scores.softmax(dim=-1)"),
            ("x = x + self.dropout(self.attn(self.ln_1(x)))", "x = x + self.attn(self.ln_1(x))"),
            ("return x + self.dropout(self.mlp(self.ln_2(x)))", "return x + self.mlp(self.ln_2(x))"),
            (
                "self.drop(self.wte(input_ids) + self.wpe(positions))",
                "self.wte(input_ids) + self.wpe(positions)",
            ),
        ),
        "dropout-mode",
        r"drop|.*dropout",
    ),
    "dropout-though-none-configured": Defect(
        "gpt2-untied",
        (("self.drop = nn.Dropout(config.dropout)", "self.drop = nn.Dropout(0.2)"),),
        "dropout-mode",
        "drop",
    ),
    "expert-without-activation": Defect(
        "mixtral-alibi",
        (("self.down(functional.silu(self.up(x)))", "self.down(self.up(x))"),),
        "nonlinearity",
        r"blocks\.0\.moe\.experts\.\d",
    ),
    "one-expert-per-token": Defect(
        "mixtral-alibi",
        (("topk(self.config.num_experts_per_tok, dim=-1)", "topk(1, dim=-1)"),),
        "experts-per-token",
        r"blocks\.0\.moe\.experts",
    ),
    "all-experts-per-token": Defect(
        "mixtral-alibi",
        (("topk(self.config.num_experts_per_tok, dim=-1)", "topk(4, dim=-1)"),),
        "experts-per-token",
        r"blocks\.0\.moe\.experts",
    ),
    "gates-not-normalised": Defect(
        "mixtral-alibi",
        (("if self.config.norm_topk_prob:", "if False:"),),
        "gate-weights",
        r"blocks\.0\.moe\.gate\.weight",
    ),
    "gates-normalised-though-not-configured": Defect(
        "mixtral-not-normalised",
        (("if self.config.norm_topk_prob:", "if True:"),),
        "gate-weights",
        r"blocks\.0\.moe\.gate\.weight",
    ),
    "no-distances": Defect(
        "mixtral-alibi",
        (
            (
                "bias = -self.slopes[:, None, None] * distance",
                "bias = 0.0 * self.slopes[:, None, None] * distance",
            ),
        ),
        "positions",
        r"blocks\.0.*",
    ),
    "experts-start-equal": Defect(
        "mixtral-alibi",
        (
            (
                "    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor | float]:",
                (
                    "        for block in self.blocks:\n"
                    "            for expert in block.moe.experts:\n"
                    "                expert.load_state_dict(block.moe.experts[0].state_dict())\n\n"
                    "    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor | float]:"
                ),
            ),
        ),
        "same-initialisation",
        r"blocks\.0\.moe\.experts\.1\.up\.weight",
    ),
}


def run(path: Path, data: Path, *, only: str | None = None) -> list[ProbeResult]:
    artifact = Artifact(path)
    bench = Bench(artifact, Corpus.open(data), target_params=count_parameters(artifact.build(0)))
    wanted = [probe for probe in PROBES if only in (None, probe.name)]
    return [run_probe(probe, bench, describe=artifact.describe) for probe in wanted]


def failures(results: list[ProbeResult]) -> list[str]:
    return [f"{one.name}: {one.finding}" for one in results if one.failed]


QUICK = [*zoo.OWN, "hf-llama", "hf-gemma2", "hf-bloom", "hf-mixtral"]


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in KINDS]
)
def test_sound_model_of_every_kind_passes_every_probe(
    name: str, tmp_path: Path, data: Path, vocab_size: int
) -> None:
    path = zoo.write(tmp_path, KINDS[name], vocab_size=vocab_size)

    assert failures(run(path, data)) == []


@pytest.mark.parametrize("variant", ["own", "transformers"])
def test_blueprint_passes_every_probe(variant: str, tmp_path: Path, data: Path, vocab_size: int) -> None:
    path = zoo.write_blueprint(
        tmp_path, "deepseek-v3", variant=variant, params=500_000, vocab_size=vocab_size
    )

    assert failures(run(path, data)) == []


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_fails_its_probe_and_is_located(
    name: str, tmp_path: Path, data: Path, vocab_size: int
) -> None:
    defect = DEFECTS[name]
    kind = KINDS[defect.kind]
    kind = replace(kind, config=kind.config | defect.config)
    path = zoo.write(tmp_path, kind, *defect.edits, vocab_size=vocab_size)

    (result,) = run(path, data, only=defect.probe)

    assert result.failed, result.measured
    assert not result.detail.startswith("not run")
    assert re.fullmatch(defect.component, result.component), result.component
