"""Train the classifier or regressor of this directory: `python train.py`, again and again until it is done.

Reads   model.py config.json train_config.json, ../data (manifest.json; the arrays of train and val)
Writes  train.log, eval.log, metrics.jsonl, and ckpts/:
          last.json           where training stands: step, dir, status (running, done, stopped, failed), …
          best.json           the checkpoint with the lowest eval loss
          step-00000100/      model.safetensors, optimizer.safetensors, state.json

It may be killed at any instant. Started again it goes on from the last checkpoint, on a CPU bit for
bit as if nothing had happened: a checkpoint is a directory that appears whole by a rename, last.json
is replaced after it, and the logs are cut back to it.

The loss is the cross-entropy (nats per row, with the label smoothing of train_config.json) or the mean
squared error of targets divided by their standard deviation; the eval loss is the same over all of val.
A model that works on scaled numbers has a method `set_scaling(input_mean, input_std, target_mean,
target_std)` and keeps them as buffers, so a checkpoint takes and gives numbers in their own units.

Stops with a checkpoint on SIGTERM, on SIGINT, when the process that started it is gone, and when
`time_limit_s` is spent (over all its starts together). A loss or gradient that is not finite skips
the update and halves the learning rate.

Exit codes: 0 done or stopped, as last.json says; 1 cannot read or write; 2 cannot start; 3 failed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
CKPTS = HERE / "ckpts"
LOGS = ("train.log", "eval.log", "metrics.jsonl")
CHOICES = {"task": ("classification", "regression"), "schedule": ("cosine", "linear", "constant")}
EVAL_BATCH = 256  # rows
MAX_NOT_FINITE = 5  # in a row
CLOSING_S = 0.5  # kept free for a stop, beside an evaluation and two checkpoints


class CannotStart(Exception):
    """A file is missing, damaged, or does not fit the others; the message is for the user."""


class Interrupted(Exception):
    """Training is to stop now; the message is the reason."""


class TrainingFailed(Exception):
    """Training cannot go on; the message is the reason."""


def main() -> int:
    """Train. Returns the exit code."""
    try:
        Trainer(TrainConfig.read(HERE / "train_config.json")).run()
    except CannotStart as error:
        note(str(error))
        return 2
    except TrainingFailed as error:
        note(f"failed: {error}")
        return 3
    except (OSError, SafetensorError) as error:
        note(f"cannot read or write: {error}")
        return 1
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """train_config.json: every number of the training."""

    data_dir: str
    task: str  # classification, regression
    steps: int
    batch_size: int  # rows
    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    schedule: str  # cosine, linear, constant
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float  # of the gradient's norm; 0: off
    label_smoothing: float  # 0: off
    eval_every: int  # steps
    checkpoint_every: int  # steps
    seed: int
    num_threads: int
    time_limit_s: float | None  # over all starts together; null: none

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Raises CannotStart when the file is not as described here."""
        values = read_json(path, *(field.name for field in fields(cls)))
        for field in fields(cls):
            name, value = field.name, values.pop(field.name)
            lowest = 0 if name in {"warmup_steps", "seed"} or field.type == "float" else 1
            below = 1 if name in {"beta1", "beta2", "label_smoothing"} else math.inf
            types = int if field.type == "int" else (int, float)
            if name in CHOICES and value not in CHOICES[name]:
                raise CannotStart(f"{path}: {name}: must be {' or '.join(CHOICES[name])}, not {value!r}")
            if field.type in {"int", "float"} and not (
                isinstance(value, types) and not isinstance(value, bool) and lowest <= value < below
            ):
                kind = "whole number" if field.type == "int" else "number"
                limits = f"≥ {lowest}" if below == math.inf else f"≥ {lowest} and < {below}"
                raise CannotStart(f"{path}: {name}: must be a {kind} {limits}, not {value!r}")
        if values:
            raise CannotStart(f"{path}: unknown {', '.join(sorted(values))}")
        return cls(**read_json(path))

    @property
    def data(self) -> Path:
        """The directory of manifest.json and the arrays."""
        return (HERE / self.data_dir).resolve()


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The scheduled rate of the step after ``step`` steps: linear warm-up, then decay to the minimum."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    decayed = {"constant": 0.0, "linear": progress, "cosine": (1.0 - math.cos(math.pi * progress)) / 2}
    return config.learning_rate - decayed[config.schedule] * (config.learning_rate - config.min_learning_rate)


# --- data ----------------------------------------------------------------------------------------


class Rows:
    """One split: inputs (N, …) float32, or (N, T) int64 token ids; targets (N,) int64 classes or float32."""

    def __init__(self, data_dir: Path, manifest: dict[str, Any], split: str) -> None:
        paths = [data_dir / manifest["splits"][split][part]["name"] for part in ("inputs", "targets")]
        try:
            self.inputs, self.targets = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        except (OSError, ValueError) as error:
            raise CannotStart(f"{data_dir}: {split}: {error}") from error
        classes = manifest["classes"]
        types = (manifest["inputs"]["dtype"], "int64" if classes else "float32")
        if (self.inputs.dtype, self.targets.dtype) != types:
            raise CannotStart(f"{data_dir}: {split}: the arrays must be {' and '.join(types)}")
        if not 0 < len(self.inputs) == len(self.targets):
            raise CannotStart(
                f"{data_dir}: {split}: {len(self.inputs)} rows of inputs, {len(self.targets)} targets"
            )
        if classes and not 0 <= self.targets.min() <= self.targets.max() < len(classes):
            raise CannotStart(f"{data_dir}: {split}: targets outside the {len(classes)} classes")

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """The inputs (B, …) and targets (B,) of some rows."""
        return torch.from_numpy(np.array(self.inputs[rows])), torch.from_numpy(np.array(self.targets[rows]))


@lru_cache(maxsize=2)
def epoch_order(num_rows: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (num_rows,) in which an epoch visits every training row exactly once."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)


def rows_after(cursor: int, count: int, *, num_rows: int, seed: int) -> NDArray[np.int64]:
    """The ``count`` rows after the first ``cursor``; they may reach from one epoch into the next."""
    places = [divmod(index, num_rows) for index in range(cursor, cursor + count)]
    return np.array([epoch_order(num_rows, seed=seed, epoch=epoch)[place] for epoch, place in places])


# --- model, loss, optimizer ----------------------------------------------------------------------


def build_model(manifest: dict[str, Any]) -> nn.Module:
    """The model of model.py with the sizes of config.json, fresh weights and the scaling of the data.

    Raises:
        CannotStart: the files do not fit each other.
    """
    config = read_json(HERE / "config.json", "_model_class")
    module, name = importlib.import_module("model"), config["_model_class"]
    try:
        model_class, config_class = getattr(module, name), getattr(module, f"{name}Config")
        known = {field.name for field in fields(config_class)}
        model: nn.Module = model_class(config_class(**{k: v for k, v in config.items() if k in known}))
    except (AttributeError, TypeError) as error:
        raise CannotStart(f"config.json does not fit model.py: {error!r}") from error
    set_scaling: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = getattr(model, "set_scaling", None)
    if set_scaling:
        unscaled = {"mean": 0.0, "std": 1.0}
        inputs, targets = manifest["scaling"] or unscaled, manifest["target_scaling"] or unscaled
        numbers = (inputs["mean"], inputs["std"], targets["mean"], targets["std"])
        set_scaling(*(torch.tensor(number, dtype=torch.float32) for number in numbers))
    return model


def new_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms and biases."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8)


class Objective:
    """What is minimised, and what people ask for: accuracy, or the root mean squared error."""

    def __init__(self, config: TrainConfig, manifest: dict[str, Any]) -> None:
        self.metric = "accuracy" if config.task == "classification" else "rmse"
        self._label_smoothing = config.label_smoothing
        self._target_std: float = (manifest["target_scaling"] or {"std": 1.0})["std"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of outputs (B, C), or (B,) or (B, 1), for targets (B,)."""
        if self.metric == "accuracy":
            return functional.cross_entropy(outputs.float(), targets, label_smoothing=self._label_smoothing)
        return functional.mse_loss(outputs.reshape(-1) / self._target_std, targets / self._target_std)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric over outputs and targets of a whole split."""
        if self.metric == "accuracy":
            return (outputs.argmax(-1) == targets).double().mean().item()
        return (outputs.reshape(-1) - targets).double().square().mean().sqrt().item()


# --- training ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class State:
    """What a checkpoint holds beside the tensors. The cursor counts the rows consumed."""

    step: int = 0
    cursor: int = 0
    learning_rate_scale: float = 1.0
    skipped: int = 0  # updates that were not finite; their rows are consumed
    skipped_in_a_row: int = 0


class Trainer:
    """Everything between two checkpoints."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.fingerprint = fingerprint(config)
        self.stop = StopRequest()
        self.state = State()
        self.best: dict[str, Any] | None = None
        self.evaluated: dict[str, Any] | None = None  # what the latest evaluation found
        self.elapsed_before_s = 0.0
        self.closing_s = CLOSING_S  # what a stop takes, by how long things took so far

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end or a stop.

        Raises:
            CannotStart: the files do not fit each other.
            TrainingFailed: after the checkpoint that says so.
        """
        last = read_last(self.fingerprint)
        if last and last["status"] == "done":
            print(f"done already: {last['step']} steps, {last['rows']} rows")
            return
        torch.set_num_threads(self.config.num_threads)
        torch.manual_seed(self.config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        keys = ("task", "inputs", "classes", "splits", "scaling", "target_scaling")
        manifest = read_json(self.config.data / "manifest.json", *keys)
        if manifest["task"] != self.config.task:
            raise CannotStart(f"the data are for {manifest['task']}, the training for {self.config.task}")
        self.train_rows, self.val_rows = (Rows(self.config.data, manifest, name) for name in ("train", "val"))
        self.objective = Objective(self.config, manifest)
        self.model = build_model(manifest).to(self.device).train()
        self.optimizer = new_optimizer(self.model, self.config)
        if last:
            self.state = load_checkpoint(CKPTS / last["dir"], self.model, self.optimizer)
            self.best, self.evaluated = last["best"], last["evaluated"]
            self.elapsed_before_s = last["elapsed_s"]
            print(f"resumed at step={self.state.step}", flush=True)
        tidy(last)
        self.logs = Logs(last_step=self.state.step if last else None)
        try:
            while self.state.step < self.config.steps:
                self.check_stop()
                self.train_step()
                step = self.state.step
                if step % self.config.eval_every == 0 or step == self.config.steps:
                    self.evaluate()
                    self.commit("running")
                elif step % self.config.checkpoint_every == 0:
                    self.commit("running")
            self.commit("done")
        except Interrupted as stop:
            self.commit("running")  # first the checkpoint, then what there is time for
            if self.state.step > 0 and (self.evaluated or {}).get("step") != self.state.step:
                self.evaluate()
            self.commit("stopped", str(stop))
        except TrainingFailed as failure:
            self.commit("failed", str(failure))
            raise

    def train_step(self) -> None:
        """One update, with as many batches as it takes to have one that is finite."""
        step = self.state.step + 1
        learning_rate = learning_rate_at(self.state.step, self.config) * self.state.learning_rate_scale
        while self.state.step < step:
            rows = rows_after(
                self.state.cursor,
                self.config.batch_size,
                num_rows=len(self.train_rows),
                seed=self.config.seed,
            )
            buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
            loss, grad_norm = self.backward(*self.train_rows.batch(rows))
            self.state.cursor += self.config.batch_size
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                for buffer, before in buffers:
                    buffer.copy_(before)
                self.skip_update(step)
                learning_rate /= 2
                continue
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.state.skipped_in_a_row = 0
            self.state.step = step
        self.logs.line("train.log", f"step={step} loss={loss:.4f}")
        self.logs.metrics(
            step=step,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            rows=self.state.cursor,
            elapsed_s=round(self.elapsed_s, 3),
        )

    def backward(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Leave the clipped gradient of a batch in the parameters. Returns the loss and its norm."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.objective.loss(self.model(inputs.to(self.device)), targets.to(self.device))
            torch.autograd.backward(loss)
        except torch.OutOfMemoryError as error:
            raise TrainingFailed("out of memory; a smaller batch_size takes less") from error
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        return loss.item(), grad_norm.item()

    def skip_update(self, step: int) -> None:
        """The rule for a loss or gradient that is not finite."""
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self.state.learning_rate_scale /= 2
        event = f"not finite: update skipped, learning rate scaled by {self.state.learning_rate_scale}"
        note(f"step {step}: {event}")
        self.logs.metrics(step=step, event=event)
        if self.state.skipped_in_a_row == MAX_NOT_FINITE:
            raise TrainingFailed(f"not finite at step {step}")

    def evaluate(self) -> None:
        """Measure loss and metric on all of val, and remember the step when its loss is the lowest."""
        started = time.monotonic()
        self.model.eval()
        with torch.inference_mode():
            batches = [
                self.val_rows.batch(slice(start, start + EVAL_BATCH))
                for start in range(0, len(self.val_rows), EVAL_BATCH)
            ]
            outputs = torch.cat([self.model(inputs.to(self.device)).cpu() for inputs, _ in batches])
            targets = torch.cat([targets for _, targets in batches])
            loss = self.objective.loss(outputs, targets).item()
            score = self.objective.score(outputs, targets)
        self.model.train()
        step, metric = self.state.step, self.objective.metric
        self.logs.line("eval.log", f"step={step} eval_loss={loss:.4f} {metric}={score:.4f}")
        self.evaluated = {"step": step, "eval_loss": loss, "eval_rows": len(targets), metric: score}
        self.logs.metrics(**self.evaluated)
        if self.best is None or loss < self.best["eval_loss"]:
            self.best = self.evaluated | {"dir": directory_name(step), "rows": self.state.cursor}
        self.closing_s = max(self.closing_s, CLOSING_S + time.monotonic() - started)

    def commit(self, status: str, reason: str | None = None) -> None:
        """Make this step the one from which a new start goes on."""
        started = time.monotonic()
        self.logs.sync()
        save_checkpoint(CKPTS / directory_name(self.state.step), self.state, self.model, self.optimizer)
        last = {
            "step": self.state.step,
            "dir": directory_name(self.state.step),
            "status": status,
            "reason": reason,
            "rows": self.state.cursor,
            "skipped": self.state.skipped,
            "elapsed_s": round(self.elapsed_s, 3),
            "evaluated": self.evaluated,
            "best": self.best,
            "fingerprint": self.fingerprint,
        }
        replace_text(CKPTS / "last.json", json.dumps(last, indent=2) + "\n")
        tidy(last)
        self.closing_s = max(self.closing_s, CLOSING_S + 2 * (time.monotonic() - started))

    def check_stop(self) -> None:
        """Raises Interrupted when somebody asked for a stop, or the time is spent but for what that takes."""
        if self.stop.requested:
            raise Interrupted("terminated")
        limit_s = self.config.time_limit_s
        if limit_s is not None and self.elapsed_s + self.closing_s >= limit_s:
            raise Interrupted("time limit")

    @property
    def elapsed_s(self) -> float:
        """Seconds of all starts together, imports included."""
        started: float = psutil.Process().create_time()
        return self.elapsed_before_s + time.time() - started


class StopRequest:
    """Whether somebody wants this process to stop: by a signal, or by being gone."""

    def __init__(self) -> None:
        self._signalled = False
        self._parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._signalled = True

    @property
    def requested(self) -> bool:
        """True from the request on."""
        return self._signalled or os.getppid() != self._parent


# --- checkpoints ---------------------------------------------------------------------------------


def fingerprint(config: TrainConfig) -> str:
    """A hash of everything that must not change between two starts; the time limit may.

    Raises:
        CannotStart: a file is missing.
    """
    settings = asdict(config)
    del settings["time_limit_s"]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in (HERE / "model.py", HERE / "config.json", HERE / "train.py", config.data / "manifest.json"):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise CannotStart(f"{path}: {error.strerror}") from error
    return digest.hexdigest()


def directory_name(step: int) -> str:
    """Where the checkpoint of a step is, under ckpts/."""
    return f"step-{step:08d}"


def read_last(fingerprint: str) -> dict[str, Any] | None:
    """Where training stands, or None when it has not begun.

    Raises:
        CannotStart: last.json is damaged, or of a training with other files.
    """
    path = CKPTS / "last.json"
    if not path.exists():
        return None
    last = read_json(path, "step", "dir", "status", "rows", "elapsed_s", "evaluated", "best", "fingerprint")
    if last["fingerprint"] != fingerprint:
        raise CannotStart(
            f"{path}: this checkpoint was trained with another model.py, config.json, train.py,"
            " train_config.json or manifest.json; bring them back, or remove ckpts/ to start over"
        )
    return last


def load_checkpoint(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Bring model, optimizer and random numbers to a checkpoint.

    Raises:
        CannotStart: it is missing or damaged.
    """
    names = [field.name for field in fields(State)]
    saved = read_json(directory / "state.json", "rng", *names)
    parameters = dict(model.named_parameters())
    try:
        weights = load_file(directory / "model.safetensors")
        if weights.keys() != unique_state(model).keys():
            raise CannotStart(f"{directory / 'model.safetensors'}: holds the weights of another model")
        model.load_state_dict(weights, strict=False)  # tied names are absent, the rest was compared
        for key, tensor in load_file(directory / "optimizer.safetensors").items():
            name, _, kind = key.rpartition(".")
            # A copy, since tensors mapped from a file are not aligned as fast kernels want them.
            optimizer.state[parameters[name]][kind] = tensor.clone().to(parameters[name].device)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CannotStart(f"{directory}: {error}") from error
    for device, value in saved["rng"].items():
        set_rng_state = torch.cuda.set_rng_state if device == "cuda" else torch.set_rng_state
        set_rng_state(torch.frombuffer(bytearray.fromhex(value), dtype=torch.uint8))
    return State(**{name: saved[name] for name in names})


def save_checkpoint(target: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the directory of a step; it appears whole or not at all."""
    if target.exists():  # of this very step of this very training, see tidy
        return
    aside = target.with_name(f".{target.name}")
    aside.mkdir()
    save_file({k: v.contiguous() for k, v in unique_state(model).items()}, aside / "model.safetensors")
    moments = {
        f"{name}.{kind}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, aside / "optimizer.safetensors")
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    saved = asdict(state) | {"rng": {device: bytes(v.tolist()).hex() for device, v in rng.items()}}
    (aside / "state.json").write_text(json.dumps(saved), encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        sync(path)
    aside.rename(target)
    sync(target.parent)


def tidy(last: dict[str, Any] | None) -> None:
    """Let best.json follow last.json, and remove what neither names: all, when training has not begun."""
    CKPTS.mkdir(exist_ok=True)
    best = last["best"] if last else None
    if best:
        replace_text(CKPTS / "best.json", json.dumps(best, indent=2) + "\n")
    else:
        (CKPTS / "best.json").unlink(missing_ok=True)
    named = {pointer["dir"] for pointer in (last, best) if pointer}
    for directory in (*CKPTS.glob("step-*"), *CKPTS.glob(".step-*")):
        if directory.name not in named:
            shutil.rmtree(directory)


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied weights once, under the name that the model registered first."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


# --- files ---------------------------------------------------------------------------------------


class Logs:
    """train.log, eval.log (one line per row) and metrics.jsonl.

    Args:
        last_step: Rows after this step are removed, as they will be written again; None removes all.
    """

    def __init__(self, *, last_step: int | None) -> None:
        self._files: dict[str, TextIO] = {}
        for name in LOGS:
            path = HERE / name
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            steps = [re.match(r'(?:step=|\{"step": )(\d+)\b', row) for row in rows]
            kept = [
                row
                for row, step in zip(rows, steps, strict=True)
                if last_step is not None and step and int(step[1]) <= last_step and row.endswith("\n")
            ]
            replace_text(path, "".join(kept))
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)  # a row is written at once

    def line(self, name: str, text: str) -> None:
        """Add a row to one of the logs, and show it."""
        self._files[name].write(text + "\n")
        print(text, flush=True)

    def metrics(self, **row: float | str) -> None:
        """Add a row to metrics.jsonl."""
        self._files["metrics.jsonl"].write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Bring all rows to the disk."""
        for file in self._files.values():
            os.fsync(file.fileno())


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object that has the required keys. Raises CannotStart when it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path}: {error}") from error
    missing = [key for key in required if key not in value] if isinstance(value, dict) else ["an object"]
    if missing:
        raise CannotStart(f"{path}: lacks {', '.join(missing)}")
    return dict(value)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def note(text: str) -> None:
    """A line for whoever watches stderr."""
    print(f"train.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
