"""What a finished run states, beside what is so: the benchmark's own measurements."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from benchmarks.defects.case import Claim, Folder
from benchmarks.defects.supervised import score

Stated = Callable[[Folder, Path], Claim]


def best_evaluation(folder: Folder, sound: Path) -> Claim:
    """The loss and the metric in best.json, and those of the checkpoint on all of val."""
    del sound
    best = folder.json("ckpts/best.json")
    outputs, targets = score.heldout_outputs(folder.path, folder.data, "val")
    manifest = json.loads((folder.data / "manifest.json").read_text())
    smoothing = folder.json("train_config.json")["label_smoothing"]
    if manifest["classes"]:
        loss = functional.cross_entropy(outputs, targets, label_smoothing=smoothing).item()
        name, metric = "accuracy", (outputs.argmax(-1) == targets).double().mean().item()
    else:
        error = (outputs.reshape(-1) - targets).double().square().mean().sqrt().item()
        name, metric, loss = "rmse", error, (error / manifest["target_scaling"]["std"]) ** 2
    wrong = abs(best["eval_loss"] - loss) > 1e-3 * max(0.1, abs(loss))
    wrong |= abs(best[name] - metric) > (1e-6 if name == "accuracy" else 1e-3 * metric)
    return Claim(
        stated=f"eval_loss {best['eval_loss']:.4f}, {name} {best[name]:.4f}",
        measured=f"{loss:.4f}, {metric:.4f} on val",
        is_false=wrong,
    )


def evaluation_rows_unseen(folder: Folder, sound: Path) -> Claim:
    """That val and held-out rows are not among the training rows."""
    del sound
    train = _rows(folder.data, "train")
    seen = {split: float(_has_twin(_rows(folder.data, split), train).mean()) for split in ("val", "heldout")}
    return Claim(
        stated="val and held-out rows are unseen",
        measured=", ".join(f"{share:.0%} of {split} in train" for split, share in seen.items()),
        is_false=max(seen.values()) > 0.2,
    )


def _rows(data_dir: Path, split: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    inputs = score.load(data_dir, split, "inputs")
    return inputs.reshape(len(inputs), -1).astype(np.float64)


def _has_twin(
    rows: np.ndarray[Any, np.dtype[np.float64]], among: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each row is there, up to a hundredth of a deviation per column."""
    spread = np.where(among.std(0) > 0, among.std(0), 1.0)
    distances = torch.cdist(torch.from_numpy(rows / spread), torch.from_numpy(among / spread))
    found: np.ndarray[Any, np.dtype[np.bool_]] = (
        distances.min(1).values < 0.05 * rows.shape[1] ** 0.5
    ).numpy()
    return found


def scaling_of_train(folder: Folder, sound: Path) -> Claim:
    """That the manifest's scaling is that of the training rows."""
    del sound
    manifest = json.loads((folder.data / "manifest.json").read_text())
    told = manifest["scaling"]
    train = _rows(folder.data, "train")
    off = np.abs(np.asarray(told["mean"]).reshape(-1) - train.mean(0)) / np.maximum(train.std(0), 1e-9)
    return Claim(
        stated=f"scaling fitted on {told['fitted_on']}",
        measured=f"a mean is {off.max():.3f} deviations off that of train",
        is_false=float(off.max()) > 1e-3,
    )


def logged_losses(folder: Folder, sound: Path) -> Claim:
    """The losses in train.log, and those of the healthy training, which is the same one bit for bit."""
    stated, measured = (_losses(path) for path in (folder.path, sound))
    shared = sorted(stated.keys() & measured.keys())
    gap = max((abs(stated[step] - measured[step]) for step in shared), default=math.inf)
    return Claim(
        stated=f"{len(stated)} losses in train.log",
        measured=f"{len(measured)} measured ones, up to {gap:.3f} away",
        is_false=gap > 2e-4 or len(stated) != len(measured),
    )


def _losses(path_dir: Path) -> dict[int, float]:
    pairs = re.findall(r"^step=(\d+) loss=(\S+)$", (path_dir / "train.log").read_text(), re.MULTILINE)
    return {int(step): float(loss) for step, loss in pairs}


def rows_consumed(share: float) -> Stated:
    """The rows that last.json counts, and the share of them that was really trained on."""

    def claim(folder: Folder, sound: Path) -> Claim:
        del sound
        rows = folder.json("ckpts/last.json")["rows"]
        distinct = f"{round(rows * share)} by the code"
        return Claim(stated=f"{rows} rows consumed", measured=distinct, is_false=share != 1.0)

    return claim


def padding_is_none(folder: Folder, sound: Path) -> Claim:
    """That what the manifest calls padding says nothing: outputs with and without it."""
    del sound
    pad_id = json.loads((folder.data / "manifest.json").read_text())["inputs"]["pad_id"]
    model = score.load_model(folder.path)
    rows = torch.from_numpy(score.load(folder.data, "val", "inputs"))
    lengths = (rows != pad_id).sum(1).tolist()
    with torch.inference_mode():
        moved = max(
            float((model(row[None]) - model(row[None, :length])).abs().max())
            for row, length in zip(rows[:50], lengths[:50], strict=True)
        )
    return Claim(
        stated=f"token {pad_id} is padding",
        measured=f"logits move by up to {moved:.3g} without it",
        is_false=moved > 1e-3,
    )


def frozen_layers_fixed(name: str) -> Stated:
    """That a tensor named as frozen in config.json has the value that its seed gives."""

    def claim(folder: Folder, sound: Path) -> Claim:
        del sound
        seed = folder.json("train_config.json")["seed"]
        trained = dict(score.load_model(folder.path).named_parameters())[name]
        torch.manual_seed(seed)
        start = dict(score.build(folder.path).named_parameters())[name]
        moved = float((trained - start).detach().abs().max())
        return Claim(stated=f"{name} is frozen", measured=f"moved by {moved:.3g}", is_false=moved > 1e-6)

    return claim


def checkpoint_complete(folder: Folder, sound: Path) -> Claim:
    """That the checkpoint holds every tensor of the model that config.json describes."""
    del sound
    directory = folder.path / "ckpts" / folder.json("ckpts/best.json")["dir"]
    missing = score.build(folder.path).state_dict().keys() - load_file(directory / "model.safetensors").keys()
    return Claim(
        stated="the checkpoint is the model's",
        measured=f"it lacks {', '.join(sorted(missing)) or 'nothing'}",
        is_false=bool(missing),
    )


def weights_of_this_training(folder: Folder, sound: Path) -> Claim:
    """That the checkpoint is the one that this training wrote."""
    mine, theirs = (
        (path / "ckpts" / json.loads((path / "ckpts" / "best.json").read_text())["dir"] / "model.safetensors")
        for path in (folder.path, sound)
    )
    return Claim(
        stated="the checkpoint is of the training in the logs",
        measured="the same file" if mine.read_bytes() == theirs.read_bytes() else "other weights",
        is_false=mine.read_bytes() != theirs.read_bytes(),
    )


def heldout_untouched(folder: Folder, sound: Path) -> Claim:
    """That the held-out arrays are those of the manifest."""
    del sound
    import hashlib

    manifest = json.loads((folder.data / "manifest.json").read_text())
    files = [manifest["splits"]["heldout"][part] for part in ("inputs", "targets")]
    changed = [
        file["name"]
        for file in files
        if hashlib.sha256((folder.data / file["name"]).read_bytes()).hexdigest() != file["sha256"]
    ]
    return Claim(
        stated="held-out rows as the manifest has them",
        measured=", ".join(changed) or "untouched",
        is_false=bool(changed),
    )


def replicas_equal(folder: Folder, sound: Path) -> Claim:
    """That two processes give the weights that the same rows give to one; those of the healthy training."""
    mine, theirs = (dict(score.load_model(path).named_parameters()) for path in (folder.path, sound))
    gap = max(float((mine[name] - theirs[name]).detach().abs().max()) for name in mine)
    return Claim(
        stated="every update is the mean over both processes",
        measured=f"weights up to {gap:.3g} away from those of the mean",
        is_false=gap > 1e-3,
    )
