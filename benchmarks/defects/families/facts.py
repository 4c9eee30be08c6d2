"""What a train.py really does in its first steps, against what its settings say.

The healthy programs with the same settings and data are the yardstick: whatever differs from them is not
what train_config.json states. ``python -m benchmarks.defects.families.facts PATH OUT`` records one path.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.defects.case import Claim, Folder
from benchmarks.defects.processes import run

_STEPS = 60
_EVALUATE_EVERY = 25
_LIMIT_S = 240.0
_PROGRAMS = ("train.py", "eval.py")
_CLOSE = 0.02  # relative; the same arithmetic in the same order gives the same numbers


def stated_setting(folder: Folder, sound: Path, name: str) -> Claim:
    """One setting: as the healthy programs follow it, and as these do."""
    stated, measured = _record(folder, sound)[name], _record(folder, None)[name]
    return Claim(
        stated=f"{name} {_shown(stated)}",
        measured=_shown(measured),
        is_false=not _is_close(stated, measured),
    )


def _record(folder: Folder, sound: Path | None) -> dict[str, Any]:
    """The facts of a path; ``sound`` has the programs that are put in place of its own."""
    copy = folder.root / ("facts-own" if sound is None else "facts-healthy") / "path-a"
    answer = copy.with_name("facts.json")
    if not answer.exists():
        shutil.copytree(
            folder.path, copy, ignore=shutil.ignore_patterns("ckpts", "*.log", "*.jsonl", "*.stderr")
        )
        if not (copy.parent / "data").exists():
            (copy.parent / "data").symlink_to(folder.data)
        if sound is not None:
            for program in _PROGRAMS:
                shutil.copyfile(sound / program, copy / program)
        settings = json.loads((copy / "train_config.json").read_text()) | {"eval_every": _EVALUATE_EVERY}
        (copy / "train_config.json").write_text(json.dumps(settings))
        run(
            "-m",
            "benchmarks.defects.families.facts",
            str(copy),
            str(answer),
            cwd=copy.parent,
            limit_s=_LIMIT_S,
        )
    facts: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return facts


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _CLOSE * max(abs(one), abs(other), 1e-12)
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{_shown(value[0])} … {_shown(value[len(value) // 2])} … {_shown(value[-1])}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Enough(BaseException):
    """The steps that were wanted are recorded."""


def _measure(path: Path) -> dict[str, Any]:
    """Runs the path's own trainer for some steps and watches the optimizer and the model."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    os.chdir(path)
    sys.path.insert(0, str(path))
    import train  # type: ignore[import-not-found]  # the path's own

    rates: list[float] = []
    norms: list[float] = []
    modes: list[bool] = []
    facts: dict[str, Any] = {}
    config = train.TrainConfig.read(path / "train_config.json")
    trainer = train.Trainer(config)

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        held = [p for group in groups for p in group["params"]]
        grads = [p.grad for p in held if p.grad is not None]
        rates.append(float(groups[0]["lr"]))
        norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()) if grads else 0.0)
        if len(rates) == 2:
            vectors = [group["weight_decay"] for group in groups for p in group["params"] if p.dim() < 2]
            facts["betas"] = list(groups[0].get("betas", ()))
            facts["decay_of_vectors"] = float(max(vectors, default=0.0))
            facts["trained_parameters"] = sum(
                p.numel() for p in held if p.requires_grad and p.grad is not None
            )
        if len(rates) >= _STEPS:
            raise _Enough

    def before_forward(module: torch.nn.Module, *_: Any) -> None:
        if module is getattr(getattr(trainer, "stepper", None), "model", None) and torch.is_grad_enabled():
            modes.append(module.training)
            facts.setdefault("autocast", torch.is_autocast_enabled("cpu"))

    register_optimizer_step_pre_hook(before_step)
    torch.nn.modules.module.register_module_forward_pre_hook(before_forward)
    with contextlib.suppress(_Enough):
        trainer.run()
    first = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    halfway = _EVALUATE_EVERY * config.accumulation
    return facts | {
        "learning_rate": rates,
        "grad_clip": max(norms),
        "gradient_scale": float(first["grad_norm"]),
        "accumulation": float(first["grad_norm"]),
        "train_mode": all(modes[:halfway]),
        "train_mode_after_evaluation": all(modes),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_measure(Path(sys.argv[1]))), encoding="utf-8")
