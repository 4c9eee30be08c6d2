"""Listens inside the process of train.py: what goes through the model, and what the optimizer makes of it.

Hooks that torch offers for all modules and optimizers; train.py is not changed. One safetensors file per
optimizer step, one per forward pass of an evaluation, below ``<directory>/<pid>/``, numbered in order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_WHOLE_STEPS = 12
"""Steps kept with gradients and weights; of later ones the inputs alone."""
_MOST_EVALUATIONS = 400  # forward passes
_MOST_BYTES = 256 << 20
_MOST_SECONDS = 20.0  # of steps; then the rehearsal ends itself


class Recorder:
    """The state of one process; a fork starts anew."""

    def __init__(self, directory: str, stop_after: int) -> None:
        self.root = Path(directory)
        self.main_pid = os.getpid()
        self.stop_after = stop_after
        self._reset()

    def _reset(self) -> None:
        self.pid = os.getpid()
        self.depth = 0
        self.number = 0
        self.steps = 0
        self.evaluations = 0
        self.bytes = 0
        self.started = time.monotonic()
        self.forwards: list[dict[str, Any]] = []
        self.names: dict[int, str] = {}
        self.model: nn.Module | None = None
        self.stopped = False

    def _check_fork(self) -> None:
        if os.getpid() != self.pid:
            self._reset()

    def before_forward(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A model is called: what with, and in which mode."""
        self._check_fork()
        self.depth += 1
        if self.depth > 1 or not any(True for _ in module.parameters()):
            return
        import torch

        if self.model is None:
            self._write(self._state(module), {"kind": "start", "trainable": json.dumps(_trainable(module))})
        self.model = module
        self.names = {id(parameter): _plain(name) for name, parameter in module.named_parameters()}
        inputs = arguments[0] if arguments and isinstance(arguments[0], torch.Tensor) else None
        whole = self.steps < _WHOLE_STEPS
        self.forwards.append(
            {
                "inputs": None if inputs is None else inputs.detach().clone(),
                "rng": torch.get_rng_state() if whole else None,
                "training": module.training,
                "odd": [
                    _plain(name) for name, one in module.named_modules() if one.training != module.training
                ],
                "weights": _digest(module) if whole else "",
                "places": _places(),
                "noise": _noise(),
            }
        )

    def after_forward(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        """What came out, and, when the time comes, its gradient."""
        self.depth -= 1
        if self.depth or module is not self.model or not self.forwards:
            return
        import torch

        event = self.forwards[-1]
        if not isinstance(output, torch.Tensor):
            return
        event["outputs"] = output.detach().clone()
        if output.requires_grad:
            event["differentiated"] = True

            def keep(gradient: torch.Tensor) -> None:
                event["output_grad"] = gradient.detach().clone()

            output.register_hook(keep)  # type: ignore[no-untyped-call]
        elif self.evaluations < _MOST_EVALUATIONS:
            self.evaluations += 1
            self.forwards.pop()
            tensors = {name: event[name] for name in ("inputs", "outputs") if event[name] is not None}
            self._write(tensors, {"kind": "evaluation", "step": str(self.steps), **_mode(event)})
        else:
            self.forwards.pop()

    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The gradients as the optimizer gets them, and its settings."""
        self._check_fork()
        if self.steps >= _WHOLE_STEPS:
            return
        self.grads, settings = {}, []
        for group in optimizer.param_groups:
            setting = {
                key: value
                for key, value in group.items()
                if key in {"lr", "betas", "eps", "weight_decay", "momentum", "amsgrad", "maximize"}
            }
            names = []
            for index, parameter in enumerate(group["params"]):
                name = self.names.get(id(parameter), f"?{index}")
                names.append(name)
                if parameter.grad is not None:
                    self.grads[name] = parameter.grad.detach().clone()
            settings.append({"names": names, "optimizer": type(optimizer).__name__, **setting})
        self.settings = settings

    def after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The weights after the update; then, maybe, the end of the rehearsal."""
        self._check_fork()
        self.steps += 1
        tensors: dict[str, torch.Tensor] = {}
        events = [event for event in self.forwards if event.get("differentiated")]
        self.forwards = []
        whole = self.steps <= _WHOLE_STEPS
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        words: dict[str, str] = {"kind": "step", "step": str(self.steps), "rates": json.dumps(rates)}
        words["places"] = json.dumps(_places())
        for index, event in enumerate(events):
            kept = ("inputs", "outputs", "output_grad", "rng") if whole else ("inputs",)
            tensors |= {f"{index}.{key}": event[key] for key in kept if event.get(key) is not None}
        words["forwards"] = json.dumps([_mode(event) | {"weights": event["weights"]} for event in events])
        if whole:
            tensors |= {f"grad:{name}": value for name, value in self.grads.items()}
            words["settings"] = json.dumps(self.settings)
            if self.model is not None:
                tensors |= {f"after:{name}": value for name, value in self._state(self.model).items()}
                words["weights"] = _digest(self.model)
        self._write(tensors, words)
        late = time.monotonic() - self.started > _MOST_SECONDS or self.bytes > _MOST_BYTES
        if not self.stopped and (self.steps >= self.stop_after or late):
            self.stopped = True
            try:  # one process speaks for all: a second signal could meet a program that is leaving
                (self.root / "stopped").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(self.main_pid, signal.SIGTERM)

    def _state(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return {_plain(name): value.detach().clone() for name, value in module.state_dict().items()}

    def _write(self, tensors: Mapping[str, torch.Tensor], words: dict[str, str]) -> None:
        from safetensors.torch import save_file

        folder = self.root / str(self.pid)
        folder.mkdir(parents=True, exist_ok=True)
        self.number += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        aside = folder / f".{self.number:06d}"
        separate = {name: tensor.clone().contiguous().cpu() for name, tensor in tensors.items()}
        save_file(separate, aside, metadata=words)
        aside.rename(folder / f"{self.number:06d}.safetensors")


def _plain(name: str) -> str:
    """A name without the wrapper of data-parallel training."""
    return name.removeprefix("module.")


def _trainable(module: nn.Module) -> list[str]:
    return [_plain(name) for name, parameter in module.named_parameters() if parameter.requires_grad]


def _mode(event: Mapping[str, Any]) -> dict[str, str]:
    return {
        "training": str(event["training"]),
        "odd": json.dumps(event["odd"][:8]),
        "places": json.dumps(event["places"]),
        "noise": event["noise"],
    }


def _places() -> list[str]:
    """Lines of train.py that are being run, the innermost first."""
    lines = []
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - the way to look at one's callers
    while frame is not None:
        if os.path.basename(frame.f_code.co_filename) == "train.py":  # noqa: PTH119 - no Path per call
            lines.append(f"train.py:{frame.f_lineno}")
        frame = frame.f_back
    return lines[:4]


def _noise() -> str:
    """A hash of the state of torch's random numbers."""
    import hashlib

    import torch

    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()[:16]


def _digest(module: nn.Module) -> str:
    """A hash of the parameters, to see whether they are touched between two hooks."""
    import hashlib

    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


def install(directory: str) -> None:
    """Puts the hooks into this interpreter."""
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    recorder = Recorder(directory, int(os.environ.get("ML_INTERN_ROWS_STEPS", "8")))
    register_module_forward_pre_hook(recorder.before_forward)
    register_module_forward_hook(recorder.after_forward, always_call=True)
    register_optimizer_step_pre_hook(recorder.before_step)
    register_optimizer_step_post_hook(recorder.after_step)
