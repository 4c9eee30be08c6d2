"""What really reaches the model and the optimizer of a rehearsed train.py, written down as it happens.

Runs inside the processes of the rehearsed program, see ``inject/sitecustomize.py``; the standard library
and torch only. It relies on nothing of the program but the contract: one class is the model (config.json
names it), whose ``forward`` or ``loss`` is called, and a ``torch.optim.Optimizer`` updates it. Per process
there is ``PID.jsonl`` with one event per line, and ``PID.bin`` with the tensors, which events refer to as
``[offset, dtype, shape]``.

Events, in the order of a step: ``model`` (once), ``call`` (one call of the model from outside),
``backward`` (what flowed back into it), ``gradients`` (as the optimizer finds them), ``updated`` (what it
left). Training calls are those with gradients enabled; others are evaluations and samples.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch  # noqa: TID253 - imported only by a process that has it already
from torch import Tensor, nn  # noqa: TID253
from torch.optim.optimizer import (  # noqa: TID253
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

SAMPLES = 1024
"""Numbers of a tensor that are written down where the whole would be too much."""
CRASHED, IGNORED_TERM, NEVER_STEPPED = 96, 97, 98
"""Exit codes that the recorder ends the program with."""
_MOST_STEPS_AFTER_TERM = 12
_MOST_CALLS_WITHOUT_STEP = 256
_WHOLE_OUTPUT = 1 << 16  # numbers; larger outputs are written down as one target and scale per row
_MOST_NO_GRAD_CALLS = 4_000


def sample(tensor: Tensor) -> Tensor:
    """At most SAMPLES numbers of a tensor in even distances, float32."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() > SAMPLES:
        flat = flat[torch.arange(SAMPLES, device=flat.device) * (flat.numel() // SAMPLES)]
    return flat.float().cpu()


def bit_sum(tensor: Tensor) -> int:
    """A sum over the bits of a tensor: equal for equal tensors, and hardly ever else."""
    data = tensor.detach().contiguous().reshape(-1)
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[data.element_size()]
    if data.is_complex():
        data = torch.view_as_real(data).reshape(-1)
        width = torch.int32 if data.element_size() == 4 else torch.int64  # bytes
    bits = data.view(width).long()
    return int(bits.sum()) ^ int(bits[::7].sum()) << 1


def recover_targets(logits: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The target of each row and the weight of its loss, from the gradient of a cross-entropy.

    For logits (..., V) the gradient is ``weight * (softmax(logits) - onehot(target))``, whose only
    negative entry is the target's.

    Returns:
        Targets (N,) int64, -1 where no loss was taken, and weights (N,) float32.
    """
    rows, gradients = logits.reshape(-1, logits.shape[-1]), gradient.reshape(-1, logits.shape[-1])
    targets, weights = [], []
    for part, back in zip(torch.split(rows, 256), torch.split(gradients, 256), strict=True):
        lowest = back.float().min(-1)
        chance = part.detach().float().softmax(-1).gather(1, lowest.indices[:, None]).squeeze(1)
        weight = -lowest.values / (1 - chance).clamp_min(1e-9)
        targets.append(torch.where(lowest.values < 0, lowest.indices, -1).cpu())
        weights.append(weight.cpu())
    return torch.cat(targets), torch.cat(weights)


def leading_tensor(output: Any) -> Tensor | None:
    """The tensor in what a model returned: alone, first in a tuple, ``.logits``."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", None)
    return output if isinstance(output, Tensor) else None


class Recorder:
    """One process's record."""

    def __init__(self, directory: Path) -> None:
        plan = json.loads((directory / "plan.json").read_text())
        self._directory = directory
        self._root = Path(plan["root"])
        self._class_name: str = plan["class_name"]
        self._crash_after: int | None = plan["crash_after"]
        self._terminate_after: int | None = plan["terminate_after"]
        self._most_steps: int = plan["most_steps"]
        self._whole_state: int = plan["whole_state"]  # parameters; of larger models only the first states
        self._large_states: int = plan["large_states"]
        self._events: IO[str] | None = None
        self._tensors: IO[bytes] | None = None
        self._wrapped: set[type] = set()
        self._owners: dict[int, nn.Module] = {}
        self._names: dict[int, str] = {}
        self._depth = self._calls = self._steps = self._saved = self._no_grad_calls = 0
        self._calls_since_step = self._optimizers_since_call = 0
        self._saw_no_grad = False
        self._trained: nn.Module | None = None

    # --- the file

    def event(self, kind: str, **values: Any) -> None:
        """Add an event."""
        if self._events is None:
            name = self._directory / str(os.getpid())
            self._events = name.with_suffix(".jsonl").open("a", encoding="utf-8")
            self._tensors = name.with_suffix(".bin").open("ab")
        values |= {"kind": kind, "line": self._line()}
        assert self._tensors is not None  # noqa: S101 - opened together
        self._tensors.flush()
        self._events.write(json.dumps(values) + "\n")
        self._events.flush()

    def tensor(self, tensor: Tensor) -> list[Any]:
        """Write a tensor down; returns what refers to it."""
        if self._tensors is None:
            self.event("begins")
        assert self._tensors is not None  # noqa: S101 - opened by the event
        data = tensor.detach().cpu().contiguous()
        offset = self._tensors.tell()
        self._tensors.write(bytes(data.reshape(-1).view(torch.uint8).numpy()) if data.numel() else b"")
        return [offset, str(data.dtype).removeprefix("torch."), list(data.shape)]

    def forked(self) -> None:
        """In a forked child: files of its own."""
        self._events = self._tensors = None

    def _line(self) -> str:
        """``train.py:212``: the innermost line of the path's programs, model.py apart."""
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.name != "model.py" and file.parent == self._root:
                return f"{file.name}:{frame.f_lineno}"
            frame = frame.f_back
        return ""

    # --- the model

    def wrap(self, cls: type[nn.Module]) -> None:
        """Record what calls the methods of the model's class."""
        if cls in self._wrapped:
            return
        self._wrapped.add(cls)
        for name in ("forward", "loss"):
            original = getattr(cls, name, None)
            if callable(original):
                setattr(cls, name, self._recorded(name, original))

    def _recorded(self, method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return original(model, *args, **kwargs)
            number = self._before_call(model, method, args, kwargs)
            self._depth += 1
            try:
                output = original(model, *args, **kwargs)
            finally:
                self._depth -= 1
            if number is not None:
                self._watch(number, method, output)
            return output

        call.__name__, call.__doc__ = method, original.__doc__
        return call

    def _before_call(
        self, model: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int | None:
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        is_training = torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())
        if not is_training:
            self._no_grad_calls += 1
            if self._no_grad_calls > _MOST_NO_GRAD_CALLS:
                return None
        self._describe(model)
        if is_training:
            self._trained = model
            self._calls_since_step += 1
            if self._calls_since_step > _MOST_CALLS_WITHOUT_STEP:
                self._end(NEVER_STEPPED)
        begins_step = is_training and self._calls_since_step == 1
        begins_evaluation = not is_training and not self._saw_no_grad and any(x.numel() > 16 for x in inputs)
        autocast = torch.is_autocast_enabled(inputs[0].device.type) if inputs else False
        modes = [n for n, m in model.named_modules() if m.training != model.training]
        values: dict[str, Any] = {}
        if begins_step or begins_evaluation:
            values["sums"] = [bit_sum(tensor) for _, tensor in self._tensors_of(model)]
            small = sum(p.numel() for p in model.parameters()) <= self._whole_state
            if small or self._saved < self._large_states:
                self._saved += 1
                values["state"] = [self.tensor(tensor) for _, tensor in self._tensors_of(model)]
        self._saw_no_grad = not is_training and (self._saw_no_grad or begins_evaluation)
        self._optimizers_since_call = 0
        self._calls += 1
        if is_training:
            values["rng"] = self.tensor(torch.get_rng_state())
            if torch.cuda.is_available():
                values["cuda_rng"] = self.tensor(torch.cuda.get_rng_state())
        self.event(
            "call",
            number=self._calls,
            method=method,
            model=id(model),
            grad=is_training,
            training=model.training,
            other_modes=modes[:8],
            autocast=str(torch.get_autocast_dtype(inputs[0].device.type)) if autocast else None,
            deterministic=torch.are_deterministic_algorithms_enabled(),
            threads=torch.get_num_threads(),
            inputs=[self.tensor(x) for x in inputs],
            **values,
        )
        return self._calls

    @staticmethod
    def _tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
        return [*model.named_parameters(), *model.named_buffers()]

    def _describe(self, model: nn.Module) -> None:
        """The names of a model's tensors, when it is first called."""
        if self._owners.get(id(model)) is model:
            return
        self._owners[id(model)] = model
        self._names |= {id(parameter): name for name, parameter in model.named_parameters()}
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.event(
            "model",
            id=id(model),
            tensors=[
                [n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in self._tensors_of(model)
            ],
            trainable=sorted(trainable),
            num_parameters=len(list(model.named_parameters())),
        )

    def _watch(self, number: int, method: str, output: Any) -> None:
        """Write down what flows back into the output of a call."""
        total = leading_tensor(output)
        if total is None or not total.requires_grad:
            return
        if method == "loss" or total.ndim == 0:
            values = (
                [float(x.detach()) for x in output] if isinstance(output, tuple) else [float(total.detach())]
            )
            self.event("result", call=number, values=values)
            total.register_hook(  # type: ignore[no-untyped-call]
                lambda back: self.event("backward", call=number, seed=float(back), carried=self._carried())
            )
            return

        def hook(back: Tensor) -> None:
            if total.numel() <= _WHOLE_OUTPUT:
                refs = {"output": self.tensor(total), "gradient": self.tensor(back)}
            else:
                refs = {}
            if total.ndim > 1 and total.shape[-1] > 1:
                targets, weights = recover_targets(total, back)
                refs |= {"targets": self.tensor(targets), "weights": self.tensor(weights)}
            self.event("backward", call=number, carried=self._carried(), **refs)

        total.register_hook(hook)  # type: ignore[no-untyped-call]

    def _carried(self) -> int:
        """How many parameters hold a gradient when a backward pass begins."""
        assert self._trained is not None  # noqa: S101 - something was called
        gradients = [parameter.grad for parameter in self._trained.parameters()]
        return sum(1 for gradient in gradients if gradient is not None and bool(gradient.any()))

    # --- the optimizer

    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Hook: the gradients as the optimizer finds them."""
        if hasattr(optimizer, "optimizer") or self._trained is None:  # a wrapper of the one that steps
            return
        named = list(self._trained.named_parameters())
        names = {id(parameter): name for name, parameter in named}
        groups = []
        for group in optimizer.param_groups:
            held = group["params"]
            settings = {k: v if isinstance(v, (int, float, bool, str, tuple, list, type(None))) else float(v)
                        for k, v in group.items() if k != "params" and not callable(v)}  # fmt: skip
            groups.append(
                settings
                | {
                    "names": [names[id(p)] for p in held if id(p) in names],
                    "strangers": [list(p.shape) for p in held if id(p) not in names],
                }
            )
        gradients = [(name, parameter.grad) for name, parameter in named]
        present = [gradient for _, gradient in gradients if gradient is not None]
        self._before = {name: sample(parameter) for name, parameter in named}
        self.event(
            "gradients",
            optimizer=type(optimizer).__name__,
            module=type(optimizer).__module__,
            groups=groups,
            again=self._optimizers_since_call,
            missing=[name for name, gradient in gradients if gradient is None],
            norms=[float(g.detach().double().norm()) if g is not None else 0.0 for _, g in gradients],
            samples=[self.tensor(sample(g)) if g is not None else None for _, g in gradients],
            before=[self.tensor(sample(parameter)) for _, parameter in named],
            moments=self._moments(optimizer),
            finite=all(bool(g.isfinite().all()) for g in present),
            rank=torch.distributed.get_rank() if _is_distributed() else 0,
        )

    def _moments(self, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
        assert self._trained is not None  # noqa: S101 - asked for after a call
        moments: dict[str, dict[str, Any]] = {}
        for name, parameter in self._trained.named_parameters():
            state = optimizer.state.get(parameter) or {}
            moments[name] = {
                kind: self.tensor(sample(value)) if value.shape == parameter.shape else float(value)
                for kind, value in state.items()
                if isinstance(value, Tensor) and (value.shape == parameter.shape or value.numel() == 1)
            }
        return moments

    def after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Hook: the parameters and moments as the optimizer leaves them; ends the program when due."""
        if hasattr(optimizer, "optimizer") or self._trained is None:
            return
        named = list(self._trained.named_parameters())
        self.event(
            "updated",
            samples=[self.tensor(sample(parameter)) for _, parameter in named],
            sums=[bit_sum(parameter) for _, parameter in named],
            moments=self._moments(optimizer),
        )
        self._optimizers_since_call += 1
        if self._calls_since_step == 0:
            return
        self._calls_since_step = 0
        self._saw_no_grad = False
        self._steps += 1
        if self._steps == self._crash_after:
            self._end(CRASHED)
        if self._steps == self._terminate_after:
            os.kill(os.getpid(), signal.SIGTERM)
        limit = self._terminate_after or self._most_steps
        if self._steps >= limit + _MOST_STEPS_AFTER_TERM:
            self._end(IGNORED_TERM)

    def _end(self, code: int) -> None:
        self.event("ended", code=code)
        os._exit(code)


def _is_distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def attach(directory: Path) -> None:
    """Record this process into ``directory``."""
    recorder = Recorder(directory)
    create = nn.Module.__init__

    def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        create(self, *args, **kwargs)
        if type(self).__name__ == recorder._class_name:  # noqa: SLF001
            recorder.wrap(type(self))

    nn.Module.__init__ = __init__  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(recorder.before_step)
    register_optimizer_step_post_hook(recorder.after_step)
    os.register_at_fork(after_in_child=recorder.forked)
    atexit.register(lambda: recorder.event("ended", code=None) if recorder._events else None)  # noqa: SLF001
