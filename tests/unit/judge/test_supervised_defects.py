# ruff: noqa: E501 - a defect per line
"""A defect planted in rows, model.py, train.py or its records fails the probe that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml_intern_cli.judge.artifact import Artifact
from ml_intern_cli.judge.probe import Probe, run_probe
from ml_intern_cli.judge.supervised.coupling import REPEATABILITY
from ml_intern_cli.judge.supervised.data_probes import DATA_PROBES
from ml_intern_cli.judge.supervised.dataset import Dataset
from ml_intern_cli.judge.supervised.probes import ROW_PROBES
from ml_intern_cli.judge.supervised.process import smoke_apart
from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench
from ml_intern_cli.judge.supervised.rehearsal.probes import ROW_REHEARSAL_PROBES
from ml_intern_cli.judge.supervised.scaling import RUNNING_STATISTICS
from ml_intern_cli.judge.supervised.verify import verify_rows
from tests import supervised_path
from tests.supervised_path import table, verify, write_data, write_path, write_split

FORWARD = "return out * self.target_std + self.target_mean"
BUILT = "        if config.freeze_first:"
LOSS = "return functional.cross_entropy(outputs.float(), targets, label_smoothing=self._label_smoothing)"
RATES = '            for group in self.optimizer.param_groups:\n                group["lr"] = learning_rate\n'
ORDER = "return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)"
SPLITS = '(Rows(self.config.data, manifest, name) for name in ("train", "val"))'


def failures(path: Path, probes: tuple[Probe[Any], ...]) -> dict[str, str]:
    """What some probes find, by name."""
    artifact = Artifact(path)
    bench = RehearsalBench(artifact, Dataset.open(path.parent / "data"))
    results = [run_probe(probe, bench, describe=artifact.describe) for probe in probes]
    return {result.name: result.finding for result in results if result.failed}


def new_path(root: Path, kind: str = "classification", *edits: tuple[str, str], **options: Any) -> Path:
    write_data(root / "data", *table(kind))
    model = "TokenNet" if kind == "tokens" else "RowNet"
    if kind == "regression":
        options = {"settings": {"task": "regression", "learning_rate": 2e-3}, "outputs": 1} | options
    return write_path(root, *edits, model=model, **options)


@pytest.mark.parametrize(
    ("probe", "kind", "edit"),
    [
        ("raw-outputs", "classification", (FORWARD, "return torch.softmax(out, -1)")),
        ("raw-outputs", "regression", (FORWARD, "return torch.tanh(out)")),
        ("even-start", "classification", (BUILT, f"        for one in self.parameters():\n            nn.init.constant_(one, 0.1)\n{BUILT}")),
        ("initial-error", "classification", (BUILT, f"        for one in self.parameters():\n            one.data.mul_(12)\n{BUILT}")),
        ("gradient-reach", "classification", ("self.second(self.dropout(hidden))", "self.second(self.dropout(hidden.detach()))")),
        ("feature-scale", "classification", ("(inputs - self.input_mean) / self.input_std", "inputs / 100")),
        ("input-range", "classification", ("scaled = (inputs - self.input_mean) / self.input_std", "scaled = inputs")),
        ("repeatability", "classification", ("self.second(self.dropout(hidden))", "self.second(functional.dropout(hidden, 0.3))")),
        ("row-independence", "classification", ("scaled = (inputs - self.input_mean) / self.input_std", "scaled = inputs - inputs.mean(0)")),
        ("input-use", "classification", ("self.input_std\n        hidden", "self.input_std * torch.eye(self.first.in_features)[0].logical_not()\n        hidden")),
        ("live-units", "classification", (BUILT, f"        nn.init.constant_(self.first.bias, -8.0)\n{BUILT}")),
        ("padding-blind", "tokens", ("(inputs != self.pad_id)", "(inputs >= 0)")),
        ("round-trip", "classification", ("        self.input_mean.copy_(input_mean)\n", "        del self.input_mean\n        self.input_mean = input_mean\n")),
        ("hidden-activation", "classification", ("functional.relu(self.second(self.dropout(hidden)))", "self.second(self.dropout(self.first(scaled.flatten(1))))")),
        ("number-format", "classification", (FORWARD, "return out.bfloat16().float()")),
    ],
)  # fmt: skip
def test_model_defect_fails_its_probe(tmp_path: Path, probe: str, kind: str, edit: tuple[str, str]) -> None:
    path = new_path(tmp_path, kind, edit)

    assert probe in failures(path, ROW_PROBES)


@pytest.mark.parametrize(
    ("rate", "is_found"), [("config.dropout", False), ("0.5 * config.dropout", False), ("0.98", True)]
)
def test_dropout_above_the_rate_of_the_configuration_is_found(
    tmp_path: Path, rate: str, is_found: bool
) -> None:
    path = new_path(
        tmp_path, "classification", ("nn.Dropout(config.dropout)", f"nn.Dropout({rate})"), dropout=0.1
    )

    found = failures(path, (REPEATABILITY,))

    assert found.keys() == ({"repeatability"} if is_found else set())
    assert not is_found or "dropout drops 0.98, config.json says 0.1" in found["repeatability"]


NORM = "nn.BatchNorm1d(config.width)"


@pytest.mark.parametrize(
    ("edits", "settings", "is_found"),
    [
        ((), {}, False),
        (((NORM, "nn.BatchNorm1d(config.width, momentum=0.0)"),), {}, True),
        (((NORM, "nn.BatchNorm1d(config.width, momentum=0.0)"),), {"frozen_norms": True}, False),
        (((NORM, "nn.BatchNorm1d(config.width, momentum=None)"),), {}, False),  # a cumulative mean
        (((NORM, "nn.BatchNorm1d(config.width, track_running_stats=False)"),), {}, False),
    ],
)
def test_batch_norm_that_never_learns_its_statistics_is_found(
    tmp_path: Path, edits: tuple[tuple[str, str], ...], settings: dict[str, Any], is_found: bool
) -> None:
    path = new_path(tmp_path, "classification", *edits, batch_norm=True, settings=settings)

    assert failures(path, (RUNNING_STATISTICS,)) == ({"running-statistics": ANY} if is_found else {})


def in_training(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]):
    def edit(data: Path) -> None:
        arrays = (np.load(data / f"train-{part}.npy") for part in ("inputs", "targets"))
        write_split(data, "train", *change(*arrays))

    return edit


def heldout_in_train(data: Path) -> None:
    both = [np.concatenate([np.load(data / f"{split}-{part}.npy") for split in ("train", "heldout")]) for part in ("inputs", "targets")]  # fmt: skip
    write_split(data, "train", *both)


def scaled_on_all(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    rows = np.concatenate([np.load(data / f"{split}-inputs.npy") for split in ("train", "val", "heldout")])
    manifest["scaling"] = {"mean": rows.mean(0).tolist(), "std": rows.std(0).tolist()}
    (data / "manifest.json").write_text(json.dumps(manifest))


def touched(data: Path) -> None:
    labels = np.load(data / "heldout-targets.npy")
    np.save(data / "heldout-targets.npy", np.roll(labels, 1), allow_pickle=False)


def with_nan(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs[3, 2] = np.nan
    return inputs, targets


def with_target(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs[:, 0] = targets
    return inputs, targets


@pytest.mark.parametrize(
    ("probe", "edit"),
    [
        ("split-overlap", heldout_in_train),
        ("scaling-fit", scaled_on_all),
        ("rows-untouched", touched),
        ("rows-sound", in_training(with_nan)),
        ("rows-sound", in_training(lambda x, y: (x[y != 1], y[y != 1]))),
        ("split-drift", in_training(lambda x, y: (x[(y != 0) | (np.arange(len(y)) % 6 == 0)], y[(y != 0) | (np.arange(len(y)) % 6 == 0)]))),
        ("label-signal", in_training(lambda x, y: (x, np.roll(y, 1)))),
        ("label-conflict", in_training(lambda x, y: (np.concatenate([x, x[:60]]), np.concatenate([y, (y[:60] + 1) % 3])))),
        ("target-leak", in_training(with_target)),
    ],
)  # fmt: skip
def test_data_defect_fails_its_probe(tmp_path: Path, probe: str, edit: Callable[[Path], None]) -> None:
    path = new_path(tmp_path)
    edit(path.parent / "data")

    assert probe in failures(path, DATA_PROBES)


@pytest.mark.parametrize(
    ("probe", "kind", "old", "new"),
    [
        ("fresh-gradients", "classification", "        self.optimizer.zero_grad(set_to_none=True)\n", ""),
        ("row-labels", "classification", "np.array(self.targets[rows])", "np.roll(self.targets[rows], 1)"),
        ("val-evaluated", "classification", SPLITS, SPLITS.replace('"val"', '"train"')),
        pytest.param("row-labels", "regression", "np.array(self.targets[rows])", "np.roll(self.targets[rows], 1)", marks=pytest.mark.slow),
        pytest.param("loss-gradient", "classification", LOSS, LOSS.replace("return ", "return -"), marks=pytest.mark.slow),
        pytest.param("loss-gradient", "classification", LOSS, LOSS.replace("outputs.float()", "outputs.softmax(-1)"), marks=pytest.mark.slow),
        pytest.param("rate-schedule", "classification", RATES, "", marks=pytest.mark.slow),
        pytest.param("optimizer-settings", "classification", "eps=1e-8", "eps=0.1", marks=pytest.mark.slow),
        pytest.param("optimizer-settings", "classification", '"weight_decay": 0.0', '"weight_decay": config.weight_decay', marks=pytest.mark.slow),
        pytest.param("trained-parameters", "classification", "[parameter for parameter in model.parameters() if", "[parameter for name, parameter in model.named_parameters() if name[0] != 'h' and", marks=pytest.mark.slow),
        pytest.param("clipping", "classification", "self.config.grad_clip or math.inf", "math.inf", marks=pytest.mark.slow),
        pytest.param("row-modes", "classification", "        self.model.eval()\n", "", marks=pytest.mark.slow),
        pytest.param("resumed", "classification", "            optimizer.state[parameters[name]][kind] = tensor.clone().to(parameters[name].device)", "            pass", marks=pytest.mark.slow),
        pytest.param("rows-from-train", "classification", "np.array(self.inputs[rows])", "np.array(self.inputs[rows]) * 1.3", marks=pytest.mark.slow),
        pytest.param("epoch-order", "classification", ORDER, "return np.arange(num_rows)", marks=pytest.mark.slow),
        pytest.param("epoch-order", "classification", ORDER, ORDER.replace("permutation(num_rows)", "integers(num_rows, size=num_rows)"), marks=pytest.mark.slow),
        pytest.param("scaling-set", "classification", "    if set_scaling:", "    if False:", marks=pytest.mark.slow),
        pytest.param("row-loss", "classification", "loss={loss:.4f}", "loss={0.9 * loss:.4f}", marks=pytest.mark.slow),
        pytest.param("rows-rehearsed", "classification", '"train", "val"))', '"heldout", "val"))', marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_training_defect_fails_its_probe(tmp_path: Path, probe: str, kind: str, old: str, new: str) -> None:
    text = supervised_path.resource("templates", "supervised", "train.py").read_text()
    if text.count(old) > 1:  # train.log's line, and eval.log's
        old, new = f'f"step={{step}} {old}', f'f"step={{step}} {new}'
    options = {"settings": {"grad_clip": 0.05}} if probe == "clipping" else {}
    path = new_path(tmp_path, kind, train_edits=((old, new),), **options)

    assert probe in failures(path, ROW_REHEARSAL_PROBES)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The root of a trained run."""
    root = tmp_path_factory.mktemp("run")
    supervised_path.train(new_path(root))
    return root


@pytest.fixture
def path(run: Path, tmp_path: Path) -> Path:
    """The path of a copy of that run, to be damaged."""
    return supervised_path.copy(run, tmp_path / "copy")


def best(path: Path) -> Path:
    return path / "ckpts" / json.loads((path / "ckpts" / "best.json").read_text())["dir"]


def change_rows(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes each row of metrics.jsonl."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_metric_made_up_fails_val_claim(path: Path) -> None:
    change_rows(path, lambda row: row.update(accuracy=0.99) if "accuracy" in row else None)

    assert "metrics.jsonl claims accuracy 0.99" in verify(path).failures["val-claim"]


def test_smoothed_losses_fail_train_claim(path: Path) -> None:
    steps = range(1, 151)
    (path / "train.log").write_text("".join(f"step={n} loss={0.09 + 1.0 * 0.97**n:.4f}\n" for n in steps))
    change_rows(path, lambda row: row.update(loss=0.09 + 0.97 ** row["step"]) if "loss" in row else None)

    assert "train-claim-rows" in verify(path).failures


def test_checkpoint_of_another_run_fails(path: Path, tmp_path: Path) -> None:
    other = new_path(tmp_path / "other", settings={"seed": 7})
    supervised_path.train(other)
    (best(path) / "model.safetensors").write_bytes((best(other) / "model.safetensors").read_bytes())

    assert "val-claim" in verify(path).failures


def test_classes_in_another_order_fail_class_order(path: Path) -> None:
    weights = load_file(best(path) / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].roll(1, 0).contiguous()
    save_file(weights, best(path) / "model.safetensors")

    assert "class-order" in verify(path).failures


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda weights: weights.update({"head.bias": torch.full((3,), torch.nan)}), "holds NaN"),
        (lambda weights: weights.update({"head.bias": torch.zeros(4)}), "has shape [4]"),
        (lambda weights: weights.pop("second.weight"), "missing tensor second.weight"),
    ],
)
def test_checkpoint_that_does_not_fit_is_a_failed_verdict(path: Path, damage, words: str) -> None:
    weights = load_file(best(path) / "model.safetensors")
    damage(weights)
    save_file(weights, best(path) / "model.safetensors")

    assert words in verify(path).failures["Held-out predictions"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nos._exit(0)\n", "ended with exit code 0"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("while True:\n    pass\n", "was stopped after"),
        ("big = [0] * (1 << 40)\n", "MemoryError"),
        ("import os, time\nif os.fork() == 0:\n    time.sleep(600)\nprint('x' * (1 << 28))\n", ""),
    ],
)
def test_hostile_model_ends_in_a_verdict_within_its_limit(path: Path, code: str, words: str) -> None:
    model = (path / "model.py").read_text()
    (path / "model.py").write_text(model.replace("import torch\n", f"import torch\n{code}", 1))

    result = verify_rows(path, data_dir=path.parent / "data", planned_rows=4800, target_params=None, seed=0, progress=lambda _: None, time_limit_s=45)  # fmt: skip

    if words:
        assert words in result.failures["Held-out predictions"]
    else:
        assert result.passed, result.failures


def test_model_that_ends_the_process_fails_smoke(path: Path) -> None:
    (path / "model.py").write_text("import os\nos._exit(0)\n")

    result = smoke_apart(path, data_dir=path.parent / "data", target_params=None, threads=1)

    assert not result.passed
    assert "ended with exit code 0" in result.probes[0].detail


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\x93NUMPY", "cannot be read"), (None, "cannot be read"), (b"", "cannot be read")],
)
def test_array_that_cannot_be_read_is_a_failed_verdict(path: Path, content: bytes | None, words: str) -> None:
    file = path.parent / "data" / "heldout-inputs.npy"
    if content is None:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        file.write_bytes(content)

    result = verify(path)

    assert words in result.failures["Held-out predictions"]
    assert words in result.failures["rows-sound"]
