"""What a finished run states, against what the benchmark measures itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.defects.case import Claim, Folder
from benchmarks.defects.language_score import load_model, split, window_loss

_NATS = 0.02  # fp32 against fp32 differs by 1e-4; the logs have four digits


def eval_loss(folder: Folder, sound: Path) -> Claim:
    """The eval loss of best.json, on the leading tokens of val that it says it was measured on."""
    del sound
    best = _best(folder)
    measured = window_loss(
        folder.path, folder.data, "val", max_tokens=_eval_tokens(folder), seq_len=_settings(folder)["seq_len"]
    )
    stated = float(best["eval_loss"])
    return Claim(
        stated=f"eval loss {stated:.4f}", measured=f"{measured:.4f}", is_false=abs(stated - measured) > _NATS
    )


def train_loss(folder: Folder, sound: Path) -> Claim:
    """The losses in train.log, against those of the same training where nothing was done to the log."""
    stated, measured = _losses(folder.path), _losses(sound)
    count = min(len(stated), len(measured))
    apart = max(abs(one - other) for one, other in zip(stated[:count], measured[:count], strict=True))
    return Claim(
        stated=f"{len(stated)} losses, the last {stated[-1]:.4f}",
        measured=f"{len(measured)} losses, the last {measured[-1]:.4f}; up to {apart:.3f} apart",
        is_false=apart > _NATS or len(stated) != len(measured),
    )


def step_loss_level(folder: Folder, sound: Path) -> Claim:
    """The mean of the last fifty logged losses, against the loss on training text."""
    del sound
    logged = _losses(folder.path)[-50:]
    stated = sum(logged) / len(logged)
    measured = window_loss(
        folder.path, folder.data, "train", max_tokens=40_000, seq_len=_settings(folder)["seq_len"]
    )
    return Claim(
        stated=f"train loss {stated:.3f}", measured=f"{measured:.3f}", is_false=abs(stated - measured) > 0.1
    )


def checkpoint(folder: Folder, sound: Path) -> Claim:
    """The weights that best.json names, against those that the training ended with."""
    stated, measured = _weights(folder.path), _weights(sound)
    return Claim(
        stated=f"weights of this training {stated[:10]}", measured=measured[:10], is_false=stated != measured
    )


def best_step(folder: Folder, sound: Path) -> Claim:
    """The step of best.json, against the lowest eval loss that was measured."""
    rows = [json.loads(line) for line in (sound / "metrics.jsonl").read_text().splitlines()]
    lowest = min((row for row in rows if "eval_loss" in row), key=lambda row: row["eval_loss"])
    best = _best(folder)
    return Claim(
        stated=f"best step {best['step']}",
        measured=f"step {lowest['step']} ({lowest['eval_loss']:.4f})",
        is_false=best["step"] != lowest["step"],
    )


def tokens(folder: Folder, sound: Path) -> Claim:
    """Tokens in last.json, against those of the same training."""
    stated, measured = _pointer(folder.path, "last")["tokens"], _pointer(sound, "last")["tokens"]
    return Claim(stated=f"{stated} tokens", measured=str(measured), is_false=stated != measured)


def trained_tokens(folder: Folder, sound: Path) -> Claim:
    """Tokens in last.json, against those that the healthy program trains on."""
    del sound
    settings, last = _settings(folder), _pointer(folder.path, "last")
    planned = settings["steps"] * settings["micro_batch"] * settings["accumulation"] * settings["seq_len"]
    return Claim(
        stated=f"done after {planned} planned tokens",
        measured=str(last["tokens"]),
        is_false=last["tokens"] < planned,
    )


def speed(folder: Folder, sound: Path) -> Claim:
    """Tokens per second in metrics.jsonl, against tokens over the elapsed time."""
    rows = [row for row in _rows(folder.path) if "tokens_per_s" in row]
    last = _pointer(sound, "last")
    stated = sum(row["tokens_per_s"] for row in rows) / len(rows)
    measured = last["tokens"] / last["elapsed_s"]
    return Claim(
        stated=f"{stated:.0f} tokens/s",
        measured=f"{measured:.0f} over the whole training",
        is_false=stated > 3 * max(measured, _mean_speed(sound)),
    )


def samples(folder: Folder, sound: Path) -> Claim:
    """The samples in gen_samples.log, against those of the same training."""
    name = "gen_samples.log"
    stated, measured = (folder.path / name).read_text(), (sound / name).read_text()
    return Claim(
        stated=f"samples {_digest(stated.encode())[:10]}",
        measured=_digest(measured.encode())[:10],
        is_false=stated != measured,
    )


def heldout(folder: Folder, sound: Path) -> Claim:
    """The held-out tokens, against the manifest that was written before training."""
    del sound
    return _data_claim(folder, "heldout")


def val(folder: Folder, sound: Path) -> Claim:
    """The validation tokens, against the manifest."""
    del sound
    return _data_claim(folder, "val")


def configuration(folder: Folder, sound: Path) -> Claim:
    """config.json, against that of the training."""
    stated, measured = (json.loads((path / "config.json").read_text()) for path in (folder.path, sound))
    changed = sorted(key for key in stated.keys() | measured.keys() if stated.get(key) != measured.get(key))
    return Claim(
        stated=", ".join(f"{key} {stated.get(key)}" for key in changed) or "the same",
        measured=", ".join(f"{key} {measured.get(key)}" for key in changed) or "the same",
        is_false=bool(changed),
    )


def programs(folder: Folder, sound: Path) -> Claim:
    """train.py and eval.py that are published, against those that trained."""
    changed = [
        name
        for name in ("model.py", "train.py", "eval.py", "train_config.json")
        if (folder.path / name).read_bytes() != (sound / name).read_bytes()
    ]
    return Claim(
        stated="the programs that trained",
        measured=f"{', '.join(changed) or 'none'} changed afterwards",
        is_false=bool(changed),
    )


def tokenizer(folder: Folder, sound: Path) -> Claim:
    """The tokenizer beside the shards, against the hash in the manifest."""
    del sound
    manifest = json.loads((folder.data / "manifest.json").read_text())
    found = _digest((folder.data / "tokenizer" / "tokenizer.json").read_bytes())
    stated = manifest["tokenizer"]["sha256"]
    return Claim(stated=f"tokenizer {stated[:10]}", measured=found[:10], is_false=stated != found)


def disjoint_splits(folder: Folder, sound: Path) -> Claim:
    """No document is in two splits: documents of val and heldout that are in train too."""
    del sound
    end = json.loads((folder.data / "manifest.json").read_text())["tokenizer"]["eos_token_id"]
    documents = {
        name: _documents(split(folder.data, name).tolist(), end) for name in ("train", "val", "heldout")
    }
    known = set(documents["train"])
    shared = {
        name: sum(text in known for text in documents[name]) / max(1, len(documents[name]))
        for name in ("val", "heldout")
    }
    return Claim(
        stated="no document in two splits",
        measured=", ".join(f"{share:.0%} of {name} is in train" for name, share in shared.items()),
        is_false=max(shared.values()) > 0.01,
    )


def ties(folder: Folder, sound: Path) -> Claim:
    """tie_word_embeddings of config.json, against the weights as they are loaded."""
    del sound
    model: Any = load_model(folder.path)
    stated = bool(json.loads((folder.path / "config.json").read_text()).get("tie_word_embeddings"))
    measured = model.lm_head.weight.equal(model.embed_tokens.weight)
    return Claim(stated=f"tied: {stated}", measured=str(measured), is_false=stated != measured)


def stored_tensors(folder: Folder, sound: Path) -> Claim:
    """The tensors of the checkpoint, against those that the training wrote."""
    from safetensors import SafetensorError, safe_open

    def names(path: Path) -> list[str]:
        file = path / "ckpts" / _pointer(path, "best")["dir"] / "model.safetensors"
        with safe_open(file, "pt") as tensors:
            return [f"{key} {tensors.get_slice(key).get_dtype()}" for key in sorted(tensors.keys())]

    measured = names(sound)
    try:
        stated = names(folder.path)
    except (OSError, SafetensorError) as error:
        return Claim(stated="a checkpoint", measured=f"cannot be read: {error}"[:120], is_false=True)
    changed = sorted(set(stated) ^ set(measured))
    return Claim(
        stated=f"{len(stated)} tensors",
        measured=f"{len(measured)} were trained; {', '.join(changed[:3]) or 'the same'}",
        is_false=bool(changed),
    )


def experts_configured(folder: Folder, sound: Path) -> Claim:
    """num_experts_per_tok, against the experts that a token really goes through."""
    import torch

    del sound
    model: Any = load_model(folder.path)
    stated = int(json.loads((folder.path / "config.json").read_text())["num_experts_per_tok"])
    calls: list[int] = []
    for module in model.modules():
        if type(module).__name__ == "MoE":
            for expert in module.experts:
                expert.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    windows = torch.from_numpy(split(folder.data, "val")[: 32 * 16]).view(16, 32)
    with torch.no_grad():
        model(windows)
    layers = sum(type(module).__name__ == "MoE" for module in model.modules())
    measured = sum(calls) / (windows.numel() * layers)
    return Claim(
        stated=f"{stated} experts per token",
        measured=f"{measured:.2f}",
        is_false=abs(stated - measured) > 0.01,
    )


def expert_use(folder: Folder, sound: Path) -> Claim:
    """N experts, against those that any token of val goes to."""
    import torch

    del sound
    model: Any = load_model(folder.path)
    windows = torch.from_numpy(split(folder.data, "val")[: 32 * 64]).view(64, 32)
    used: set[int] = set()
    experts = [m for layer in model.modules() if type(layer).__name__ == "MoE" for m in layer.experts]
    for index, expert in enumerate(experts):

        def count(_module: Any, inputs: Any, _output: Any, index: int = index) -> None:
            if len(inputs[0]):
                used.add(index)

        expert.register_forward_hook(count)
    with torch.no_grad():
        model(windows)
    return Claim(
        stated=f"{len(experts)} experts",
        measured=f"{len(used)} are ever used",
        is_false=len(used) < len(experts),
    )


def _documents(ids: list[int], end: int) -> list[tuple[int, ...]]:
    documents, current = [], []
    for token in ids:
        if token == end:
            documents.append(tuple(current))
            current = []
        else:
            current.append(token)
    return documents


def _data_claim(folder: Folder, name: str) -> Claim:
    manifest = json.loads((folder.data / "manifest.json").read_text())
    shard = manifest["splits"][name]["shards"][0]
    found = _digest((folder.data / shard["name"]).read_bytes())
    return Claim(
        stated=f"{name} {shard['sha256'][:10]}", measured=found[:10], is_false=found != shard["sha256"]
    )


def _mean_speed(path: Path) -> float:
    rows = [row["tokens_per_s"] for row in _rows(path) if "tokens_per_s" in row]
    return float(sum(rows) / len(rows))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _losses(path: Path) -> list[float]:
    return [float(line.split("loss=")[1]) for line in (path / "train.log").read_text().splitlines()]


def _settings(folder: Folder) -> dict[str, Any]:
    return folder.json("train_config.json")


def _pointer(path: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((path / "ckpts" / f"{name}.json").read_text())
    return value


def _best(folder: Folder) -> dict[str, Any]:
    return _pointer(folder.path, "best")


def _eval_tokens(folder: Folder) -> int:
    best = _best(folder)
    return int(best.get("eval_tokens", 40_960))


def _weights(path: Path) -> str:
    return _digest((path / "ckpts" / _pointer(path, "best")["dir"] / "model.safetensors").read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
