"""Each planted defect fails the probe that is there for it; sound models pass them all."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import sys
from pathlib import Path

import numpy as np
import pytest

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.probes import PROBES
from ml_intern_cli.judge.probes.bench import Bench
from ml_intern_cli.judge.probes.documents import DOCUMENT_ENDS
from ml_intern_cli.judge.smoke import smoke
from tests import judged_path

ATTENTION = "x = x + self.attention(self.norm_1(x))"
FINAL_NORM = "self.norm = nn.LayerNorm(config.hidden_size)"
LOGITS = "return self.lm_head(self.norm(x))"
CROSS_ENTROPY = "cross_entropy = functional.cross_entropy(self(input_ids).flatten(0, 1), targets.flatten())"
BLOCKS = "nn.ModuleList(Block(config) for _ in range(config.num_layers))"
TIE = "self.lm_head.weight = self.embed_tokens.weight"
INPUT = "x = self.embed_tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]"
UNPOSITIONED = (INPUT, "x = self.embed_tokens(input_ids) + 0 * self.positions.weight[: input_ids.shape[1]]")

DEFECTS = {
    "no-mask": ("causality", [("is_causal=True", "is_causal=False")]),
    "mean-over-time": ("causality", [(ATTENTION, f"{ATTENTION} + x.mean(dim=1, keepdim=True)")]),
    "mean-over-time-in-train-mode": (
        "causality",
        [(ATTENTION, f"{ATTENTION}\n        x = x - x.mean(dim=1, keepdim=True) if self.training else x")],
    ),
    "looks-one-ahead": (
        "causality",
        [(LOGITS, "return self.lm_head(self.norm(x + 0.1 * torch.roll(x, -1, dims=1)))")],
    ),
    "depends-on-length": ("causality", [(LOGITS, "return self.lm_head(self.norm(x) / x.shape[1])")]),
    "batch-norm": (
        "batch-independence",
        [
            (FINAL_NORM, "self.norm = nn.BatchNorm1d(config.hidden_size)"),
            (LOGITS, "return self.lm_head(self.norm(x.flatten(0, 1)).view_as(x))"),
        ],
    ),
    "batch-mean": (
        "batch-independence",
        [(LOGITS, "return self.lm_head(self.norm(x - 0.5 * x.mean(dim=0, keepdim=True)))")],
    ),
    "batch-collapses": (  # huggingface/transformers #34204
        "batch-independence",
        [(LOGITS, "return self.lm_head(self.norm(x)[:1].expand_as(x))")],
    ),
    "no-attention": ("context-use", [(ATTENTION, "x = x + 0 * self.attention(self.norm_1(x))")]),
    "unused-layer": ("gradients", [(FINAL_NORM, f"{FINAL_NORM}\n        self.spare = nn.Linear(4, 4)")]),
    "frozen": ("gradients", [(TIE, f"{TIE}\n        self.positions.weight.requires_grad_(False)")]),
    "detached": ("gradients", [("x = block(x)", "x = x + block(x).detach()")]),
    "dead-expert": (
        "gradients",
        [("self.router(flat)).max(dim=-1)", "self.router(flat))[:, :-1].max(dim=-1)")],
    ),
    "wide-initialisation": ("initial-loss", [("std=0.02", "std=0.6")]),
    "dropout-in-eval": (
        "determinism",
        [(LOGITS, "return self.lm_head(functional.dropout(self.norm(x), 0.1))")],
    ),
    "labels-not-shifted": ("objective", [(CROSS_ENTROPY, CROSS_ENTROPY.replace("targets", "input_ids"))]),
    "auxiliary-loss-in-the-log": ("objective", [(CROSS_ENTROPY, f"{CROSS_ENTROPY} + 0.1")]),
    "probabilities-for-logits": ("overfit-one-batch", [(LOGITS, f"{LOGITS}.softmax(dim=-1)")]),
    "loss-of-the-wrong-sign": (
        "overfit-one-batch",
        [("return cross_entropy, cross_entropy", "return -cross_entropy, cross_entropy")],
    ),
    "transposed": ("forward-shape", [(LOGITS, f"{LOGITS}.transpose(1, 2)")]),
    "one-position": ("forward-shape", [(LOGITS, f"{LOGITS}[:, -1:]")]),
    "not-a-number": ("forward-shape", [(LOGITS, f"{LOGITS} * float('nan')")]),
    "raises": ("forward-shape", [(LOGITS, "raise ValueError('no')")]),
    "exits": ("forward-shape", [(LOGITS, "raise SystemExit(0)")]),
    "layers-in-a-plain-list": (
        "param-count",
        [(BLOCKS, "[Block(config) for _ in range(config.num_layers)]")],
    ),
    "layer-in-a-plain-list": (
        "save-load",
        [
            (TIE, f"{TIE}\n        self.further = [nn.Linear(config.hidden_size, config.hidden_size)]"),
            (LOGITS, "return self.lm_head(self.norm(x) + self.further[0](x))"),
        ],
    ),
    "unsaved-tensor": (
        "save-load",
        [
            (TIE, f"{TIE}\n        self.shift = torch.randn(config.hidden_size)"),
            (LOGITS, "return self.lm_head(self.norm(x) + self.shift.to(x))"),
        ],
    ),
    "untied": ("param-count", [(TIE, "")]),
    "import-error": ("instantiate", [("import torch\n", "import torch\nimport no_such_library\n")]),
    "exits-at-import": ("instantiate", [("import torch\n", "import torch\nraise SystemExit(0)\n")]),
    "no-such-class": ("instantiate", [("class MiniGPT(nn.Module)", "class MaxiGPT(nn.Module)")]),
    "syntax-error": ("compile", [("x = block(x)", "x = block(x")]),
}

COMPONENTS = {
    "no-mask": "blocks.0.attention",
    "mean-over-time": "blocks.0",
    "mean-over-time-in-train-mode": "blocks.0",
    "looks-one-ahead": "MiniGPT",
    "depends-on-length": "MiniGPT",
    "batch-norm": "norm",
    "batch-mean": "MiniGPT",
    "no-attention": "blocks.0",
    "unused-layer": "spare",
    "frozen": "positions.weight",
    "detached": "blocks",
    "dead-expert": "blocks.0.experts.up",
    "dropout-in-eval": "MiniGPT",
    "labels-not-shifted": "MiniGPT.loss",
    "auxiliary-loss-in-the-log": "MiniGPT.loss",
    "probabilities-for-logits": "MiniGPT.forward",
    "transposed": "MiniGPT.forward",
    "one-position": "MiniGPT.forward",
    "not-a-number": "MiniGPT",
    "raises": "model.py:98",
    "exits": "model.py:98",
    "layer-in-a-plain-list": "further",
    "unsaved-tensor": "shift",
    "import-error": "model.py:8",
    "exits-at-import": "model.py:8",
    "no-such-class": "model.py",
    "syntax-error": "model.py:97",
}
"""What is to blame, where that can be told: a size, and a sum of everything, have no place."""

SOUND = {
    "as-it-is": [],
    "no-loss-method": [("def loss(", "def unused(")],
    "tuple": [
        ("return self.lm_head(self.norm(x))", "return self.lm_head(self.norm(x)), None"),
        ("self(input_ids).flatten(0, 1)", "self(input_ids)[0].flatten(0, 1)"),
    ],
    "dropout-in-training": [
        (LOGITS, "return self.lm_head(functional.dropout(self.norm(x), 0.1, self.training))")
    ],
    "zero-initialised-output": [
        (
            "                nn.init.normal_(parameter, std=0.02)",
            (
                "                nn.init.normal_(parameter, std=0.02)\n"
                "        for block in self.blocks:\n"
                "            nn.init.zeros_(block.attention.out.weight)\n"
                "            nn.init.zeros_(block.experts.down)"
            ),
        )
    ],
    "needs-float32": [("x = block(x)", "x = block(x.float())")],
    "bias-that-the-model-updates": [
        (TIE, f"{TIE}\n        self.bias = nn.Parameter(torch.zeros(4), requires_grad=False)"),
        (
            "    def loss(",
            "    def after_optimizer_step(self) -> None:\n        self.bias += 1\n\n    def loss(",
        ),
    ],
}


@pytest.fixture(scope="session")
def params(data: Path, vocab_size: int, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = judged_path.write_path(tmp_path_factory.mktemp("sound"), **sizes(vocab_size))
    return count_parameters(Artifact(path).build(seed=0))


def sizes(vocab_size: int) -> dict[str, int]:
    return {"vocab_size": vocab_size, "hidden_size": 48, "num_layers": 2}


def run(path: Path, data: Path, params: int) -> Smoke:
    return smoke(path, data_dir=data, target_params=params, progress=lambda _: None)


def probe(result: Smoke, name: str) -> ProbeResult:
    return next(probe for probe in result.probes if probe.name == name)


@pytest.mark.parametrize("variant", SOUND)
def test_sound_model_passes_every_probe(
    variant: str, tmp_path: Path, data: Path, vocab_size: int, params: int
) -> None:
    path = judged_path.write_path(tmp_path, *SOUND[variant], **sizes(vocab_size))

    result = run(path, data, params)

    assert [str(probe) for probe in result.probes if probe.verdict is Verdict.FAIL] == []
    assert [probe.name for probe in result.probes] == [probe.name for probe in PROBES]
    assert result.path == "a"


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_fails_its_probe(
    defect: str, tmp_path: Path, data: Path, vocab_size: int, params: int
) -> None:
    name, edits = DEFECTS[defect]
    path = judged_path.write_path(tmp_path, *edits, **sizes(vocab_size))

    artifact = Artifact(path)
    bench = Bench(artifact, Corpus.open(data), target_params=params)
    failed = run_probe(next(one for one in PROBES if one.name == name), bench, describe=artifact.describe)

    assert failed.verdict is Verdict.FAIL
    assert not failed.detail.startswith("not run")
    assert "usual causes" in failed.detail
    if defect in COMPONENTS:
        assert failed.component == COMPONENTS[defect]


def test_order_blind_model_fails_context_use(tmp_path: Path, data: Path, vocab_size: int) -> None:
    path = judged_path.write_path(tmp_path, UNPOSITIONED, vocab_size=vocab_size, hidden_size=48, num_layers=1)

    assert "blind to their order" in probe(run(path, data, 1), "context-use").detail


def test_leak_names_the_token_that_moved_and_the_one_that_moved_it(
    tmp_path: Path, data: Path, vocab_size: int, params: int
) -> None:
    path = judged_path.write_path(tmp_path, ("is_causal=True", "is_causal=False"), **sizes(vocab_size))

    detail = probe(run(path, data, params), "causality").detail

    assert "moved the logits of token" in detail
    assert "allowed" in detail
    assert "a mask missing in one attention branch" in detail


def test_dead_expert_is_named(tmp_path: Path, data: Path, vocab_size: int, params: int) -> None:
    path = judged_path.write_path(tmp_path, *DEFECTS["dead-expert"][1], **sizes(vocab_size))

    assert (
        "blocks.0.experts.up: 1 of 4 experts get no gradient (3)"
        in probe(run(path, data, params), "gradients").detail
    )


@pytest.mark.parametrize("is_planted", [True, False])
def test_the_source_is_judged_and_no_bytecode_beside_it(
    is_planted: bool, tmp_path: Path, vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = judged_path.write_path(tmp_path, vocab_size=vocab_size)
    if is_planted:
        (tmp_path / "other.py").write_text("raise ValueError('not the source')")
        py_compile.compile(
            str(tmp_path / "other.py"),
            importlib.util.cache_from_source(str(path / "model.py")),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    Artifact(path).build(0)

    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_training_text_whose_documents_do_not_end_fails(tmp_path: Path, data: Path, vocab_size: int) -> None:
    joined = Path(judged_path.copy_run(data, tmp_path / "joined"))
    shard = joined / "train-00000.bin"
    ids = np.fromfile(shard, dtype="<u2")
    ids[ids != 0].tofile(shard)
    manifest = json.loads((joined / "manifest.json").read_text())
    manifest["splits"]["train"] |= {"documents": 1, "tokens": int((ids != 0).sum())}  # whoever joined them
    manifest["splits"]["train"]["shards"][0]["tokens"] = int((ids != 0).sum())
    (joined / "manifest.json").write_text(json.dumps(manifest))
    artifact = Artifact(judged_path.write_path(tmp_path, **sizes(vocab_size)))

    results = [
        run_probe(DOCUMENT_ENDS, Bench(artifact, Corpus.open(one), target_params=1), describe=repr)
        for one in (data, joined)
    ]

    assert [result.failed for result in results] == [False, True]
    assert results[1].component == "data/train"
    assert results[1].measured.startswith("0 end-of-text tokens")


def test_model_that_cannot_be_imported_leaves_the_other_probes_not_run(
    tmp_path: Path, data: Path, vocab_size: int
) -> None:
    path = judged_path.write_path(tmp_path, *DEFECTS["import-error"][1], **sizes(vocab_size))

    result = run(path, data, 100)

    assert result.params is None
    assert "No module named 'no_such_library' (model.py:" in probe(result, "instantiate").detail
    assert "not run" in probe(result, "causality").detail
    assert not result.passed


def test_size_off_by_more_than_its_tolerance_fails(
    tmp_path: Path, data: Path, vocab_size: int, params: int
) -> None:
    path = judged_path.write_path(tmp_path, **sizes(vocab_size))

    assert probe(run(path, data, int(params / 1.02)), "param-count").verdict is Verdict.PASS
    assert probe(run(path, data, int(params / 1.04)), "param-count").verdict is Verdict.FAIL


def test_model_does_not_see_its_own_directory_on_the_import_path(
    tmp_path: Path, data: Path, vocab_size: int
) -> None:
    path = judged_path.write_path(tmp_path, ("import torch\n", "import torch\nimport beside\n"))
    (path / "beside.py").write_text("")

    with pytest.raises(Unusable, match="No module named 'beside'"):
        Artifact(path).build(seed=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "config.json cannot be read"),
        ("[]", "config.json holds a list"),
        ("{}", "no _model_class"),
        (json.dumps({"_model_class": "Attention"}), "no class AttentionConfig"),
        (json.dumps({"_model_class": "MiniGPT", "hidden_size": -1}), "raised"),
    ],
)
def test_bad_config_is_a_reason_and_not_a_crash(content: str, reason: str, tmp_path: Path) -> None:
    path = judged_path.write_path(tmp_path)
    (path / "config.json").write_text(content)

    with pytest.raises(Unusable, match=reason):
        Artifact(path).build(seed=0)


def test_probe_names_are_unique_and_every_probe_is_explained() -> None:
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    for described in PROBES:
        assert described.meaning
        assert described.threshold
        assert described.threshold_source
        assert described.usual_causes
