"""Train the model of this directory: `python train.py`, again and again until it is done.

Reads   model.py config.json train_config.json, ../data (manifest.json, tokenizer/, shards)
Writes  train.log, eval.log, gen_samples.log, metrics.jsonl, and ckpts/:
          last.json           where training stands: step, dir, status (running, done, stopped, failed), …
          best.json           the checkpoint with the lowest eval loss
          step-00000100/      model.safetensors, optimizer.safetensors, state.json

It may be killed at any instant. Started again it goes on from the last checkpoint, on a CPU bit for
bit as if nothing had happened: a checkpoint is a directory that appears whole by a rename, last.json
is replaced after it, and the logs are cut back to it.

Stops with a checkpoint on SIGTERM, on SIGINT, when the process that started it is gone, and when
`time_limit_s` is spent (over all its starts together). A loss or gradient that is not finite skips
the update and halves the learning rate; when memory runs out the micro-batch halves and accumulation
doubles.

Exit codes: 0 done or stopped, as last.json says; 2 cannot start; 3 failed.

`python train.py --calibrate speed.json` measures the speed of training instead; see `calibrate`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from eval import (
    BATCH_WINDOWS,
    EVAL_TOKENS,
    HERE,
    PROMPTS,
    CannotStart,
    Tokens,
    Writer,
    build_model,
    evaluate,
    leading_batches,
    load_weights,
    logits_of,
    read_json,
    unique_state,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

MAX_NOT_FINITE = 5  # in a row
SAMPLE_S = 0.5  # for the sample after an evaluation, or a 500th of the training time if that is more
SAMPLES_S = 5.0  # for the samples at the end, or a fiftieth of the training time if that is more
TERMINATED = "terminated"
TIME_LIMIT = "time limit"


class Interrupted(Exception):
    """Training is to stop now; the message is the reason."""


class TrainingFailed(Exception):
    """Training cannot go on; the message is the reason."""


def main() -> int:
    """Train or calibrate. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Train the model of this directory.")
    parser.add_argument("--calibrate", type=Path, metavar="OUT.json", help="measure the speed, train nothing")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the whole calibration")
    parser.add_argument("--micro-batches", default="4,8,16", help="sequences per forward pass")
    parser.add_argument("--precisions", default="fp32,bf16")
    arguments = parser.parse_args()
    try:
        config = TrainConfig.read(HERE / "train_config.json")
        if arguments.calibrate:
            calibrate(
                config,
                out=arguments.calibrate,
                seconds=arguments.seconds,
                micro_batches=[int(size) for size in arguments.micro_batches.split(",")],
                precisions=arguments.precisions.split(","),
            )
        else:
            Trainer(config).run()
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
    seq_len: int
    steps: int
    micro_batch: int  # sequences per forward pass
    accumulation: int  # forward passes per step
    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    schedule: str  # cosine, linear, constant
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    precision: str  # fp32, bf16: of the forward and backward pass; weights and optimizer stay fp32
    compile: bool
    num_threads: int
    eval_every: int  # steps
    checkpoint_every: int  # steps
    seed: int
    time_limit_s: float | None  # over all starts together; null: none

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Raises CannotStart when the file is not as described here."""
        names = [field.name for field in fields(cls)]
        values = read_json(path, *names)
        unknown = values.keys() - set(names)
        if unknown:
            raise CannotStart(f"{path}: unknown {', '.join(sorted(unknown))}")
        config = cls(**values)
        counts = [f.name for f in fields(cls) if f.type == "int" and f.name not in {"warmup_steps", "seed"}]
        for name in counts:
            if not (isinstance(values[name], int) and values[name] > 0):
                raise CannotStart(f"{path}: {name}: must be a whole number above 0, not {values[name]!r}")
        if config.schedule not in ("cosine", "linear", "constant"):
            raise CannotStart(f"{path}: schedule: must be cosine, linear or constant, not {config.schedule}")
        if config.precision not in ("fp32", "bf16"):
            raise CannotStart(f"{path}: precision: must be fp32 or bf16, not {config.precision}")
        return config

    @property
    def data(self) -> Path:
        """The directory of manifest.json, the shards and the tokenizer."""
        return (HERE / self.data_dir).resolve()

    @property
    def windows_per_step(self) -> int:
        """The effective batch, in sequences."""
        return self.micro_batch * self.accumulation

    @property
    def eval_tokens(self) -> int:
        """Tokens of one evaluation: at most a tenth of what is trained on between two, so it costs little."""
        return min(EVAL_TOKENS, self.eval_every * self.windows_per_step * self.seq_len // 10)


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


class WindowSampler:
    """Training windows in random order; the number of windows consumed so far is its whole state.

    An epoch cuts the tokens into windows of T + 1 that share only their border token, from an offset
    of its own, and visits each exactly once in an order of its own.
    """

    def __init__(self, tokens: Tokens, *, seq_len: int, seed: int) -> None:
        self._tokens = tokens
        self._seq_len = seq_len
        self._seed = seed
        self.windows_per_epoch = max(0, len(tokens) // seq_len - 1)  # fits from every offset below T
        self._epoch: int | None = None

    def windows(self, cursor: int, count: int) -> Tensor:
        """The ``count`` windows after the first ``cursor``: (count, T + 1) int64."""
        starts = [self._start(index) for index in range(cursor, cursor + count)]
        return torch.from_numpy(np.stack([self._tokens.window(start, self._seq_len + 1) for start in starts]))

    def _start(self, index: int) -> int:
        epoch, position = divmod(index, self.windows_per_epoch)
        if epoch != self._epoch:
            random = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            self._offset = int(random.integers(self._seq_len))
            self._order = random.permutation(self.windows_per_epoch)
            self._epoch = epoch
        return self._offset + int(self._order[position]) * self._seq_len


# --- one optimizer step --------------------------------------------------------------------------


def new_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and embeddings only, not on norms and biases."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True
    )


def training_loss(model: nn.Module, input_ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What is minimised, and the cross-entropy in it (nats per token), for ids (B, T) and targets (B, T).

    A model with a ``loss`` method gives both; for any other they are the same.
    """
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = getattr(model, "loss", None)
    if loss is not None:
        return loss(input_ids, targets)
    logits = logits_of(model(input_ids)).flatten(0, 1)
    cross_entropy = functional.cross_entropy(logits.float(), targets.flatten())
    return cross_entropy, cross_entropy


class Stepper:
    """Forward, backward and update on one effective batch."""

    def __init__(self, model: nn.Module, config: TrainConfig, accelerator: Accelerator) -> None:
        self.model = model
        self.optimizer = new_optimizer(model, config)
        self._grad_clip = config.grad_clip
        self._accelerator = accelerator
        self._after_step: Callable[[], None] = getattr(model, "after_optimizer_step", lambda: None)
        self._loss = torch.compile(training_loss) if config.compile else training_loss

    def step(
        self,
        windows: Tensor,
        *,
        micro_batch: int,
        precision: str,
        learning_rate: float,
        before_forward: Callable[[], None] = lambda: None,
    ) -> tuple[float, float]:
        """One step on windows (N, T + 1). Returns the mean cross-entropy and the gradient's norm.

        Nothing is updated when either of the two is not finite. Whatever ends the step early, that or
        an exception, the model is left as it was before.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        updated = False
        try:
            loss, grad_norm = self._accumulate(windows, micro_batch, precision, before_forward)
            if math.isfinite(loss) and math.isfinite(grad_norm):
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate
                self.optimizer.step()
                self._after_step()
                updated = True
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            if not updated:
                for buffer, before in buffers:
                    buffer.copy_(before)
        return loss, grad_norm

    def _accumulate(
        self, windows: Tensor, micro_batch: int, precision: str, before_forward: Callable[[], None]
    ) -> tuple[float, float]:
        """Leave the clipped mean gradient over all windows in the parameters."""
        micro_batches = torch.split(windows.to(self._accelerator.device), micro_batch)
        losses = []
        for micro in micro_batches:
            before_forward()
            with self._accelerator.autocast() if precision == "bf16" else nullcontext():
                total, cross_entropy = self._loss(self.model, micro[:, :-1], micro[:, 1:])
            self._accelerator.backward(total / len(micro_batches))
            losses.append(cross_entropy.detach())
        grad_norm = self._accelerator.clip_grad_norm_(self.model.parameters(), self._grad_clip)
        loss, norm = torch.stack([torch.stack(losses).mean(), grad_norm]).tolist()  # the one synchronisation
        return loss, norm


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; the CPU allocator says so in a bare RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


# --- training ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class State:
    """What a checkpoint holds beside the tensors. The cursor counts the windows consumed."""

    step: int = 0
    cursor: int = 0
    micro_batch: int
    accumulation: int
    learning_rate_scale: float = 1.0
    skipped: int = 0  # updates that were not finite; their windows are consumed
    skipped_in_a_row: int = 0


class Trainer:
    """Everything between two checkpoints."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.checkpoints = Checkpoints(HERE / "ckpts", fingerprint=fingerprint(config))
        self.stop = StopRequest()
        self.state = State(micro_batch=config.micro_batch, accumulation=config.accumulation)
        self.best: dict[str, Any] | None = None
        self.evaluated_step = 0
        self.elapsed_before_s = 0.0
        self.evaluation_s = self.checkpoint_s = 0.0  # how long the latest took

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end or a stop.

        Raises:
            CannotStart: the files do not fit each other.
            TrainingFailed: after the checkpoint that says so.
        """
        last = self.checkpoints.last()
        if last and last["status"] == "done":
            self.checkpoints.tidy(last)
            print(f"done already: {last['step']} steps, {last['tokens']} tokens")
            return
        accelerator = set_up(self.config, precisions=[self.config.precision])
        self.open_data()
        self.stepper = Stepper(build_model().to(accelerator.device), self.config, accelerator)
        self.model = self.stepper.model.train()
        if last:
            self.resume(last)
        self.checkpoints.tidy(last)
        self.logs = Logs(HERE, last_step=self.state.step if last else None)
        try:
            self.evaluate_if_due()  # an evaluation that a stop cut short
            while self.state.step < self.config.steps:
                self.train_step()
                evaluated = self.evaluate_if_due()
                if evaluated or self.state.step % self.config.checkpoint_every == 0:
                    self.commit("running")
            self.write_samples()
            self.commit("done")
        except Interrupted as stop:
            self.stop_early(str(stop))
        except TrainingFailed as failure:
            self.commit("failed", str(failure))
            raise

    def open_data(self) -> None:
        """Map the shards. Raises CannotStart when they are too few or of another vocabulary."""
        data_dir = self.config.data
        manifest = read_json(data_dir / "manifest.json", "dtype", "splits", "tokenizer")
        vocab_size = read_json(HERE / "config.json").get("vocab_size", math.inf)
        if manifest["tokenizer"]["vocab_size"] > vocab_size:
            raise CannotStart(
                f"the tokenizer has {manifest['tokenizer']['vocab_size']} tokens, the model only {vocab_size}"
            )
        tokens = Tokens(data_dir, manifest, split="train")
        self.sampler = WindowSampler(tokens, seq_len=self.config.seq_len, seed=self.config.seed)
        if self.sampler.windows_per_epoch < self.config.windows_per_step:
            raise CannotStart(
                f"too little data: {len(tokens)} training tokens, {self.sampler.windows_per_epoch} windows of"
                f" {self.config.seq_len}; one step takes {self.config.windows_per_step}"
            )
        self.val_tokens = Tokens(data_dir, manifest, split="val")
        self.val_batches(max_tokens=1)  # raises when there is nothing to evaluate on
        self.writer = Writer(data_dir, manifest, seq_len=self.config.seq_len)

    def val_batches(self, *, max_tokens: int) -> Iterator[Tensor]:
        """The leading windows of val, in batches no larger than training has memory for."""
        return leading_batches(
            self.val_tokens,
            seq_len=self.config.seq_len,
            max_tokens=max_tokens,
            batch_windows=min(BATCH_WINDOWS, self.state.micro_batch),
        )

    def resume(self, last: dict[str, Any]) -> None:
        """Take everything from the last checkpoint."""
        self.state = self.checkpoints.load(last, self.model, self.stepper.optimizer)
        self.best = last["best"]
        self.evaluated_step = last["evaluated_step"]
        self.elapsed_before_s = last["elapsed_s"]
        print(f"resumed at step={self.state.step}", flush=True)

    # --- steps

    def train_step(self) -> None:
        """Bring the model one update further, with as many windows as that takes."""
        step = self.state.step + 1
        while self.state.step < step:
            started = time.monotonic()
            loss, grad_norm, learning_rate = self.attempt_step()
            self.state.cursor += self.config.windows_per_step
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self.skip_update(step)
                continue
            self.state.skipped_in_a_row = 0
            self.state.step = step
            step_tokens = self.config.windows_per_step * self.config.seq_len
            self.logs.line("train.log", f"step={step} loss={loss:.4f}")
            self.logs.metrics(
                step=step,
                loss=loss,
                lr=learning_rate,
                tokens=self.tokens,
                tokens_per_s=round(step_tokens / (time.monotonic() - started), 1),
                grad_norm=grad_norm,
                elapsed_s=round(self.elapsed_s, 3),
            )

    def attempt_step(self) -> tuple[float, float, float]:
        """Loss, gradient norm and learning rate; with smaller micro-batches when memory runs out."""
        windows = self.sampler.windows(self.state.cursor, self.config.windows_per_step)
        learning_rate = learning_rate_at(self.state.step, self.config) * self.state.learning_rate_scale
        while True:
            try:
                loss, grad_norm = self.stepper.step(
                    windows,
                    micro_batch=self.state.micro_batch,
                    precision=self.config.precision,
                    learning_rate=learning_rate,
                    before_forward=self.check_stop,
                )
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return loss, grad_norm, learning_rate
            self.shrink_micro_batch()  # here, where the exception no longer holds the activations

    def skip_update(self, step: int) -> None:
        """The rule for a loss or gradient that is not finite."""
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self.state.learning_rate_scale /= 2
        scale = self.state.learning_rate_scale
        self.logs.event(step, f"not finite: update skipped, learning rate scaled by {scale}")
        if self.state.skipped_in_a_row == MAX_NOT_FINITE:
            raise TrainingFailed(f"not finite at step {step}")

    def shrink_micro_batch(self) -> None:
        """The rule for memory that ran out: half the micro-batch (or less, to divide the batch evenly)."""
        if self.state.micro_batch == 1:
            raise TrainingFailed("out of memory")
        half = self.state.micro_batch // 2
        windows = self.config.windows_per_step
        self.state.micro_batch = max(size for size in range(1, half + 1) if windows % size == 0)
        self.state.accumulation = windows // self.state.micro_batch
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.logs.event(
            self.state.step + 1,
            f"out of memory: micro-batch {self.state.micro_batch}, accumulation {self.state.accumulation}",
        )

    # --- evaluations, checkpoints, stops

    def evaluate_if_due(self, *, at_stop: bool = False) -> bool:
        """Evaluate the step unless that is done. Due every ``eval_every`` steps, at the end, at a stop."""
        step = self.state.step
        due = at_stop or step % self.config.eval_every == 0 or step == self.config.steps
        if step == self.evaluated_step or not due:
            return False
        started = time.monotonic()
        batches = self.val_batches(max_tokens=self.config.eval_tokens)
        self.evaluate(self.interruptible(batches))
        self.evaluated_step = step
        self.evaluation_s = time.monotonic() - started
        if not at_stop:
            self.write_sample(PROMPTS[0], step=step, seconds=max(SAMPLE_S, self.elapsed_s / 500))
        return True

    def evaluate(self, batches: Iterator[Tensor]) -> None:
        """Measure the loss and remember the step when it is the best one.

        Losses over different numbers of tokens are not compared: the newer one wins.
        """
        loss, count = evaluate(self.model, batches)
        step = self.state.step
        self.logs.line("eval.log", f"step={step} eval_loss={loss:.4f}")
        self.logs.metrics(step=step, eval_loss=loss, eval_tokens=count)
        if not self.best or count != self.best["eval_tokens"] or loss < self.best["eval_loss"]:
            self.best = {"step": step, "dir": directory_name(step), "eval_loss": loss, "eval_tokens": count}

    def interruptible(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same batches; raises Interrupted between two of them when termination is asked for."""
        for batch in batches:
            self.check_terminated()
            yield batch

    def commit(self, status: str, reason: str | None = None) -> None:
        """Make this step the one from which a new start goes on."""
        started = time.monotonic()
        self.logs.sync()
        self.checkpoints.save(self.state, self.model, self.stepper.optimizer)
        self.checkpoints.point(
            best=self.best,
            last={
                "step": self.state.step,
                "dir": directory_name(self.state.step),
                "status": status,
                "reason": reason,
                "tokens": self.tokens,
                "skipped": self.state.skipped,
                "elapsed_s": round(self.elapsed_s, 3),
                "evaluated_step": self.evaluated_step,
                "best": self.best,
            },
        )
        self.checkpoint_s = time.monotonic() - started

    def stop_early(self, reason: str) -> None:
        """Checkpoint first, then what there is time for."""
        self.commit("running")
        if reason == TIME_LIMIT:
            with suppress(Interrupted):
                self.evaluate_if_due(at_stop=True)
                self.write_samples()
        if self.best is None and self.state.step > 0:
            self.evaluate(self.val_batches(max_tokens=1))  # best.json must name a checkpoint, at little cost
        self.commit("stopped", reason)

    def write_samples(self) -> None:
        """Let the best checkpoint continue the prompts. The model has its weights afterwards."""
        if self.best and self.best["step"] != self.state.step:
            load_weights(self.model, HERE / "ckpts" / self.best["dir"] / "model.safetensors")
        step = self.best["step"] if self.best else self.state.step
        seconds = max(SAMPLES_S, self.elapsed_s / 50) / len(PROMPTS)
        for prompt in PROMPTS:
            self.write_sample(prompt, step=step, seconds=seconds)

    def write_sample(self, prompt: str, *, step: int, seconds: float) -> None:
        """Let the model, which has the weights of that step, continue a prompt for so long at most."""
        started = time.monotonic()

        def is_over() -> bool:
            return self.stop.requested or time.monotonic() - started > seconds

        text = self.writer.write(self.model, prompt, seed=self.config.seed, is_over=is_over)
        self.logs.line("gen_samples.log", json.dumps({"step": step, "prompt": prompt, "output": text}))

    def check_terminated(self) -> None:
        """Raises Interrupted when somebody asked for a stop."""
        if self.stop.requested:
            raise Interrupted(TERMINATED)

    def check_stop(self) -> None:
        """Raises Interrupted also when the time is spent, but for what a stop itself takes."""
        self.check_terminated()
        limit_s = self.config.time_limit_s
        if limit_s is None:
            return
        closing_s = self.evaluation_s + 2 * self.checkpoint_s + max(SAMPLES_S, limit_s / 50)
        if self.elapsed_s + closing_s >= limit_s:
            raise Interrupted(TIME_LIMIT)

    @property
    def tokens(self) -> int:
        """Training tokens consumed, from the data cursor."""
        return self.state.cursor * self.config.seq_len

    @property
    def elapsed_s(self) -> float:
        """Seconds of all starts together."""
        return self.elapsed_before_s + process_age_s()


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
        keys = ("step", "dir", "status", "tokens", "elapsed_s", "evaluated_step", "best", "fingerprint")
        last = read_json(path, *keys)
        if last["fingerprint"] != self._fingerprint:
            raise CannotStart(
                f"{path}: this checkpoint was trained with another model.py, config.json, train.py,"
                " train_config.json or manifest.json; bring them back, or remove ckpts/ to start over"
            )
        return last

    def tidy(self, last: dict[str, Any] | None) -> None:
        """Take away what a killed process left behind, and everything when training has not begun."""
        self._directory.mkdir(exist_ok=True)
        best = last["best"] if last else None
        if best:
            replace_json(self._directory / "best.json", best)
        else:
            (self._directory / "best.json").unlink(missing_ok=True)
        self._prune(last, best)

    def load(self, last: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Bring model, optimizer and random numbers to the last checkpoint.

        Raises:
            CannotStart: it is missing or damaged.
        """
        directory = self._directory / last["dir"]
        names = [field.name for field in fields(State)]
        saved = read_json(directory / "state.json", "rng", *names)
        load_weights(model, directory / "model.safetensors")
        parameters = dict(model.named_parameters())
        try:
            for key, tensor in load_file(directory / "optimizer.safetensors").items():
                name, _, kind = key.rpartition(".")
                # A copy, since tensors mapped from a file are not aligned as fast kernels want them.
                optimizer.state[parameters[name]][kind] = tensor.clone().to(parameters[name].device)
        except (OSError, SafetensorError, KeyError) as error:
            raise CannotStart(f"{directory / 'optimizer.safetensors'}: {error}") from error
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
        write_tensors(aside, model, optimizer)
        rng = {"cpu": torch.get_rng_state()} | (
            {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
        )
        saved = asdict(state) | {
            "rng": {device: bytes(value.tolist()).hex() for device, value in rng.items()}
        }
        (aside / "state.json").write_text(json.dumps(saved), encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            sync(path)
        aside.rename(target)
        sync(self._directory)

    def point(self, *, last: dict[str, Any], best: dict[str, Any] | None) -> None:
        """Let the pointers name saved directories, and remove the directories that none names."""
        if best:
            replace_json(self._directory / "best.json", best)
        replace_json(self._directory / "last.json", last | {"fingerprint": self._fingerprint})
        self._prune(last, best)

    def _prune(self, *pointers: dict[str, Any] | None) -> None:
        named = {pointer["dir"] for pointer in pointers if pointer}
        for pattern in ("step-*", ".step-*"):
            for directory in self._directory.glob(pattern):
                if directory.name not in named:
                    shutil.rmtree(directory)


def write_tensors(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """model.safetensors by parameter name, optimizer.safetensors by parameter name and moment."""
    save_file({k: v.contiguous() for k, v in unique_state(model).items()}, directory / "model.safetensors")
    moments = {
        f"{name}.{kind}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, directory / "optimizer.safetensors")


class Logs:
    """train.log, eval.log, gen_samples.log (one line per row) and metrics.jsonl.

    Args:
        last_step: Rows after this step are removed, as they will be written again; None removes all.
    """

    def __init__(self, directory: Path, *, last_step: int | None) -> None:
        self._files: dict[str, TextIO] = {}
        for name in ("train.log", "eval.log", "gen_samples.log", "metrics.jsonl"):
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

    def event(self, step: int, text: str) -> None:
        """Tell of something that should not happen, on stderr and in metrics.jsonl."""
        note(f"step {step}: {text}")
        self.metrics(step=step, event=text)

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
    aside = path.with_name(f".{path.name}")
    aside.write_text("".join(kept), encoding="utf-8")
    sync(aside)
    aside.replace(path)


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
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


# --- machine -------------------------------------------------------------------------------------


def set_up(config: TrainConfig, *, precisions: list[str]) -> Accelerator:
    """Threads, seeds and reproducible arithmetic; the device and its mixed precision."""
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    accelerator = Accelerator(mixed_precision="bf16" if "bf16" in precisions else "no")
    if accelerator.device.type == "cpu":
        # Some backward kernels add in the order in which threads arrive, unless told not to.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        torch.set_float32_matmul_precision("high")
    return accelerator


def process_age_s() -> float:
    """Seconds since this process started, imports included."""
    started: float = psutil.Process().create_time()
    return time.time() - started


# --- calibration ---------------------------------------------------------------------------------


def calibrate(
    config: TrainConfig, *, out: Path, seconds: float, micro_batches: list[int], precisions: list[str]
) -> None:
    """Measure what a planner needs to know of this machine; nothing is written but ``out``.

    Every micro-batch size in every precision is timed over whole optimizer steps of one micro-batch,
    after one step of warm-up, within ``seconds`` for all: a combination that no longer fits, or not
    into memory, is left out, but for the first. Tokens are those of the data, or random when there
    is no data yet. Keys of ``out``: ``results`` (tokens_per_s, step_s, peak_memory_gib per
    combination), ``eval_tokens_per_s``, ``checkpoint_s``, ``startup_s``.
    """
    accelerator = set_up(config, precisions=precisions)
    stepper = Stepper(build_model().to(accelerator.device), config, accelerator)
    next_windows = window_source(config)
    startup_s = process_age_s()
    deadline = time.monotonic() + seconds
    combinations = [(size, precision) for size in sorted(micro_batches) for precision in precisions]
    results: list[dict[str, Any]] = []
    for index, (size, precision) in enumerate(combinations):
        left_s = deadline - time.monotonic()
        if results and 2 * results[-1]["step_s"] * size / results[-1]["micro_batch"] > left_s:
            continue
        share_s = left_s / (len(combinations) - index)
        try:
            step_s = time_steps(stepper, next_windows, size=size, precision=precision, seconds=share_s)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            continue
        results.append(
            {
                "micro_batch": size,
                "precision": precision,
                "tokens_per_s": round(size * config.seq_len / step_s, 1),
                "step_s": step_s,
                "peak_memory_gib": round(peak_memory_gib(), 3),
            }
        )
    if not results:
        raise TrainingFailed("out of memory")

    batch = next_windows(min(BATCH_WINDOWS, results[-1]["micro_batch"]))
    evaluate(stepper.model, iter([batch]))  # a warm-up
    started = time.monotonic()
    _, eval_tokens = evaluate(stepper.model, iter([batch]))
    eval_s = time.monotonic() - started
    with tempfile.TemporaryDirectory(dir=out.parent) as directory:  # the disk that checkpoints go to
        started = time.monotonic()
        write_tensors(Path(directory), stepper.model, stepper.optimizer)
        for path in Path(directory).iterdir():
            sync(path)
        checkpoint_s = time.monotonic() - started
    measured = {
        "results": results,
        "eval_tokens_per_s": round(eval_tokens / eval_s, 1),
        "checkpoint_s": checkpoint_s,
        "startup_s": startup_s,
    }
    replace_json(out, measured)
    print(json.dumps(measured, indent=2))


def window_source(config: TrainConfig) -> Callable[[int], Tensor]:
    """A function that gives so many windows (N, T + 1): of the training data, or random without it."""
    data_dir = config.data
    if (data_dir / "manifest.json").exists():
        tokens = Tokens(data_dir, read_json(data_dir / "manifest.json"), split="train")
        sampler = WindowSampler(tokens, seq_len=config.seq_len, seed=config.seed)
        if sampler.windows_per_epoch:
            return lambda count: sampler.windows(0, count)
    vocab_size: int = read_json(HERE / "config.json", "vocab_size")["vocab_size"]
    return lambda count: torch.randint(vocab_size, (count, config.seq_len + 1))


def time_steps(
    stepper: Stepper, next_windows: Callable[[int], Tensor], *, size: int, precision: str, seconds: float
) -> float:
    """The median seconds of a step on one micro-batch; at least one after the warm-up is timed."""
    deadline = time.monotonic() + seconds
    durations: list[float] = []
    while len(durations) < 2 or time.monotonic() + durations[-1] < deadline:
        started = time.monotonic()
        stepper.step(next_windows(size), micro_batch=size, precision=precision, learning_rate=1e-4)
        durations.append(time.monotonic() - started)
    return statistics.median(durations[1:])


def peak_memory_gib() -> float:
    """The most memory used so far: of the accelerator when there is one, of the process otherwise."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # ru_maxrss is in KiB on Linux


if __name__ == "__main__":
    sys.exit(main())
