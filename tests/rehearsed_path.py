"""A path that the shipped train.py trains, small enough to be rehearsed in seconds; or one with a defect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.judge.artifact import Artifact
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.rehearsal import PROBES
from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
from ml_intern_cli.judge.rehearsal.starting import Launcher
from ml_intern_cli.resources import resource
from tests import judged_path, tiny_path

SETTINGS: dict[str, Any] = tiny_path.SETTINGS | {
    "seq_len": 32,
    "steps": 400,
    "micro_batch": 8,
    "accumulation": 2,
    "warmup_steps": 20,
    "eval_every": 100,
    "checkpoint_every": 50,
    "learning_rate": 0.003,
    "min_learning_rate": 0.0003,
}
Edits = list[tuple[str, str, str]]
"""(file, old, new): text that occurs once in the file, and what stands there instead."""


def write(directory: Path, *edits: tuple[str, str, str], vocab_size: int, **settings: Any) -> Path:
    """``path-a/`` with the shipped programs and a small sound model, edited."""
    path = judged_path.write_path(directory, vocab_size=vocab_size, hidden_size=32, num_layers=2)
    for program in ("train.py", "eval.py"):
        shutil.copy(resource("templates", program), path)
    (path / "train_config.json").write_text(json.dumps(SETTINGS | settings))
    for name, old, new in edits:
        text = (path / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
        (path / name).write_text(text.replace(old, new))
    return path


def rehearse(
    path: Path, data: Path, scratch: Path, launcher: Launcher, limit_s: float | None = None
) -> dict[str, ProbeResult]:
    """Every probe's result, by name."""
    artifact = Artifact(path)
    bench = RehearsalBench(
        artifact, Corpus.open(data), scratch=scratch, num_parameters=100_000, launcher=launcher
    )
    return {probe.name: run_probe(probe, bench, describe=artifact.describe) for probe in PROBES}


def failed(results: dict[str, ProbeResult]) -> dict[str, str]:
    """Name → finding of the probes that failed."""
    return {name: result.finding for name, result in results.items() if result.verdict is Verdict.FAIL}
