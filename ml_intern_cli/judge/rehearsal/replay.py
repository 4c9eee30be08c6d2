"""The judge's own computation of every step that was recorded: losses, gradients, evaluations.

From the weights, the batch, the targets and the random numbers of the record; with the model of model.py
and nothing of train.py. What differs from the record was done by train.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.evaluation import logits_of, token_losses
from ml_intern_cli.judge.rehearsal.record import Call, Process, Step

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """One step as the judge computes it.

    Attributes:
        losses: What each micro-batch costs, in nats per token.
        totals: What is minimised, per micro-batch.
        gradients: Sampled, per micro-batch and parameter; of the micro-batch's own mean.
        norm: Of the mean of the micro-batches' gradients.
        counts: Targets per micro-batch.
    """

    losses: tuple[float, ...]
    totals: tuple[float, ...]
    gradients: tuple[tuple[torch.Tensor, ...], ...]
    norm: float
    counts: tuple[int, ...]

    def mean(self) -> list[torch.Tensor]:
        """The mean gradient over the micro-batches."""
        return [sum(parts[1:], parts[0]) / len(parts) for parts in zip(*self.gradients, strict=True)]


class Replay:
    """A model of the judge's that is put into recorded states."""

    def __init__(self, artifact: Artifact, *, seed: int = 0) -> None:
        self._artifact = artifact
        self.model: nn.Module = artifact.build(seed).to("cpu")

    def load(self, process: Process, call: Call) -> None:
        """Take the weights and buffers that a call found. Raises Unusable when they were not recorded."""
        import torch

        references = call.event.get("state")
        if not references:
            raise Unusable("the state of this step was not written down")
        own = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        with torch.no_grad():
            for name, reference in zip(process.tensor_names, references, strict=True):
                if name not in own:
                    raise Unusable(
                        f"train.py trains a tensor {name} that the model of model.py does not have"
                    )
                value = call.blob.read(reference)
                if value.shape != own[name].shape:
                    raise Unusable(
                        f"{name} has shape {list(value.shape)}, {list(own[name].shape)} in model.py"
                    )
                own[name].copy_(value)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in process.model["trainable"])

    def step(self, process: Process, step: Step, calls: tuple[Call, ...] | None = None) -> Recomputed:
        """The losses and gradients of a step in the state that its first call found. Raises Unusable."""
        from ml_intern_cli.judge.rehearsal.recorder import sample

        self.load(process, step.first)
        calls = calls or step.calls
        losses, totals, gradients, counts = [], [], [], []
        running: list[torch.Tensor] = []
        for call in calls:
            self.model.zero_grad(set_to_none=True)
            total, loss, count = self._backward(call)
            totals.append(total)
            losses.append(loss)
            counts.append(count)
            parts = [self._gradient(parameter) for parameter in self.model.parameters()]
            gradients.append(tuple(sample(part) for part in parts))
            running = [old + new for old, new in zip(running, parts, strict=True)] if running else parts
        norm = sum(float((part / len(calls)).double().square().sum()) for part in running) ** 0.5
        return Recomputed(
            losses=tuple(losses),
            totals=tuple(totals),
            gradients=tuple(gradients),
            norm=norm,
            counts=tuple(counts),
        )

    @staticmethod
    def _gradient(parameter: nn.Parameter) -> torch.Tensor:
        import torch

        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()

    def _backward(self, call: Call) -> tuple[float, float, int]:
        """Forward and backward of one training call; returns what is minimised, the loss, the tokens."""
        with self._surroundings(call):
            self.model.train(call.training_mode)
            with self._autocast(call):
                total, loss, count = self.loss(call)
            with self._artifact.foreign_code("the backward pass"):
                total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach()), float(loss.detach()), count

    def loss(self, call: Call) -> tuple[torch.Tensor, torch.Tensor, int]:
        """What is minimised, the cross-entropy in it, and over how many targets. Raises Unusable."""
        inputs = call.inputs()
        if call.method == "loss":
            with self._artifact.foreign_code("loss()"):
                output: Any = self.model.loss(*inputs)  # type: ignore[operator]
            total, cross_entropy = output if isinstance(output, tuple) else (output, output)
            return total, cross_entropy, inputs[-1].numel()
        targets = call.recovered("targets")
        if targets is None:
            raise Unusable("no cross-entropy flowed back into the model's output")
        logits = logits_of(self._artifact, self.model, inputs[0])
        counted = targets >= 0
        losses = token_losses(logits.float(), targets.clamp_min(0).view(logits.shape[:2]))
        loss = (losses.flatten() * counted).sum() / counted.sum().clamp_min(1)
        return loss, loss, int(counted.sum())

    def evaluation(
        self, process: Process, first: Call, calls: tuple[Call, ...], targets: list[torch.Tensor]
    ) -> tuple[float, int]:
        """The loss of evaluation calls in eval mode, with the true targets of each; and the tokens."""
        import torch

        self.load(process, first)
        self.model.eval()
        total, count = 0.0, 0
        for call, target in zip(calls, targets, strict=True):
            with self._surroundings(call), torch.no_grad(), self._autocast(call):
                part, size = self._evaluated_loss(call, target)
            total, count = total + part, count + size
        return total / max(1, count), count

    def _evaluated_loss(self, call: Call, targets: torch.Tensor) -> tuple[float, int]:
        """The summed loss of one call against its true targets, and how many they are."""
        logits = logits_of(self._artifact, self.model, call.inputs()[0])
        return float(token_losses(logits.float(), targets).double().sum()), targets.numel()

    def own_moves(self, process: Process, step: Step) -> dict[str, int]:
        """Tensors that the model's own after_optimizer_step() moves in a step, by their bit sums before.

        Plays the forward passes of the step first, since they may count in buffers.
        """
        import torch

        from ml_intern_cli.judge.rehearsal.recorder import bit_sum

        self.load(process, step.first)
        for call in step.calls:
            with self._surroundings(call), self._autocast(call):
                self.model.train(call.training_mode)
                self.loss(call)
        own = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        before = {name: bit_sum(tensor) for name, tensor in own.items()}
        with torch.no_grad(), self._artifact.foreign_code("after_optimizer_step()"):
            self.model.after_optimizer_step()  # type: ignore[operator]
        return {name: before[name] for name, tensor in own.items() if bit_sum(tensor) != before[name]}

    @staticmethod
    def _autocast(call: Call) -> AbstractContextManager[Any]:
        """The precision of the recorded forward pass; the backward pass follows it by itself."""
        import torch

        return torch.autocast("cpu", dtype=getattr(torch, call.autocast)) if call.autocast else nullcontext()

    @contextmanager
    def _surroundings(self, call: Call) -> Iterator[None]:
        """Random numbers, threads and determinism as in the recorded process."""
        import torch

        threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        state = torch.get_rng_state()
        rng = call.tensor("rng")
        try:
            torch.set_num_threads(int(call.event.get("threads", threads)))
            torch.use_deterministic_algorithms(bool(call.event.get("deterministic")))
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            if rng is not None:
                torch.set_rng_state(rng)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            torch.set_rng_state(state)
