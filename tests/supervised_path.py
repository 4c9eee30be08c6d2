"""Labelled rows and paths that learn from them, for the judge's tests: real data files, a real train.py."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ml_intern_cli.documents.assessment import Assessment
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.supervised.smoke import smoke_rows
from ml_intern_cli.judge.supervised.verify import verify_rows
from ml_intern_cli.resources import resource

MODELS = Path(__file__).parent / "unit" / "judge" / "models" / "row_models.py"
SETTINGS: dict[str, Any] = {
    "data_dir": "../data",
    "task": "classification",
    "steps": 150,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "min_learning_rate": 5e-4,
    "warmup_steps": 10,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "grad_clip": 1.0,
    "label_smoothing": 0.0,
    "eval_every": 50,
    "checkpoint_every": 50,
    "seed": 0,
    "num_threads": 1,
    "time_limit_s": None,
}


def table(
    kind: str, *, rows: int = 600, features: int = 12, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Inputs, targets and the manifest's words for them: ``classification``, ``regression`` or ``tokens``."""
    chance = np.random.default_rng(seed)
    if kind == "tokens":
        labels = chance.integers(0, 2, rows)
        ids = np.zeros((rows, 16), dtype=np.int64)
        for row in range(rows):
            length = chance.integers(4, 17)
            telling = chance.random(length) < 0.4
            ids[row, :length] = np.where(
                telling, chance.integers(1, 11, length) + 10 * labels[row], chance.integers(21, 50, length)
            )
        info = {"dtype": "int64", "shape": [16], "vocab_size": 50, "pad_id": 0}
        return ids, labels.astype(np.int64), {"inputs": info, "classes": ["no", "yes"]}
    inputs = chance.normal(size=(rows, features))
    units = 10.0 ** chance.uniform(-2, 3, features)
    info = {"dtype": "float32", "shape": [features], "vocab_size": None, "pad_id": None}
    weights = chance.normal(size=(features, 3))
    scores = inputs @ weights + 1.5 * np.sin(2 * inputs[:, :1])
    if kind == "classification":
        targets = (scores + 0.5 * chance.normal(size=scores.shape)).argmax(1).astype(np.int64)
        return (
            (inputs * units + units).astype(np.float32),
            targets,
            {"inputs": info, "classes": ["a", "b", "c"]},
        )
    values = 150 + 40 * scores[:, 0] + 40 * chance.normal(size=rows)
    return (
        (inputs * units + units).astype(np.float32),
        values.astype(np.float32),
        {"inputs": info, "classes": None},
    )


def write_data(
    directory: Path, inputs: np.ndarray, targets: np.ndarray, words: dict[str, Any], *, seed: int = 0
) -> Path:
    """``data/``: 60 % train, 20 % val, 20 % held-out, scaled with train's statistics."""
    directory.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    cuts = np.split(order, [int(0.6 * len(order)), int(0.8 * len(order))])
    scaling = target_scaling = None
    if words["inputs"]["dtype"] == "float32" and words.get("scaled", True):
        train = inputs[cuts[0]].astype(np.float64)
        std = train.std(0)
        scaling = {
            "mean": train.mean(0).tolist(),
            "std": np.where(std > 0, std, 1).tolist(),
            "fitted_on": "train",
        }
    if words["classes"] is None:
        train = targets[cuts[0]].astype(np.float64)
        target_scaling = {"mean": float(train.mean()), "std": float(train.std())}
    manifest = {
        "task": "regression" if words["classes"] is None else "classification",
        "source": "test",
        "license": "CC0",
        "url": None,
        "inputs": words["inputs"],
        "target": "target",
        "classes": words["classes"],
        "splits": {},
        "scaling": scaling,
        "target_scaling": target_scaling,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for split, chosen in zip(("train", "val", "heldout"), cuts, strict=True):
        write_split(directory, split, inputs[chosen], targets[chosen])
    return directory


def write_split(directory: Path, split: str, inputs: np.ndarray, targets: np.ndarray) -> None:
    """The two arrays of a split, and their place in the manifest."""
    manifest = json.loads((directory / "manifest.json").read_text())
    entry: dict[str, Any] = {"rows": len(targets)}
    for part, array in (("inputs", inputs), ("targets", targets)):
        name = f"{split}-{part}.npy"
        np.save(directory / name, array, allow_pickle=False)
        entry[part] = {"name": name, "sha256": hashlib.sha256((directory / name).read_bytes()).hexdigest()}
    manifest["splits"][split] = entry
    (directory / "manifest.json").write_text(json.dumps(manifest))


def write_path(
    directory: Path,
    *edits: tuple[str, str],
    model: str = "RowNet",
    train_edits: tuple[tuple[str, str], ...] = (),
    settings: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """``path-a/`` with model.py and train.py, or with a defect planted by replacing text in one of them."""
    path = directory / "path-a"
    path.mkdir(parents=True)
    (path / "model.py").write_text(_edited(MODELS.read_text(), edits))
    train = resource("templates", "supervised", "train.py").read_text()
    (path / "train.py").write_text(_edited(train, train_edits))
    (path / "config.json").write_text(json.dumps({"_model_class": model, **config}))
    (path / "train_config.json").write_text(json.dumps(SETTINGS | (settings or {})))
    return path


def _edited(text: str, edits: tuple[tuple[str, str], ...]) -> str:
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text


def train(path: Path) -> None:
    """Runs train.py as its caller would."""
    with (path / "train.stderr").open("wb") as stderr:
        subprocess.run(
            [sys.executable, "train.py"], cwd=path, stdout=subprocess.DEVNULL, stderr=stderr, check=False
        )


def copy(root: Path, target: Path) -> Path:
    """A run's ``data/`` and ``path-a/`` for a test to damage; returns the path."""
    shutil.copytree(root, target)
    return target / "path-a"


def smoke(path: Path) -> Smoke:
    """The verdict before training."""
    return smoke_rows(path, data_dir=path.parent / "data", target_params=None, progress=lambda _: None)


def verify(path: Path, *, planned_rows: int | None = None) -> Assessment:
    """The verdict after training."""
    settings = json.loads((path / "train_config.json").read_text())
    planned = planned_rows or settings["steps"] * settings["batch_size"]
    return verify_rows(
        path,
        data_dir=path.parent / "data",
        planned_rows=planned,
        target_params=None,
        seed=0,
        progress=lambda _: None,
    )
