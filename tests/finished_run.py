"""A run directory as it stands before publishing, with a real model of a few thousand parameters."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_intern_cli.documents.experiments import PathStatus
from ml_intern_cli.documents.manifest import Manifest, SplitInfo, TokenizerInfo
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.results import ResultRow, Results
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import GenerationSample, Judgement, Verify
from ml_intern_cli.resources import resource
from tests.examples import PLAN, path_plan

SENTENCES = [
    "Once upon a time, there was a little girl called Lily.",
    "She found a red ball in the garden, and she said: good morning!",
    "The end of the story is a happy one; 12 birds sang 3 songs.",
]
PASS = Judgement(verdict=Verdict.PASS, reason="measured 1 · allowed 2")


def make_finished_run(run_dir: Path) -> dict[str, Any]:
    """Write the run's files; returns the documents that publishing is given, by parameter name."""
    path_dir = run_dir / "path-a"
    (path_dir / "ckpts" / "step-00000020").mkdir(parents=True)
    vocab_size, eos = _write_tokenizer(run_dir / "data" / "tokenizer")
    params = _write_model(path_dir, vocab_size=vocab_size, eos=eos)
    documents = _documents(params, vocab_size=vocab_size, eos=eos, tokenizer=tokenizer_sha256(run_dir))

    (run_dir / "data" / "manifest.json").write_text(documents["manifest"].model_dump_json(indent=2))
    for name in ("TASK.md", "BUDGET.md", "RESEARCH.md", "PLAN.md", "EXPERIMENTS.md", "RESULTS.md"):
        (run_dir / name).write_text(f"# {name}\n\nwhat {name} says\n")
    for name in ("SMOKE.md", "VERIFY.md"):
        (path_dir / name).write_text(f"# {name}\n\nall pass\n")
    (path_dir / "train.py").write_text('"""Trains."""\n')
    (path_dir / "eval.py").write_text('"""Evaluates."""\n')
    (path_dir / "train_config.json").write_text('{"data_dir": "../data", "steps": 20}\n')
    (path_dir / "train.log").write_text(
        "".join(f"step={step} loss={5 - step / 10:.4f}\n" for step in range(1, 21))
    )
    (path_dir / "train.stderr").write_text("noise\n")
    (path_dir / "eval.log").write_text("step=20 eval_loss=3.1000\n")
    (path_dir / "gen_samples.log").write_text("step=20 Once upon a time, there was a bird.\n")
    (path_dir / "metrics.jsonl").write_text('{"step": 20, "eval_loss": 3.1, "eval_tokens": 512}\n')
    pointer = {"step": 20, "dir": "step-00000020"}
    (path_dir / "ckpts" / "best.json").write_text(json.dumps(pointer | {"eval_loss": 3.1}))
    (path_dir / "ckpts" / "last.json").write_text(json.dumps(pointer | {"status": "done", "elapsed_s": 90.0}))
    return documents


def tokenizer_sha256(run_dir: Path) -> str:
    """Of the run's tokenizer.json."""
    return hashlib.sha256((run_dir / "data" / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()


def _write_tokenizer(folder: Path) -> tuple[int, int]:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        SENTENCES, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return len(tokenizer), tokenizer.eos_token_id


def _write_model(path_dir: Path, *, vocab_size: int, eos: int) -> int:
    import torch
    from safetensors.torch import save_file

    source = resource("blueprints", "deepseek_v3", "model.py")
    (path_dir / "model.py").write_text(source.read_text())
    spec = importlib.util.spec_from_file_location("finished_run_model", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    config = module.DeepseekV3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=2,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    torch.manual_seed(0)
    model = module.DeepseekV3(config)
    keys = {
        "_model_class": "DeepseekV3",
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
    }
    (path_dir / "config.json").write_text(json.dumps(asdict(config) | keys, indent=2))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, path_dir / "ckpts" / "step-00000020" / "model.safetensors")
    return sum(parameter.numel() for parameter in model.parameters())


def _documents(params: int, *, vocab_size: int, eos: int, tokenizer: str) -> dict[str, Any]:
    split = SplitInfo(shards=(), documents=3, tokens=60, text_bytes=180)
    path = path_plan(steps=20, micro_batch=2, warmup_steps=2, eval_every=10, checkpoint_every=10)
    changes = {
        "params_target": 10_000,
        "params_planned": params,
        "active_params": params - 1000,
        "vocab_size": vocab_size,
        "seq_len": 64,
        "tokens_per_path": 2560,
        "paths": (path,),
    }
    return {
        "task": Task(
            request="implement DeepSeek-V3 at 10k | quickly",
            restatement="A tiny model.",
            architecture="deepseek-v3",
        ),
        "plan": PLAN.model_copy(update=changes),
        "manifest": Manifest(
            source="builtin:stories",
            revision="grammar 1, seed 0",
            column=None,
            license="apache-2.0",
            url=None,
            tokenizer=TokenizerInfo(
                source="byte-level BPE",
                revision=None,
                vocab_size=vocab_size,
                eos_token_id=eos,
                sha256=tokenizer,
            ),
            dtype="uint16",
            splits={"train": split, "val": split, "heldout": split},
            unigram_loss=4.2,
            loss_floor=1.2,
        ),
        "results": Results(
            winner="a",
            summary="a wins",
            rows=(
                ResultRow(
                    path_id="a",
                    approach="own module",
                    status=PathStatus.PASSED,
                    params=params,
                    init_loss=4.9,
                    final_loss=3.14,
                    verify="all-pass",
                    tokens=2560,
                    tokens_per_s=9100,
                    gpu_min=1.5,
                    source="path-a/VERIFY.md",
                ),
            ),
            deviations=("trained 20 of 25 steps",),
        ),
        "verify": Verify(
            samples=(
                GenerationSample(prompt="", output="A bird.", judgement=PASS),
                GenerationSample(
                    prompt="Once upon a time,", output="there was ```a``` bird.\nIt sang.", judgement=PASS
                ),
            ),
            generation=PASS,
            final_train_loss=3.0,
            final_eval_loss=3.14,
            plausible_low=0.5,
            plausible_high=5.7,
            loss=PASS,
            eval_train_gap=0.14,
            tracks=PASS,
            planned_tokens=2560,
            consumed_tokens=2560,
            data=PASS,
            stderr_findings=(),
            stderr=PASS,
            target_params=10_000,
            actual_params=params,
            params=PASS,
        ),
    }
