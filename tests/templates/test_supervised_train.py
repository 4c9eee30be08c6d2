"""templates/supervised/train.py as a program: what it learns, logs and keeps, how it goes on after a stop."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ml_intern_cli.resources import resource

ROWS = {"train": 600, "val": 150, "heldout": 150}
STEPS = 240
SETTINGS: dict[str, Any] = {
    "data_dir": "../data",
    "task": "classification",
    "steps": STEPS,
    "batch_size": 16,
    "learning_rate": 0.02,
    "min_learning_rate": 0.002,
    "warmup_steps": 5,
    "schedule": "cosine",
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "grad_clip": 1.0,
    "label_smoothing": 0.0,
    "eval_every": 50,
    "checkpoint_every": 7,
    "seed": 3,
    "num_threads": 1,
    "time_limit_s": None,
}
MODEL = """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class NetConfig:
    features: int
    outputs: int
    dropout: float = 0.1
    poisoned: tuple = ()


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.poisoned = config.poisoned
        self.register_buffer("scaling", torch.tensor([[0.0], [1.0]]).repeat(1, config.features))
        self.register_buffer("target_scaling", torch.tensor([0.0, 1.0]))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))
        self.body = nn.Sequential(
            nn.Linear(config.features, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.head = nn.Linear(64, config.outputs)
        self.calls = 0

    def set_scaling(self, input_mean, input_std, target_mean, target_std):
        self.scaling.copy_(torch.stack([input_mean, input_std]))
        self.target_scaling.copy_(torch.stack([target_mean, target_std]))

    def forward(self, inputs):
        outputs = self.head(self.body((inputs - self.scaling[0]) / self.scaling[1]))
        outputs = outputs * self.target_scaling[1] + self.target_scaling[0]
        if self.training:
            self.forwards += 1
            self.calls += 1
            if self.calls in self.poisoned:
                return outputs * float("nan")
        return outputs
"""


def write_data(directory: Path, task: str) -> None:
    """Three rings (or a curve) of five features in odd units; a linear model does not fit them."""
    directory.mkdir()
    random = np.random.default_rng(0)
    splits = {}
    for split, count in ROWS.items():
        features = random.normal(size=(count, 5), scale=(1, 1, 0.2, 0.2, 0.2)).astype(np.float32)
        radius = np.linalg.norm(features[:, :2], axis=1)
        if task == "classification":
            targets = np.digitize(radius, [0.8, 1.5]).astype(np.int64)
        else:
            targets = (500 + 100 * radius).astype(np.float32)
        arrays = {"inputs": features * 40 + 7, "targets": targets}
        for part, array in arrays.items():
            np.save(directory / f"{split}-{part}.npy", array)
        splits[split] = {"rows": count} | {part: {"name": f"{split}-{part}.npy"} for part in arrays}
    manifest = {
        "task": task,
        "inputs": {"dtype": "float32", "shape": [5], "vocab_size": None, "pad_id": None},
        "classes": ["in", "on", "out"] if task == "classification" else None,
        "splits": splits,
        "scaling": {"mean": [7.0] * 5, "std": [40.0] * 5, "fitted_on": "train"},
        "target_scaling": None if task == "classification" else {"mean": 620.0, "std": 65.0},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))


class Trained:
    """A path directory and the program run in it."""

    def __init__(self, root: Path, *, config: dict[str, Any] | None = None, **settings: Any) -> None:
        self.directory = root / "path-a"
        self.directory.mkdir(parents=True)
        task = settings.get("task", "classification")
        if not (root / "data").exists():
            write_data(root / "data", task)
        shutil.copy(resource("templates", "supervised", "train.py"), self.directory)
        self.write("model.py", MODEL)
        sizes = {"features": 5, "outputs": 3 if task == "classification" else 1}
        self.write("config.json", json.dumps({"_model_class": "Net"} | sizes | (config or {})))
        self.write("train_config.json", json.dumps(SETTINGS | settings))

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def rows(self, key: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.read("metrics.jsonl").splitlines()]
        return [row for row in rows if key in row]

    def weights(self, pointer: str) -> dict[str, Any]:
        directory = self.json(f"ckpts/{pointer}.json")["dir"]
        return load_file(self.directory / "ckpts" / directory / "model.safetensors")

    def run(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "train.py"]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)

    def stop_at(self, step: int, number: signal.Signals) -> int:
        """Start train.py, send it a signal once ``step`` is logged, and return its exit code."""
        process = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        log = self.directory / "train.log"
        while process.poll() is None and not (log.exists() and f"step={step} " in log.read_text()):
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A classifier with dropout and batch norm, trained in one go."""
    path = Trained(tmp_path_factory.mktemp("run"))
    finished = path.run()
    assert (finished.returncode, finished.stderr) == (0, "")
    return path


@pytest.fixture
def copy(unbroken, tmp_path):
    """The finished path, to be changed."""
    shutil.copytree(unbroken.directory.parent, tmp_path / "run")
    path = Trained.__new__(Trained)
    path.directory = tmp_path / "run" / "path-a"
    return path


def test_a_classifier_learns_what_a_majority_guess_does_not_know(unbroken):
    losses = [row["loss"] for row in unbroken.rows("loss")]
    majority = (
        np.bincount(np.load(unbroken.directory.parent / "data" / "val-targets.npy")).max() / ROWS["val"]
    )
    best = unbroken.json("ckpts/best.json")
    assert abs(losses[0] - math.log(3)) < 0.5
    assert best["eval_loss"] < 0.5
    assert best["accuracy"] > majority + 0.2
    assert best["eval_rows"] == ROWS["val"]


def test_a_regressor_gives_values_in_the_unit_of_the_target(tmp_path):
    path = Trained(tmp_path, task="regression", config={"dropout": 0.0})
    assert path.run().returncode == 0
    best = path.json("ckpts/best.json")
    spread = float(np.load(tmp_path / "data" / "val-targets.npy").std())
    assert best["rmse"] < 0.7 * spread
    assert best["rmse"] == pytest.approx(65.0 * math.sqrt(best["eval_loss"]), rel=1e-5)
    assert path.weights("best")["target_scaling"].tolist() == [620.0, 65.0]


def test_the_logs_have_a_line_per_step_and_per_evaluation(unbroken):
    lines = unbroken.read("train.log").splitlines()
    assert lines == [f"step={row['step']} loss={row['loss']:.4f}" for row in unbroken.rows("loss")]
    assert [row["step"] for row in unbroken.rows("loss")] == list(range(1, STEPS + 1))
    assert [row["rows"] for row in unbroken.rows("loss")] == [16 * step for step in range(1, STEPS + 1)]
    evaluations = unbroken.rows("eval_loss")
    assert [row["step"] for row in evaluations] == [50, 100, 150, 200, 240]
    assert unbroken.read("eval.log").splitlines() == [
        f"step={row['step']} eval_loss={row['eval_loss']:.4f} accuracy={row['accuracy']:.4f}"
        for row in evaluations
    ]
    best = min(evaluations, key=lambda row: row["eval_loss"])
    assert unbroken.json("ckpts/best.json") == best | {
        "dir": f"step-{best['step']:08d}",
        "rows": 16 * best["step"],
    }


def test_an_epoch_visits_every_row_once():
    spec = importlib.util.spec_from_file_location(
        "supervised_train", resource("templates", "supervised", "train.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    rows = module.rows_after(0, 300, num_rows=100, seed=5)
    for epoch in range(3):
        assert sorted(rows[100 * epoch : 100 * epoch + 100]) == list(range(100))
    assert list(rows[:100]) != list(rows[100:200])
    assert list(module.rows_after(90, 20, num_rows=100, seed=5)) == list(rows[90:110])


def test_evaluation_moves_neither_statistics_nor_random_numbers(unbroken, tmp_path):
    rare = Trained(tmp_path, eval_every=STEPS)
    assert rare.run().returncode == 0
    assert [row["loss"] for row in rare.rows("loss")] == [row["loss"] for row in unbroken.rows("loss")]
    assert rare.weights("last")["body.1.running_mean"].any()


def test_killed_and_terminated_training_ends_with_the_same_bits(unbroken, tmp_path):
    path = Trained(tmp_path)
    assert path.stop_at(33, signal.SIGKILL) == -signal.SIGKILL
    assert path.stop_at(61, signal.SIGTERM) == 0
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"]) == ("stopped", "terminated")
    path.stop_at(last["step"] + 20, signal.SIGKILL)
    assert path.run().returncode == 0
    assert [row["loss"] for row in path.rows("loss")] == [row["loss"] for row in unbroken.rows("loss")]
    assert path.read("train.log") == unbroken.read("train.log")
    here, there = path.weights("last"), unbroken.weights("last")
    assert here.keys() == there.keys()
    assert all(here[name].tobytes() == there[name].tobytes() for name in here)
    assert path.json("ckpts/last.json")["rows"] == STEPS * 16


def test_a_time_limit_stops_with_an_evaluated_checkpoint_and_a_later_one_goes_on(tmp_path):
    path = Trained(tmp_path, steps=1_000_000, eval_every=500_000, checkpoint_every=500_000, time_limit_s=5.0)
    assert path.run().returncode == 0
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"]) == ("stopped", "time limit")
    assert path.json("ckpts/best.json")["step"] == last["step"] > 0
    assert path.run().returncode == 0  # the time of the first start counts, so this one has none left
    assert path.json("ckpts/last.json")["step"] == last["step"]


def test_a_loss_that_is_not_finite_skips_the_update_and_halves_the_rate(tmp_path):
    path = Trained(tmp_path, config={"poisoned": [10]}, steps=20, schedule="constant")
    finished = path.run()
    assert finished.returncode == 0
    assert finished.stderr == "train.py: step 10: not finite: update skipped, learning rate scaled by 0.5\n"
    rows = path.rows("loss")
    assert [row["learning_rate"] for row in rows[5:]] == [0.02] * 4 + [0.01] * 11
    assert rows[-1]["rows"] == 21 * 16
    assert path.weights("last")["forwards"] == 20  # the buffers of the skipped update are put back


def test_five_in_a_row_that_are_not_finite_end_the_training(tmp_path):
    path = Trained(tmp_path, config={"poisoned": list(range(9, 30))})
    failed = path.run()
    assert failed.returncode == 3
    assert failed.stderr.splitlines()[-1] == "train.py: failed: not finite at step 9"
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"], last["step"]) == ("failed", "not finite at step 9", 8)


def test_a_done_training_is_left_as_it_is(copy):
    before = {path: path.read_bytes() for path in copy.directory.rglob("*.*") if path.is_file()}
    again = copy.run()
    assert (again.returncode, again.stdout) == (0, f"done already: {STEPS} steps, {STEPS * 16} rows\n")
    assert before == {path: path.read_bytes() for path in copy.directory.rglob("*.*") if path.is_file()}


def test_a_checkpoint_of_other_settings_is_refused(copy):
    copy.write("train_config.json", json.dumps(SETTINGS | {"learning_rate": 0.05}))
    refused = copy.run()
    assert refused.returncode == 2
    assert "remove ckpts/ to start over" in refused.stderr


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"steps": 0}, "steps: must be a whole number ≥ 1, not 0"),
        ({"batch_size": 2.5}, "batch_size: must be a whole number ≥ 1, not 2.5"),
        ({"learning_rate": -1.0}, "learning_rate: must be a number ≥ 0, not -1.0"),
        ({"learning_rate": math.nan}, "learning_rate: must be a number ≥ 0, not nan"),
        ({"beta1": 1.0}, "beta1: must be a number ≥ 0 and < 1, not 1.0"),
        ({"schedule": "wavy"}, "schedule: must be cosine or linear or constant, not 'wavy'"),
        ({"momentum": 0.9}, "unknown momentum"),
        ({"data_dir": "../nothing"}, "manifest.json: No such file or directory"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(tmp_path, settings, complaint):
    path = Trained(tmp_path, **settings)
    refused = path.run()
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (path.directory / "ckpts").exists()


def test_arrays_that_do_not_fit_the_manifest_are_refused(tmp_path):
    path = Trained(tmp_path)
    targets = tmp_path / "data" / "train-targets.npy"
    good = np.load(targets)
    for bad, complaint in (
        (good[1:], "train: 600 rows of inputs, 599 targets"),
        (good + 1, "train: targets outside the 3 classes"),
        (good.astype(np.int32), "train: the arrays must be float32 and int64"),
        (np.array([None] * 600), "Python objects in dtype"),
    ):
        np.save(targets, bad)
        refused = path.run()
        assert (refused.returncode, complaint in refused.stderr) == (2, True), refused.stderr


def test_data_of_another_task_are_refused(tmp_path):
    path = Trained(tmp_path)
    path.write("train_config.json", json.dumps(SETTINGS | {"task": "regression"}))
    refused = path.run()
    assert refused.returncode == 2
    assert refused.stderr == "train.py: the data are for classification, the training for regression\n"
