"""A finished run as a baseline sees it: its logs, its settings, its model. What cannot be read is absent."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that a baseline objects to, and the family of defects that it points to."""

    told: str
    category: str


@dataclass(frozen=True)
class Run:
    """A run directory's path and data, and what was planned."""

    path: Path
    data: Path
    target_params: int
    planned: int  # tokens, or rows

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """data/manifest.json."""
        return _object(self.data / "manifest.json")

    @property
    def task(self) -> str:
        """``language``, ``classification`` or ``regression``."""
        return str(self.manifest.get("task", "language"))

    @property
    def outcomes(self) -> int:
        """Tokens or classes that a prediction chooses among."""
        if self.task == "language":
            return int(self.manifest["tokenizer"]["vocab_size"])
        return len(self.manifest.get("classes") or ())

    @cached_property
    def settings(self) -> dict[str, Any]:
        """train_config.json."""
        return _object(self.path / "train_config.json")

    @cached_property
    def last(self) -> dict[str, Any]:
        """ckpts/last.json."""
        return _object(self.path / "ckpts" / "last.json")

    @cached_property
    def best(self) -> dict[str, Any]:
        """ckpts/best.json."""
        return _object(self.path / "ckpts" / "best.json")

    @cached_property
    def losses(self) -> list[float]:
        """The losses of train.log."""
        file = self.path / "train.log"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return [_number(line.partition("loss=")[2]) for line in lines if "loss=" in line]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations in metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines if "eval_loss" in line]
        return [row for row in rows if isinstance(row, dict)]

    @property
    def final_train_loss(self) -> float:
        """The mean of the last logged losses; NaN without any."""
        recent = self.losses[-20:]
        return sum(recent) / len(recent) if recent else math.nan

    @property
    def final_eval_loss(self) -> float:
        """The last eval loss that is stated; NaN without any."""
        return float(self.evaluations[-1]["eval_loss"]) if self.evaluations else math.nan

    @cached_property
    def model(self) -> Any:
        """The model of the best checkpoint; raises what its code raises."""
        from benchmarks.defects.language_score import load_model

        return load_model(self.path)

    def inputs(self, split: str, rows: int) -> Any:
        """The first inputs of a split as the model takes them, (rows, …)."""
        import torch

        from benchmarks.defects.language_score import split as read_split

        if self.task == "language":
            length = int(self.settings["seq_len"])
            return torch.from_numpy(read_split(self.data, split)[: rows * length]).view(-1, length)
        name = self.manifest["splits"][split]["inputs"]["name"]
        return torch.from_numpy(np.load(self.data / name, allow_pickle=False)[:rows])


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(text: str) -> float:
    try:
        return float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return math.nan
