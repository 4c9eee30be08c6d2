"""The held-out score of a classifier or regressor, by the benchmark itself; the judge has no part in it.

``python -m benchmarks.defects.supervised.score FOLDER`` trains the path of a run folder and scores it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

MOST_NATS = 10.0  # that one row may cost


def heldout_score(path_dir: Path, data_dir: Path) -> float:
    """Cross-entropy (nats per row), or the rmse in deviations of the target.

    Each row is given alone and, as in use, without its padding.
    """
    manifest = json.loads((data_dir / "manifest.json").read_text())
    outputs, targets = heldout_outputs(path_dir, data_dir)
    if manifest["classes"]:
        losses = functional.cross_entropy(outputs.float(), targets, reduction="none")
        return float(losses.clamp(max=MOST_NATS).mean()) if bool(losses.isfinite().all()) else math.nan
    errors = (outputs.reshape(-1) - targets) / manifest["target_scaling"]["std"]
    return float(errors.square().mean().sqrt())


def heldout_accuracy(path_dir: Path, data_dir: Path) -> float:
    """The share of held-out rows whose class is right."""
    outputs, targets = heldout_outputs(path_dir, data_dir)
    return float((outputs.argmax(-1) == targets).double().mean())


def heldout_outputs(path_dir: Path, data_dir: Path, split: str = "heldout") -> tuple[Tensor, Tensor]:
    """What the best checkpoint says of a split, (N, C) or (N,), and the truth (N,)."""
    torch.set_num_threads(1)
    model = load_model(path_dir)
    pad_id = json.loads((data_dir / "manifest.json").read_text())["inputs"]["pad_id"]
    inputs, targets = (torch.from_numpy(load(data_dir, split, part)) for part in ("inputs", "targets"))
    with torch.inference_mode():
        rows = inputs.split(1)
        if pad_id is not None:
            rows = tuple(row[:, : int((row != pad_id).sum())] for row in rows)
        outputs = torch.cat([model(row) for row in rows])
    return outputs, targets


def load(data_dir: Path, split: str, part: str) -> NDArray[Any]:
    """One array of a split."""
    array: NDArray[Any] = np.load(data_dir / f"{split}-{part}.npy", allow_pickle=False)
    return array


def load_model(path_dir: Path) -> nn.Module:
    """model.py with the weights of the best checkpoint, in eval mode."""
    model = build(path_dir)
    pointer = json.loads((path_dir / "ckpts" / "best.json").read_text())
    model.load_state_dict(load_file(path_dir / "ckpts" / pointer["dir"] / "model.safetensors"), strict=False)
    return model.eval()


def build(path_dir: Path) -> nn.Module:
    """The model of model.py with the sizes of config.json and fresh weights."""
    spec = importlib.util.spec_from_file_location("_benchmarked_model", path_dir / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{path_dir / 'model.py'} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["_benchmarked_model"] = module
    spec.loader.exec_module(module)
    config = json.loads((path_dir / "config.json").read_text())
    name = config["_model_class"]
    config_class: Any = getattr(module, f"{name}Config")
    known = {key: value for key, value in config.items() if key in config_class.__dataclass_fields__}
    model: nn.Module = getattr(module, name)(config_class(**known))
    return model


def main() -> int:
    """Train and score. Returns the exit code of the training."""
    root = Path(sys.argv[1])
    command = [sys.executable, "train.py"]
    finished = subprocess.run(command, cwd=root / "path-a", capture_output=True, text=True, check=False)
    print(finished.stderr, end="", file=sys.stderr)
    if not finished.returncode:
        print((root / "path-a" / "eval.log").read_text().splitlines()[-1])
        print(f"heldout={heldout_score(root / 'path-a', root / 'data'):.4f}")
    return finished.returncode


if __name__ == "__main__":
    sys.exit(main())
