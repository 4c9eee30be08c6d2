"""The test bench of an untrained classifier or regressor: the model, and rows to drive it with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.supervised.dataset import Dataset

if TYPE_CHECKING:
    import torch
    from torch import nn


class RowBench:
    """One smoke. Everything is built at most once, the first time a probe asks for it.

    Probes that look for connections use ``redrawn`` weights: a projection that starts at zero, which
    is good practice, would hide a whole branch from them.
    """

    def __init__(
        self, artifact: Artifact, dataset: Dataset, *, target_params: int | None = None, seed: int = 0
    ) -> None:
        self.artifact = artifact
        self.dataset = dataset
        self.target_params = target_params
        self.seed = seed
        self._broken: Unusable | None = None

    def model(self) -> nn.Module:
        """The model as its author initialises it, scaled as in training, in eval mode. Raises Unusable."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._model
        except Unusable as error:
            self._broken = error  # a broken import is not tried once per probe
            raise

    @cached_property
    def _model(self) -> nn.Module:
        return self.build(self.seed)

    def build(self, seed: int, *, scaled: bool = True) -> nn.Module:
        """A new instance in eval mode on the CPU. Raises Unusable."""
        model = self.artifact.build(seed).cpu().eval()
        if scaled:
            self._scale(model)
        return model

    def _scale(self, model: nn.Module) -> None:
        """What train.py does before the first step: the manifest's statistics become buffers."""
        import torch

        set_scaling = getattr(model, "set_scaling", None)
        if not callable(set_scaling):
            return
        inputs = self.dataset.manifest.scaling
        numbers = (*((inputs.mean, inputs.std) if inputs else (0.0, 1.0)), *self.dataset.target_scaling)
        with self.artifact.foreign_code("set_scaling()"), torch.no_grad():
            set_scaling(*(torch.tensor(number, dtype=torch.float32) for number in numbers))

    def redrawn(self, seed: int, dtype: torch.dtype | None = None, gain: float = 1.0) -> nn.Module:
        """An instance whose weights have variance gain² / fan-in; biases and gates are shifted a little."""
        import torch

        model = self.build(self.seed).to(dtype)
        generator = torch.Generator().manual_seed(self.seed + seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                if parameter.ndim > 1:
                    parameter.copy_(gain * noise / max(1, parameter[0].numel()) ** 0.5)
                else:
                    parameter.add_(0.1 * noise)
        return model

    @cached_property
    def instrument(self) -> tuple[nn.Module, float]:
        """A redrawn model in float64, and the share of its largest output that is rounding; else float32."""
        import torch

        model = self.redrawn(seed=1, dtype=torch.float64)
        inputs, _ = self.batch(4)
        try:
            with torch.no_grad():
                self.outputs(model, self.typed(inputs, torch.float64))
        except Unusable:  # a cast or a kernel that knows no float64
            return self.redrawn(seed=1), 1e-4
        return model, 1e-9

    def typed(self, inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Features in another precision; token ids stay what they are."""
        return inputs if self.dataset.is_tokens else inputs.to(dtype)

    def like(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs in the precision of the model."""
        import torch

        return self.typed(
            inputs, next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        )

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of training rows, every class among them. Raises Unusable."""
        import numpy as np
        import torch

        rows = self.dataset.rows(Split.TRAIN)
        order = np.random.default_rng(self.seed).permutation(len(rows))
        if self.dataset.is_classification:  # one class after the other, then the second row of each, …
            rank = np.zeros(len(rows), dtype=np.int64)
            for label in np.unique(rows.targets):
                of_class = order[rows.targets[order] == label]
                rank[of_class] = np.arange(len(of_class))
            order = order[np.argsort(rank[order], kind="stable")]
        chosen = order[:count]
        return torch.from_numpy(rows.inputs[chosen]), torch.from_numpy(rows.targets[chosen])

    def outputs(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Finite logits ``(B, C)``, or values ``(B,)``; noise such as dropout is drawn from one seed.

        Raises:
            Unusable: the forward pass raised, or what it returned is no such tensor.
        """
        import torch

        torch.manual_seed(self.seed)
        outputs = forward(self.artifact, self.dataset, model, inputs)
        if not bool(torch.isfinite(outputs).all()):
            raise Unusable(f"forward of {tuple(inputs.shape)} gives outputs that are not finite")
        return outputs

    def row_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats, or squared error in target deviations, per row ``(B,)``."""
        return row_losses(self.dataset, outputs, targets)

    @cached_property
    def chance_loss(self) -> float:
        """What a constant prediction costs on the training rows: the entropy of the classes, or 1."""
        return constant_loss(self.dataset)


def forward(artifact: Artifact, dataset: Dataset, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Logits ``(B, C)``, or values ``(B,)``, of any floating type. Raises Unusable."""
    import torch

    with artifact.foreign_code(f"forward(inputs of shape {tuple(inputs.shape)})"):
        outputs: Any = model(inputs)
    if not isinstance(outputs, torch.Tensor):
        raise Unusable(f"forward returned a {type(outputs).__name__}, expected a tensor")
    batch = len(inputs)
    if dataset.is_classification:
        expected = f"({batch}, {dataset.num_classes})"
        fits = outputs.shape == (batch, dataset.num_classes)
    else:
        expected = f"({batch},) or ({batch}, 1)"
        fits = outputs.shape in {(batch,), (batch, 1)}
        outputs = outputs.reshape(-1) if fits else outputs
    if not fits:
        raise Unusable(
            f"forward of {tuple(inputs.shape)} returned {tuple(outputs.shape)}, expected {expected}"
        )
    result: torch.Tensor = outputs
    return result


def row_losses(dataset: Dataset, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, or squared error in units of the target's standard deviation, ``(B,)``."""
    import torch.nn.functional as F

    if dataset.is_classification:
        losses: torch.Tensor = F.cross_entropy(outputs, targets, reduction="none")
        return losses
    return (outputs - targets).div(dataset.target_scaling[1]).square()


def constant_loss(dataset: Dataset) -> float:
    """The entropy of the training classes in nats, or the variance of the scaled training targets."""
    import numpy as np

    targets = dataset.rows(Split.TRAIN).targets
    if dataset.is_classification:
        shares = np.bincount(targets, minlength=dataset.num_classes) / len(targets)
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())
    return float(targets.astype(np.float64).var()) / dataset.target_scaling[1] ** 2
