"""What the probes of a rehearsal share: the record, and the judge's own reading of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.supervised.bench import RowBench, forward
from ml_intern_cli.judge.supervised.places import train_line
from ml_intern_cli.judge.supervised.rehearsal.rehearse import Event, Rehearsal, Start, rehearse

if TYPE_CHECKING:
    import torch
    from torch import nn

_LABEL_HYPOTHESES = ("mean", "sum", "flipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One step of one process, as the judge reads it."""

    step: int
    rows: list[int]  # indices into train; -1: no such row
    outputs: torch.Tensor  # (B, C), or (B,)
    own_targets: torch.Tensor  # of those rows
    used_targets: torch.Tensor  # that explain the gradient of the outputs best
    factor: str  # mean, sum, flipped
    residual: float  # what the configured loss leaves unexplained of that gradient, as a share


class RehearsalBench(RowBench):
    """A bench with a rehearsal, made at the first probe that asks for it."""

    _unrehearsed: Unusable | None = None

    @property
    def rehearsal(self) -> Rehearsal:
        """Raises Unusable."""
        if self._unrehearsed is not None:
            raise self._unrehearsed
        try:
            return self._rehearsal
        except Unusable as error:
            self._unrehearsed = error
            raise

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        return rehearse(self.artifact, self.dataset)

    @property
    def whole(self) -> Start:
        """The start that was let run, which took steps. Raises Unusable."""
        start = self.rehearsal.whole
        if not start.steps():
            raise Unusable(f"train.py took no step: it {start.ended.reason}")
        return start

    def place(self, kind: str = "step", *, depth: int = 0) -> str:
        """``train.py:LINE`` where the model is called to train (``forward``), to be evaluated, or stepped."""
        import json

        for events in self.whole.processes:
            for event in events:
                words = event.words.get("places", "[]")
                if kind == "forward" and event.kind == "step":
                    forwards = event.json("forwards") or [{}]
                    words = forwards[0].get("places", "[]")
                elif event.kind != kind:
                    continue
                places: list[str] = json.loads(words)
                if places:
                    return places[min(depth, len(places) - 1)]
        return "train.py"

    def line(self, *patterns: str) -> str:
        """``train.py:LINE`` for each pattern of code, once."""
        return ", ".join(dict.fromkeys(train_line(self.artifact, pattern) for pattern in patterns))

    def setting(self, name: str, default: float = 0.0) -> float:
        """A number of train_config.json."""
        value = self.artifact.train_config.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    @cached_property
    def row_index(self) -> dict[bytes, list[int]]:
        """Bytes of a training row → where it stands."""
        import numpy as np

        index: dict[bytes, list[int]] = {}
        for number, row in enumerate(np.ascontiguousarray(self.dataset.rows(Split.TRAIN).inputs)):
            index.setdefault(row.tobytes(), []).append(number)
        return index

    def rows_of(self, inputs: torch.Tensor) -> list[int]:
        """Indices of training rows ``(B, …)``; -1 where there is none."""
        import numpy as np

        dtype = self.dataset.manifest.inputs.dtype
        rows = np.ascontiguousarray(inputs.numpy().astype(dtype))
        return [self.row_index.get(row.tobytes(), [-1])[0] for row in rows]

    @cached_property
    def readings(self) -> list[list[Reading]]:
        """Per process, the steps that were kept whole."""
        return [
            [self._read(event) for event in self.whole.steps(process) if "settings" in event.words]
            for process in range(len(self.whole.processes))
        ]

    def _read(self, event: Event) -> Reading:
        import torch

        count = len(event.json("forwards") or [])
        parts = [index for index in range(count) if f"{index}.output_grad" in event.tensors]
        if not parts or any(f"{index}.inputs" not in event.tensors for index in parts):
            raise Unusable("no forward pass with a gradient was seen before an optimizer step")
        inputs = torch.cat([event.tensors[f"{index}.inputs"] for index in parts])
        outputs = torch.cat([event.tensors[f"{index}.outputs"] for index in parts]).float()
        gradient = torch.cat([event.tensors[f"{index}.output_grad"] for index in parts]).float()
        if not self.dataset.is_classification:
            outputs, gradient = outputs.reshape(-1), gradient.reshape(-1)
        rows = self.rows_of(inputs)
        targets = torch.from_numpy(self.dataset.rows(Split.TRAIN).targets)
        own = targets[torch.tensor([max(0, row) for row in rows])]
        scales = {"mean": 1.0 / len(rows), "sum": 1.0, "flipped": -1.0 / len(rows)}
        found = {name: self._explain(outputs, gradient, own, scale) for name, scale in scales.items()}
        factor = min(found, key=lambda name: found[name][1] + (0.01 if name != "mean" else 0.0))
        used, residual = found[factor]
        return Reading(
            step=int(event.words["step"]),
            rows=rows,
            outputs=outputs,
            own_targets=own,
            used_targets=used,
            factor=factor,
            residual=residual,
        )

    def _explain(
        self, outputs: torch.Tensor, gradient: torch.Tensor, own: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, float]:
        """The targets that make the configured loss's gradient most like the recorded one, and what is left.

        Cross-entropy: d/dz = scale (softmax(z) - t); squared error: 2 scale (z - y) / std².
        """
        import torch

        size = max(float(gradient.norm()), 1e-12)
        if not self.dataset.is_classification:
            std = self.dataset.target_scaling[1]
            used = outputs - gradient * std**2 / (2 * scale)
            expected = 2 * scale * (outputs - own) / std**2
            return used, float((gradient - expected).norm()) / size
        classes = self.dataset.num_classes
        smoothing = self.setting("label_smoothing")
        implied = torch.softmax(outputs, -1) - gradient / scale  # the smoothed one-hot targets
        used = implied.argmax(-1)
        target = torch.nn.functional.one_hot(used, classes) * (1 - smoothing) + smoothing / classes
        expected = scale * (torch.softmax(outputs, -1) - target)
        return used, float((gradient - expected).norm()) / size

    def own_loss(self, reading: Reading, targets: torch.Tensor) -> float:
        """The training loss of a batch."""
        import torch.nn.functional as F

        if not self.dataset.is_classification:
            return float(self.row_losses(reading.outputs, targets).mean())
        smoothing = self.setting("label_smoothing")
        return float(F.cross_entropy(reading.outputs, targets, label_smoothing=smoothing))

    def own_gradients(self, process: int, number: int) -> dict[str, torch.Tensor]:
        """Gradients of one recorded batch, from the recorded gradient of its outputs, before any clipping."""
        import torch

        events = self.whole.processes[process]
        steps = self.whole.steps(process)
        event = steps[number]
        before = self._before(events, steps, number)
        model = self.build(self.seed)
        own = model.state_dict()
        missing = [name for name in own if name not in before and name in dict(model.named_parameters())]
        if missing:
            raise Unusable(f"train.py trains another model: it has no {missing[0]}")
        model.load_state_dict({name: value for name, value in before.items() if name in own}, strict=False)
        model.train()
        for index, mode in enumerate(event.json("forwards")):
            if f"{index}.output_grad" not in event.tensors:
                continue
            self._set_modes(model, mode)
            torch.set_rng_state(event.tensors[f"{index}.rng"])
            outputs = forward(self.artifact, self.dataset, model, event.tensors[f"{index}.inputs"])
            gradient = event.tensors[f"{index}.output_grad"].reshape(outputs.shape)
            with self.artifact.foreign_code("the backward pass"):
                outputs.backward(gradient)  # type: ignore[no-untyped-call]
        return {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    def _set_modes(self, model: nn.Module, mode: dict[str, str]) -> None:
        import json

        model.train(mode["training"] == "True")
        modules = dict(model.named_modules())
        for name in json.loads(mode["odd"]):
            if name in modules:
                modules[name].training = mode["training"] != "True"

    @staticmethod
    def _before(events: list[Event], steps: list[Event], number: int) -> dict[str, torch.Tensor]:
        """The state before a step: as it started, or after the step before."""
        if number == 0:
            return next(event.tensors for event in events if event.kind == "start")
        return {
            name.removeprefix("after:"): value
            for name, value in steps[number - 1].tensors.items()
            if name.startswith("after:")
        }

    def expected_gradients(self, number: int) -> dict[str, torch.Tensor]:
        """What the optimizer should get: the mean over processes, clipped as train_config.json says."""
        every = [self.own_gradients(process, number) for process in range(len(self.whole.processes))]
        return {name: sum(one[name] for one in every) / len(every) for name in every[0]}  # type: ignore[misc]

    def clipped(self, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scaled down to ``grad_clip``; 0 is off."""
        limit, norm = self.setting("grad_clip"), total_norm(gradients)
        factor = min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0
        return {name: value * factor for name, value in gradients.items()}


def total_norm(gradients: dict[str, torch.Tensor]) -> float:
    """Of all tensors together."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> tuple[float, str]:
    """Relative distance over the tensors of ``first``, and the one that differs most."""
    squares, worst = 0.0, (0.0, "")
    for name, value in first.items():
        other = second.get(name)
        away = value.double() if other is None else value.double() - other.double()
        square = float(away.square().sum())
        squares += square
        worst = max(worst, (square, name))
    return math.sqrt(squares) / max(total_norm(first), 1e-12), worst[1]
