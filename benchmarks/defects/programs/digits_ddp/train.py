"""Train the classifier of this directory in two processes: `python train.py`, again until it is done.

Reads   model.py config.json train_config.json, ../data (manifest.json; the arrays of train and val)
Writes  train.log, eval.log, metrics.jsonl, and ckpts/: last.json, best.json,
        step-00000100/{model.safetensors, optimizer.safetensors, state.json}

Each step draws one batch in an order that (seed, epoch) fixes; process r takes every second row of it,
from the r-th on, and DistributedDataParallel averages the gradients (gloo, on this machine). Evaluation is
shared out the same way. Process 0 writes all files. Started again it goes on from the last checkpoint, bit
for bit: nothing is random but the order.

Exit codes: 0 done or stopped by a signal, as last.json says; 2 cannot start; 1 anything else.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing import ProcessRaisedException, start_processes
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
CKPTS = HERE / "ckpts"
WORLD_SIZE = 2


def main() -> int:
    """Start the processes and wait for them. Returns the exit code."""
    try:
        config = read_json(HERE / "train_config.json")
        manifest = read_json((HERE / config["data_dir"]).resolve() / "manifest.json")
        last = read_json(CKPTS / "last.json") if (CKPTS / "last.json").exists() else None
    except (OSError, ValueError, KeyError) as error:
        print(f"train.py: cannot start: {error}", file=sys.stderr)
        return 2
    if last and last["status"] == "done":
        print(f"done already: {last['step']} steps, {last['rows']} rows")
        return 0
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as directory:
        meeting = f"file://{directory}/meeting"
        arguments = (meeting, config, manifest, last)
        processes = start_processes(train, arguments, nprocs=WORLD_SIZE, join=False, start_method="fork")

        def pass_on(number: int, _: object) -> None:
            for pid in processes.pids():
                os.kill(pid, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        try:
            while not processes.join():
                pass
        except ProcessRaisedException as error:
            print(f"train.py: {error}", file=sys.stderr)
            return 1
    return 0


def train(  # noqa: C901, PLR0915 - one loop, to be read from top to bottom
    rank: int, meeting: str, config: dict[str, Any], manifest: dict[str, Any], last: dict[str, Any] | None
) -> None:
    """The whole training, as one of the processes."""
    stop = StopRequest()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD_SIZE)
    torch.set_num_threads(config["num_threads"])
    torch.manual_seed(config["seed"])
    torch.use_deterministic_algorithms(mode=True)
    data_dir = (HERE / config["data_dir"]).resolve()
    train_rows, val_rows = (load_rows(data_dir, split) for split in ("train", "val"))
    model = build_model(manifest)
    replica = DistributedDataParallel(model)
    optimizer = new_optimizer(model, config)
    step = cursor = 0
    best = None
    if last:
        directory = CKPTS / last["dir"]
        step, cursor, best = last["step"], last["rows"], last["best"]
        load_tensors(directory, model, optimizer)
    logs = Logs(is_writer=rank == 0, last_step=step)
    evaluated: dict[str, Any] = last["evaluated"] if last else {}
    status = "running"

    def commit() -> None:
        if rank == 0:
            state = {"step": step, "cursor": cursor}
            pointer = {"status": status, "rows": cursor, "evaluated": evaluated, "best": best}
            save(state, pointer, model, optimizer)

    while step < config["steps"] and not any_requested(stop):
        rows = rows_after(cursor, config["batch_size"], len(train_rows[1]), config["seed"])
        inputs, targets = (part[rows[rank::WORLD_SIZE]] for part in train_rows)
        learning_rate = learning_rate_at(step, config)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(replica(inputs), targets, config)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config["grad_clip"] or math.inf)
        optimizer.step()
        step, cursor = step + 1, cursor + config["batch_size"]
        mean_loss = mean_over_processes(loss.detach(), len(targets))
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"not finite at step {step}")
        logs.line("train.log", f"step={step} loss={mean_loss:.4f}")
        logs.metrics(
            step=step, loss=mean_loss, learning_rate=learning_rate, grad_norm=grad_norm.item(), rows=cursor
        )
        if step % config["eval_every"] == 0 or step == config["steps"]:
            evaluated = {"step": step} | evaluate(model, val_rows, config, rank)
            logs.line(
                "eval.log",
                f"step={step} eval_loss={evaluated['eval_loss']:.4f} accuracy={evaluated['accuracy']:.4f}",
            )
            logs.metrics(**evaluated)
            if best is None or evaluated["eval_loss"] < best["eval_loss"]:
                best = evaluated | {"dir": f"step-{step:08d}", "rows": cursor}
            commit()
        elif step % config["checkpoint_every"] == 0:
            commit()
    status = "done" if step == config["steps"] else "stopped"
    if evaluated.get("step") != step and step:
        evaluated = {"step": step} | evaluate(model, val_rows, config, rank)
        best = best or evaluated | {"dir": f"step-{step:08d}", "rows": cursor}
    commit()
    distributed.barrier()
    distributed.destroy_process_group()


# --- data ----------------------------------------------------------------------------------------


def load_rows(data_dir: Path, split: str) -> tuple[Tensor, Tensor]:
    """The inputs (N, …) and targets (N,) of a split."""
    arrays = (np.load(data_dir / f"{split}-{part}.npy", allow_pickle=False) for part in ("inputs", "targets"))
    inputs, targets = (torch.from_numpy(array) for array in arrays)
    return inputs, targets


def rows_after(cursor: int, count: int, num_rows: int, seed: int) -> NDArray[np.int64]:
    """The ``count`` rows after the first ``cursor``: whole epochs, each in an order of its own."""
    first, last = cursor // num_rows, (cursor + count - 1) // num_rows
    orders = [
        np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)
        for epoch in range(first, last + 1)
    ]
    start = cursor - first * num_rows
    return np.concatenate(orders)[start : start + count]


# --- model, loss, optimizer ----------------------------------------------------------------------


def build_model(manifest: dict[str, Any]) -> nn.Module:
    """The model of model.py with the sizes of config.json, fresh weights and the scaling of the data."""
    config = read_json(HERE / "config.json")
    module, name = importlib.import_module("model"), config["_model_class"]
    config_class = getattr(module, f"{name}Config")
    known = {field.name for field in fields(config_class)}
    model: nn.Module = getattr(module, name)(config_class(**{k: v for k, v in config.items() if k in known}))
    numbers = (manifest["scaling"]["mean"], manifest["scaling"]["std"], 0.0, 1.0)
    model.set_scaling(*(torch.tensor(number, dtype=torch.float32) for number in numbers))  # type: ignore[operator]
    return model


def new_optimizer(model: nn.Module, config: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms and biases."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config["beta1"], config["beta2"])
    return torch.optim.AdamW(groups, lr=config["learning_rate"], betas=betas, eps=1e-8)


def loss_of(outputs: Tensor, targets: Tensor, config: dict[str, Any]) -> Tensor:
    """The mean cross-entropy of logits (B, C) for classes (B,)."""
    return functional.cross_entropy(outputs, targets, label_smoothing=config["label_smoothing"])


def learning_rate_at(step: int, config: dict[str, Any]) -> float:
    """The scheduled rate of the step after ``step`` steps: linear warm-up, then decay to the minimum."""
    highest, lowest, warmup = config["learning_rate"], config["min_learning_rate"], config["warmup_steps"]
    if step < warmup:
        return float(highest * (step + 1) / warmup)
    progress = (step - warmup) / max(1, config["steps"] - warmup)
    decayed = {"constant": 0.0, "linear": progress, "cosine": (1.0 - math.cos(math.pi * progress)) / 2}
    return float(highest - decayed[config["schedule"]] * (highest - lowest))


def mean_over_processes(mean: Tensor, count: int) -> float:
    """The mean over the rows of all processes, from each one's own mean."""
    sums = torch.tensor([float(mean) * count, float(count)], dtype=torch.float64)
    distributed.all_reduce(sums)
    return (sums[0] / sums[1]).item()


def evaluate(
    model: nn.Module, rows: tuple[Tensor, Tensor], config: dict[str, Any], rank: int
) -> dict[str, Any]:
    """Loss and accuracy on all rows; each process measures its share of them."""
    inputs, targets = (part[rank::WORLD_SIZE] for part in rows)
    model.eval()
    with torch.inference_mode():
        outputs = model(inputs)
        loss = loss_of(outputs, targets, config)
        correct = (outputs.argmax(-1) == targets).double().mean()
    model.train()
    eval_loss, accuracy = (mean_over_processes(value, len(targets)) for value in (loss, correct))
    return {"eval_loss": eval_loss, "eval_rows": len(rows[1]), "accuracy": accuracy}


# --- files ---------------------------------------------------------------------------------------


class StopRequest:
    """Whether a signal asked this process to stop, or the process that started it is gone."""

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


def any_requested(stop: StopRequest) -> bool:
    """Whether any process is to stop; all get the same answer."""
    flag = torch.tensor([int(stop.requested)])
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


def load_tensors(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring model and optimizer to a checkpoint."""
    model.load_state_dict(load_file(directory / "model.safetensors"))
    parameters = dict(model.named_parameters())
    for key, tensor in load_file(directory / "optimizer.safetensors").items():
        name, _, kind = key.rpartition(".")
        optimizer.state[parameters[name]][kind] = tensor.clone()


def save(
    state: dict[str, Any], pointer: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the directory of this step whole or not at all, then last.json and best.json; drop the others."""
    CKPTS.mkdir(exist_ok=True)
    target = CKPTS / f"step-{state['step']:08d}"
    if not target.exists():
        aside = target.with_name(f".{target.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, aside / "model.safetensors")
        moments = {
            f"{name}.{kind}": tensor
            for name, parameter in model.named_parameters()
            for kind, tensor in optimizer.state.get(parameter, {}).items()
        }
        save_file(moments, aside / "optimizer.safetensors")
        (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
        aside.rename(target)
    replace_text(
        CKPTS / "last.json", json.dumps({"step": state["step"], "dir": target.name} | pointer, indent=2)
    )
    best = pointer["best"]
    if best:
        replace_text(CKPTS / "best.json", json.dumps(best, indent=2))
    for directory in CKPTS.glob("step-*"):
        if directory.name not in {target.name, best and best["dir"]}:
            shutil.rmtree(directory)


class Logs:
    """train.log, eval.log and metrics.jsonl, cut back to the step that training goes on from."""

    def __init__(self, *, is_writer: bool, last_step: int) -> None:
        self._files = {}
        for name in ("train.log", "eval.log", "metrics.jsonl") if is_writer else ():
            path = HERE / name
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            steps = [re.match(r'(?:step=|\{"step": )(\d+)\b', row) for row in rows]
            kept = [row for row, step in zip(rows, steps, strict=True) if step and int(step[1]) <= last_step]
            replace_text(path, "".join(kept))
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)
        self._started = time.monotonic()

    def line(self, name: str, text: str) -> None:
        """Add a row to one of the logs, and show it."""
        if self._files:
            self._files[name].write(text + "\n")
            print(text, flush=True)

    def metrics(self, **row: float) -> None:
        """Add a row to metrics.jsonl."""
        if self._files:
            row |= {"elapsed_s": round(time.monotonic() - self._started, 3)}
            self._files["metrics.jsonl"].write(json.dumps(row) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
