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

import dataclasses
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
        names = [field.name for field in fields(cls)]
        values = read_json(path, *names)
        unknown = values.keys() - set(names)
        if unknown:
            raise CannotStart(f"{path}: unknown {', '.join(sorted(unknown))}")
        for field in fields(cls):
            value, kind = values[field.name], field.type
            lowest = 0 if field.name in {"warmup_steps", "seed"} else 1
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if kind == "int" and not (number and isinstance(value, int) and value >= lowest):
                raise CannotStart(f"{path}: {field.name}: must be a whole number ≥ {lowest}, not {value!r}")
            if kind == "float" and not (number and math.isfinite(value) and value >= 0):
                raise CannotStart(f"{path}: {field.name}: must be a number ≥ 0, not {value!r}")
        choices = {"task": ("classification", "regression"), "schedule": ("cosine", "linear", "constant")}
        for name, allowed in choices.items():
            if values[name] not in allowed:
                raise CannotStart(
                    f"{path}: {name}: must be one of {', '.join(allowed)}, not {values[name]!r}"
                )
        for name in ("beta1", "beta2", "label_smoothing"):
            if values[name] >= 1:
                raise CannotStart(f"{path}: {name}: must be below 1, not {values[name]!r}")
        return cls(**values)

    @property
    def data(self) -> Path:
        """The directory of manifest.json and the arrays."""
        return (HERE / self.data_dir).resolve()


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The scheduled rate of the step after ``step`` steps: linear warm-up, then decay to the minimum."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    decayed = {
        "constant": 0.0,
        "linear": progress,
        "cosine": (1.0 - math.cos(math.pi * progress)) / 2,
    }[config.schedule]
    return config.learning_rate - decayed * (config.learning_rate - config.min_learning_rate)


# --- data ----------------------------------------------------------------------------------------


class Rows:
    """One split: inputs (N, …) float32, or (N, T) int64 token ids; targets (N,) int64 classes or float32."""

    def __init__(self, data_dir: Path, manifest: dict[str, Any], split: str) -> None:
        self.inputs, self.targets = (
            load_array(data_dir / manifest["splits"][split][part]["name"]) for part in ("inputs", "targets")
        )
        dtype, classes = manifest["inputs"]["dtype"], manifest["classes"]
        if self.inputs.dtype != dtype or self.targets.dtype != ("int64" if classes else "float32"):
            raise CannotStart(f"{data_dir}: the arrays of {split} are not of the types in manifest.json")
        if not 0 < len(self.inputs) == len(self.targets):
            raise CannotStart(
                f"{data_dir}: {split} has {len(self.inputs)} rows of inputs, {len(self.targets)} targets"
            )
        if classes and not 0 <= self.targets.min() <= self.targets.max() < len(classes):
            raise CannotStart(f"{data_dir}: {split} has targets outside the {len(classes)} classes")

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """The inputs (B, …) and targets (B,) of some rows."""
        return torch.from_numpy(np.array(self.inputs[rows])), torch.from_numpy(np.array(self.targets[rows]))


class RowSampler:
    """Training rows in random order; the number of rows consumed so far is its whole state.

    An epoch visits every row exactly once, in an order drawn from the seed and its number; a batch
    may reach from one epoch into the next.
    """

    def __init__(self, num_rows: int, *, seed: int) -> None:
        self._num_rows = num_rows
        self._seed = seed
        self._epoch: int | None = None

    def rows(self, cursor: int, count: int) -> NDArray[np.int64]:
        """The indices of the ``count`` rows after the first ``cursor``."""
        return np.array([self._row(index) for index in range(cursor, cursor + count)])

    def _row(self, index: int) -> int:
        epoch, position = divmod(index, self._num_rows)
        if epoch != self._epoch:
            random = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            self._order = random.permutation(self._num_rows)
            self._epoch = epoch
        return int(self._order[position])


def load_array(path: Path) -> NDArray[Any]:
    """A mapped .npy file; nothing is ever unpickled."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path}: {error}") from error
    return array


# --- model and optimizer -------------------------------------------------------------------------


def build_model(manifest: dict[str, Any]) -> nn.Module:
    """The model of model.py with the sizes of config.json, fresh weights and the scaling of the data.

    Raises:
        CannotStart: the files do not fit each other.
    """
    config = read_json(HERE / "config.json", "_model_class")
    module = importlib.import_module("model")
    name = config["_model_class"]
    try:
        model_class, config_class = getattr(module, name), getattr(module, f"{name}Config")
        known = {field.name for field in dataclasses.fields(config_class)}
        model: nn.Module = model_class(config_class(**{k: v for k, v in config.items() if k in known}))
    except (AttributeError, TypeError) as error:
        raise CannotStart(f"config.json does not fit model.py: {error!r}") from error
    set_scaling: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = getattr(model, "set_scaling", None)
    if set_scaling is not None:
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
        """The mean loss of outputs (B, C) or (B,), (B, 1) for targets (B,)."""
        if self.metric == "accuracy":
            return functional.cross_entropy(outputs.float(), targets, label_smoothing=self._label_smoothing)
        return functional.mse_loss(outputs.reshape(-1) / self._target_std, targets / self._target_std)

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per row (B,): 1 where the class is wrong, or the squared error in the target's own unit."""
        if self.metric == "accuracy":
            return (outputs.argmax(-1) != targets).double()
        return (outputs.reshape(-1) - targets).double().square()

    def score(self, mean_error: float) -> float:
        """The metric that belongs to a mean of ``errors``."""
        return 1.0 - mean_error if self.metric == "accuracy" else math.sqrt(mean_error)


def evaluate(model: nn.Module, rows: Rows, objective: Objective) -> tuple[float, float]:
    """The loss and the metric over all rows of a split. The model is in training mode afterwards."""
    device = next(model.parameters()).device
    loss = error = 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), EVAL_BATCH):
            inputs, targets = (t.to(device) for t in rows.batch(slice(start, start + EVAL_BATCH)))
            outputs = model(inputs)
            loss += float(objective.loss(outputs, targets)) * len(targets)
            error += float(objective.errors(outputs, targets).sum())
    model.train()
    return loss / len(rows), objective.score(error / len(rows))


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
        self.checkpoints = Checkpoints(HERE / "ckpts", fingerprint=fingerprint(config))
        self.stop = StopRequest()
        self.state = State()
        self.best: dict[str, Any] | None = None
        self.evaluated: dict[str, Any] = {}  # what the latest evaluation found
        self.elapsed_before_s = 0.0
        self.closing_s = CLOSING_S  # what a stop takes, from how long things took so far

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end or a stop.

        Raises:
            CannotStart: the files do not fit each other.
            TrainingFailed: after the checkpoint that says so.
        """
        last = self.checkpoints.last()
        if last and last["status"] == "done":
            print(f"done already: {last['step']} steps, {last['rows']} rows")
            return
        torch.set_num_threads(self.config.num_threads)
        torch.manual_seed(self.config.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.use_deterministic_algorithms(device.type == "cpu")
        manifest = read_json(
            self.config.data / "manifest.json",
            "task",
            "inputs",
            "classes",
            "splits",
            "scaling",
            "target_scaling",
        )
        if manifest["task"] != self.config.task:
            raise CannotStart(f"the data are for {manifest['task']}, the training for {self.config.task}")
        self.train_rows, self.val_rows = (Rows(self.config.data, manifest, name) for name in ("train", "val"))
        self.sampler = RowSampler(len(self.train_rows), seed=self.config.seed)
        self.objective = Objective(self.config, manifest)
        self.model = build_model(manifest).to(device).train()
        self.optimizer = new_optimizer(self.model, self.config)
        if last:
            self.state = self.checkpoints.load(last, self.model, self.optimizer)
            self.best, self.evaluated, self.elapsed_before_s = (
                last["best"],
                last["evaluated"],
                last["elapsed_s"],
            )
            print(f"resumed at step={self.state.step}", flush=True)
        self.checkpoints.tidy(last)
        self.logs = Logs(HERE, last_step=self.state.step if last else None)
        try:
            while self.state.step < self.config.steps:
                self.check_stop()
                self.train_step()
                step = self.state.step
                is_due = step % self.config.eval_every == 0 or step == self.config.steps
                if is_due:
                    self.evaluate()
                if is_due or step % self.config.checkpoint_every == 0:
                    self.commit("running")
            self.commit("done")
        except Interrupted as stop:
            if self.state.step > 0 and (self.best is None or self.evaluated["step"] != self.state.step):
                self.evaluate()
            self.commit("stopped", str(stop))
        except TrainingFailed as failure:
            self.commit("failed", str(failure))
            raise

    def train_step(self) -> None:
        """One update, with as many batches as it takes to have one that is finite."""
        step = self.state.step + 1
        while self.state.step < step:
            rows = self.sampler.rows(self.state.cursor, self.config.batch_size)
            learning_rate = learning_rate_at(self.state.step, self.config) * self.state.learning_rate_scale
            buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
            loss, grad_norm = self.backward(*self.train_rows.batch(rows))
            self.state.cursor += self.config.batch_size
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                for buffer, before in buffers:
                    buffer.copy_(before)
                self.skip_update(step)
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
        device = next(self.model.parameters()).device
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.objective.loss(self.model(inputs.to(device)), targets.to(device))
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
        """Measure loss and metric on val, and remember the step when its loss is the lowest."""
        started = time.monotonic()
        loss, score = evaluate(self.model, self.val_rows, self.objective)
        step, metric = self.state.step, self.objective.metric
        self.logs.line("eval.log", f"step={step} eval_loss={loss:.4f} {metric}={score:.4f}")
        found = {"step": step, "eval_loss": loss, "eval_rows": len(self.val_rows), metric: score}
        self.logs.metrics(**found)
        self.evaluated = found
        if self.best is None or loss < self.best["eval_loss"]:
            self.best = found | {"dir": directory_name(step), "rows": self.state.cursor}
        self.closing_s = max(self.closing_s, CLOSING_S + time.monotonic() - started)

    def commit(self, status: str, reason: str | None = None) -> None:
        """Make this step the one from which a new start goes on."""
        started = time.monotonic()
        self.logs.sync()
        self.checkpoints.save(self.state, self.model, self.optimizer)
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
        }
        self.checkpoints.point(last)
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


# --- files ---------------------------------------------------------------------------------------


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


class Checkpoints:
    """The directory ckpts/. last.json is the truth, best.json a copy of what it says of the best."""

    def __init__(self, directory: Path, *, fingerprint: str) -> None:
        self._directory = directory
        self._fingerprint = fingerprint

    def last(self) -> dict[str, Any] | None:
        """Where training stands, or None when it has not begun.

        Raises:
            CannotStart: last.json is damaged, or of a training with other files.
        """
        path = self._directory / "last.json"
        if not path.exists():
            return None
        last = read_json(
            path, "step", "dir", "status", "rows", "elapsed_s", "evaluated", "best", "fingerprint"
        )
        if last["fingerprint"] != self._fingerprint:
            raise CannotStart(
                f"{path}: this checkpoint was trained with another model.py, config.json, train.py,"
                " train_config.json or manifest.json; bring them back, or remove ckpts/ to start over"
            )
        return last

    def tidy(self, last: dict[str, Any] | None) -> None:
        """Take away what a killed process left behind, and everything when training has not begun."""
        self._directory.mkdir(exist_ok=True)
        self._keep(last or {"dir": None, "best": None})

    def load(self, last: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Bring model, optimizer and random numbers to the last checkpoint.

        Raises:
            CannotStart: it is missing or damaged.
        """
        directory = self._directory / last["dir"]
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

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the directory of this step; it appears whole or not at all."""
        target = self._directory / directory_name(state.step)
        if target.exists():  # of this very step of this very training, see tidy
            return
        aside = self._directory / f".{target.name}"
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
        saved = asdict(state) | {
            "rng": {device: bytes(value.tolist()).hex() for device, value in rng.items()}
        }
        (aside / "state.json").write_text(json.dumps(saved), encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            sync(path)
        aside.rename(target)
        sync(self._directory)

    def point(self, last: dict[str, Any]) -> None:
        """Let the pointers name saved directories, and remove the directories that none names."""
        replace_json(self._directory / "last.json", last | {"fingerprint": self._fingerprint})
        self._keep(last)

    def _keep(self, last: dict[str, Any]) -> None:
        if last["best"]:
            replace_json(self._directory / "best.json", last["best"])
        else:
            (self._directory / "best.json").unlink(missing_ok=True)
        named = {last["dir"], last["best"] and last["best"]["dir"]}
        for pattern in ("step-*", ".step-*"):
            for directory in self._directory.glob(pattern):
                if directory.name not in named:
                    shutil.rmtree(directory)


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied weights once, under the name that the model registered first."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


class Logs:
    """train.log, eval.log (one line per row) and metrics.jsonl.

    Args:
        last_step: Rows after this step are removed, as they will be written again; None removes all.
    """

    def __init__(self, directory: Path, *, last_step: int | None) -> None:
        self._files: dict[str, TextIO] = {}
        for name in ("train.log", "eval.log", "metrics.jsonl"):
            path = directory / name
            cut_back(path, last_step=last_step)
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


def cut_back(path: Path, *, last_step: int | None) -> None:
    """Keep the complete rows of a log up to ``last_step``; each begins with its step."""
    kept = []
    if path.exists() and last_step is not None:
        for row in path.read_text(encoding="utf-8").splitlines(keepends=True):
            step = re.match(r'(?:step=|\{"step": )(\d+)\b', row)
            if step and int(step[1]) <= last_step and row.endswith("\n"):
                kept.append(row)
    replace_text(path, "".join(kept))


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object that has the required keys. Raises CannotStart when it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CannotStart(f"{path}: not a JSON object")
    missing = [key for key in required if key not in value]
    if missing:
        raise CannotStart(f"{path}: lacks {', '.join(missing)}")
    return value


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part."""
    replace_text(path, json.dumps(value, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write aside, sync, rename."""
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
