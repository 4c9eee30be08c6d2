"""A path directory small enough to train in a second, beside data that can be learned.

The text is a random walk over the vocabulary with two successors per token, so its entropy is known
to be below ln 2 and a model that learns anything gets well below ln V.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from ml_intern_cli.resources import resource

VOCAB_SIZE = 64
SHARD_TOKENS = {"train": (5000, 7000, 3333), "val": (1000, 500), "heldout": (800,)}

MODEL = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass
class TinyConfig:
    vocab_size: int
    hidden_size: int = 16
    num_layers: int = 2
    dropout: float = 0.0


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        )

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        heads = q[:, None], k[:, None], v[:, None]
        x = x + functional.scaled_dot_product_attention(*heads, is_causal=True)[:, 0]
        return x + self.mlp(x)


class Tiny(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config.hidden_size) for _ in range(config.num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.a_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.a_head.weight = self.embed_tokens.weight
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.register_buffer("forwards", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, input_ids):
        if self.training:
            self.forwards += 1
        x = self.dropout(self.embed_tokens(input_ids))
        for block in self.blocks:
            x = block(x)
        return (self.a_head(x),)

    def after_optimizer_step(self):
        self.updates += 1
"""

SETTINGS: dict[str, Any] = {
    "data_dir": "../data",
    "seq_len": 16,
    "steps": 40,
    "micro_batch": 8,
    "accumulation": 1,
    "learning_rate": 0.01,
    "min_learning_rate": 0.001,
    "warmup_steps": 5,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "grad_clip": 1.0,
    "precision": "fp32",
    "compile": False,
    "num_threads": 1,
    "eval_every": 25,
    "checkpoint_every": 7,
    "seed": 3,
    "time_limit_s": None,
}


def write_data(directory: Path, shard_tokens: dict[str, tuple[int, ...]] = SHARD_TOKENS) -> None:
    """Shards, tokenizer and manifest.json in ``directory``."""
    (directory / "tokenizer").mkdir(parents=True)
    vocabulary = {"<eos>": 0} | {f"w{index}": index for index in range(1, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    random = np.random.default_rng(0)
    successors = random.integers(1, VOCAB_SIZE, (VOCAB_SIZE, 2))
    splits = {}
    for split, sizes in shard_tokens.items():
        shards = []
        for index, size in enumerate(sizes):
            ids = [0]
            while len(ids) < size:
                ids.append(int(successors[ids[-1], random.integers(2)]) if len(ids) % 40 else 0)
            name = f"{split}-{index:05d}.bin"
            np.array(ids[:size], dtype="<u2").tofile(directory / name)
            shards.append({"name": name, "tokens": size, "sha256": ""})
        splits[split] = {"shards": shards, "documents": 1, "tokens": sum(sizes), "text_bytes": 1}
    tokenizer_info = {"source": "test", "revision": None, "vocab_size": VOCAB_SIZE, "eos_token_id": 0}
    manifest = {"dtype": "uint16", "splits": splits, "tokenizer": tokenizer_info}
    (directory / "manifest.json").write_text(json.dumps(manifest))


class TinyPath:
    """A path directory under ``root`` and the programs run in it."""

    def __init__(self, root: Path, *, model: str = MODEL, dropout: float = 0.0, **settings: Any) -> None:
        self.directory = root / "path-a"
        self.directory.mkdir(parents=True)
        for program in ("train.py", "eval.py"):
            shutil.copy(resource("templates", program), self.directory)
        self.write("model.py", model)
        config = {"_model_class": "Tiny", "model_type": "tiny", "vocab_size": VOCAB_SIZE, "dropout": dropout}
        self.write("config.json", json.dumps(config))
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        self.write("train_config.json", json.dumps(SETTINGS | settings))

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that have ``key``."""
        rows = [json.loads(line) for line in self.read("metrics.jsonl").splitlines()]
        return [row for row in rows if key in row]

    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows("loss")]

    def run(self, program: str = "train.py", *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, program, *arguments]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)

    def stop_at(self, step: int, number: signal.Signals) -> int:
        """Start train.py, send it a signal once ``step`` is logged, and return its exit code.

        A process that ends before is not waited for.
        """
        process = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not self.has_logged(step):
            time.sleep(0.005)
        process.send_signal(number)
        return process.wait()

    def has_logged(self, step: int) -> bool:
        """Whether a step is in train.log."""
        log = self.directory / "train.log"
        return log.exists() and f"step={step} " in log.read_text()
