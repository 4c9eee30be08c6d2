# ruff: noqa: C901, PLR0915, RET503 - one long function, as such programs are written
"""A training program of another hand that keeps to the contract: other loop, sampler, optimizer, files.

Plain torch; windows drawn with replacement from a seed per step; the loss outside the model; a LambdaLR;
all micro-batches in one; as many processes (gloo) as PROCESSES says.
"""

import importlib
import json
import math
import os
import re
import signal
import socket
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
PROCESSES = 1
CONFIG = json.loads((HERE / "train_config.json").read_text())
DATA = HERE / CONFIG["data_dir"]
MANIFEST = json.loads((DATA / "manifest.json").read_text())
T = CONFIG["seq_len"]


def shard(split):
    return np.concatenate(
        [np.fromfile(DATA / s["name"], dtype="<u2") for s in MANIFEST["splits"][split]["shards"]]
    )


def draw(tokens, step, rank):
    """This rank's windows of a step: (N, T + 1)."""
    count = CONFIG["micro_batch"] * CONFIG["accumulation"]
    random = np.random.default_rng([CONFIG["seed"], step])
    starts = random.choice(len(tokens) // T - 1, count, replace=False) * T
    mine = starts[rank :: max(1, PROCESSES)]
    return torch.from_numpy(np.stack([tokens[s : s + T + 1] for s in mine]).astype(np.int64))


def rate(step):
    warmup, steps = CONFIG["warmup_steps"], CONFIG["steps"]
    if step < warmup:
        return (step + 1) / warmup
    least = CONFIG["min_learning_rate"] / CONFIG["learning_rate"]
    return least + (1 - least) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def build():
    config = json.loads((HERE / "config.json").read_text())
    module = importlib.import_module("model")
    name = config.pop("_model_class")
    fields = getattr(module, f"{name}Config").__dataclass_fields__
    return getattr(module, name)(
        getattr(module, f"{name}Config")(**{k: v for k, v in config.items() if k in fields})
    )


def loss_of(model, windows):
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))


def train(rank):
    torch.set_num_threads(1)
    torch.manual_seed(CONFIG["seed"])
    model = build()
    wrapped = DistributedDataParallel(model) if PROCESSES > 1 else model
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": CONFIG["weight_decay"]},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=CONFIG["learning_rate"],
        betas=(CONFIG["beta1"], CONFIG["beta2"]),
    )
    done, status = 0, "running"
    last = HERE / "ckpts" / "last.json"
    if last.exists():
        pointer = json.loads(last.read_text())
        done, status = pointer["step"], pointer["status"]
        folder = HERE / "ckpts" / pointer["dir"]
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        names = dict(model.named_parameters())
        for key, value in load_file(folder / "optimizer.safetensors").items():
            name, _, kind = key.rpartition(".")
            optimizer.state[names[name]][kind] = value.clone()
    if status == "done":
        return None
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate(epoch + done))
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    tokens, val = shard("train"), shard("val")
    logs = {}
    for name in ("train.log", "metrics.jsonl") if rank == 0 else ():
        rows = (HERE / name).read_text().splitlines(True) if (HERE / name).exists() and done else []
        kept = [row for row in rows if int(re.search(r"\d+", row)[0]) <= done]
        (HERE / name).write_text("".join(kept))
        logs[name] = (HERE / name).open("a", buffering=1)

    def save(step, status):
        if rank:
            return
        folder = HERE / "ckpts" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().clone() for n, p in model.named_parameters()}, folder / "model.safetensors")
        moments = {f"{n}.{k}": v for n, p in model.named_parameters() for k, v in optimizer.state[p].items()}
        save_file(moments, folder / "optimizer.safetensors")
        (folder / "state.json").write_text(json.dumps({"step": step}))
        count = CONFIG["micro_batch"] * CONFIG["accumulation"] * T
        pointer = {"step": step, "dir": folder.name, "status": status, "tokens": step * count}
        aside = last.with_name(".last.json")
        aside.write_text(json.dumps(pointer))
        aside.replace(last)

    for step in range(done + 1, CONFIG["steps"] + 1):
        model.train()
        loss = loss_of(wrapped, draw(tokens, step, rank))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG["grad_clip"])
        optimizer.step()
        scheduler.step()
        if rank == 0:
            logs["train.log"].write(f"step={step} loss={loss.item():.4f}\n")
            logs["metrics.jsonl"].write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
        if step % CONFIG["eval_every"] == 0 or step == CONFIG["steps"]:
            model.eval()
            windows = torch.from_numpy(
                np.stack([val[i * T : i * T + T + 1] for i in range(4)]).astype(np.int64)
            )
            with torch.no_grad():
                value = loss_of(model, windows).item()
            if rank == 0:
                row = {"step": step, "eval_loss": value, "eval_tokens": 4 * T}
                logs["metrics.jsonl"].write(json.dumps(row) + "\n")
        stop = torch.tensor(float(bool(stopping)))
        if PROCESSES > 1:
            dist.all_reduce(stop)
        if stop.item():
            return save(step, "stopped")
        if step == CONFIG["steps"]:
            return save(step, "done")
        if step % CONFIG["checkpoint_every"] == 0:
            save(step, "running")


def worker(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    train(rank)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    if PROCESSES == 1:
        train(0)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(worker, (port,), nprocs=PROCESSES)
