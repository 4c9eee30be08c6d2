"""The held-out score of a language model, by the benchmark itself: what it knows of the next token.

The judge has no part in it. Each prefix is given alone, as in use: a model that looks ahead within a
window, or at its neighbours in a batch, gains nothing here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_WINDOWS = 96
_LENGTHS = 16  # prefix lengths per window


def heldout_score(path_dir: Path, data_dir: Path) -> float:
    """Nats per token on held-out prefixes, of the checkpoint that best.json names."""
    torch.set_num_threads(1)
    model = load_model(path_dir)
    tokens = split(data_dir, "heldout")
    seq_len = min(64, json.loads((path_dir / "train_config.json").read_text())["seq_len"])
    starts = np.linspace(0, len(tokens) - seq_len - 1, _WINDOWS).astype(int)
    windows = torch.from_numpy(np.stack([tokens[start : start + seq_len + 1] for start in starts]))
    lengths = np.linspace(1, seq_len, _LENGTHS).astype(int).tolist()
    alone = _mixes_rows(model, windows)
    losses = [_last_loss(model, windows, length, alone=alone) for length in lengths]
    return float(torch.stack(losses).mean())


@torch.no_grad()
def window_loss(path_dir: Path, data_dir: Path, name: str, *, max_tokens: int, seq_len: int) -> float:
    """Nats per token on the leading windows of a split, as eval.py has it."""
    torch.set_num_threads(1)
    model, tokens = load_model(path_dir), split(data_dir, name)
    count = max(1, min(max_tokens, len(tokens) - 1) // seq_len)
    windows = np.stack([tokens[i * seq_len : i * seq_len + seq_len + 1] for i in range(count)])
    total = 0.0
    for batch in torch.from_numpy(windows).split(8):
        logits = _logits(model, batch[:, :-1]).flatten(0, 1).float()
        total += float(functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum"))
    return total / (count * seq_len)


def load_model(path_dir: Path) -> nn.Module:
    """model.py with the weights of the best checkpoint, in eval mode."""
    config = json.loads((path_dir / "config.json").read_text())
    unique = f"_benchmarked_model_{threading.get_ident()}"  # cases run side by side
    spec = importlib.util.spec_from_file_location(unique, path_dir / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{path_dir / 'model.py'} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    spec.loader.exec_module(module)
    name = config["_model_class"]
    config_class: Any = getattr(module, f"{name}Config")
    known = config_class.__dataclass_fields__
    model: nn.Module = getattr(module, name)(config_class(**{k: v for k, v in config.items() if k in known}))
    pointer = json.loads((path_dir / "ckpts" / "best.json").read_text())
    tensors = load_file(path_dir / "ckpts" / pointer["dir"] / "model.safetensors")
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def split(data_dir: Path, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The token ids of a split, (tokens,)."""
    manifest = json.loads((data_dir / "manifest.json").read_text())
    shards = [shard["name"] for shard in manifest["splits"][name]["shards"]]
    return np.concatenate([np.fromfile(data_dir / shard, dtype="<u2") for shard in shards]).astype(np.int64)


def _logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    output = model(input_ids)
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.logits


@torch.no_grad()
def _mixes_rows(model: nn.Module, windows: Tensor) -> bool:
    """Whether a row's logits change with its neighbours by more than rounding."""
    together, alone = _logits(model, windows[:4, :-1])[:1], _logits(model, windows[:1, :-1])
    return not torch.allclose(together, alone, atol=1e-2, rtol=1e-2)


@torch.no_grad()
def _last_loss(model: nn.Module, windows: Tensor, length: int, *, alone: bool) -> Tensor:
    """Losses of the token after ``length``: (windows,)."""
    inputs, targets = windows[:, :length], windows[:, length]
    rows = inputs.split(1 if alone else 32)
    logits = torch.cat([_logits(model, part)[:, -1] for part in rows]).float()
    return functional.cross_entropy(logits, targets, reduction="none")
