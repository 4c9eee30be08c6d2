"""The test bench: the model under test, built as the probes need it, and inputs to drive it with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters, judge_device
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.evaluation import logits_of, token_losses

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.anatomy import Anatomy
    from ml_intern_cli.judge.probes.learning import Overfitted

_WORK_PER_FORWARD = 3.2e9  # parameters x tokens: less than a second on two CPU cores, in float64


@dataclass(frozen=True, slots=True)
class Instrument:
    """A redrawn model, and the difference between two of its logits that counts as none."""

    model: nn.Module
    tolerance: float  # share of the largest logit


class Bench:
    """One smoke. Everything is built at most once, the first time a probe asks for it.

    Probes that look for *connections* (can this token move that logit? does this weight get a
    gradient?) use ``redrawn`` weights: a projection that starts at zero, which is good practice,
    would hide a whole branch from them.
    """

    def __init__(self, artifact: Artifact, corpus: Corpus, *, target_params: int, seed: int = 0) -> None:
        self.artifact = artifact
        self.corpus = corpus
        self.target_params = target_params
        self.seed = seed
        self._broken: Unusable | None = None

    def model(self) -> nn.Module:
        """The model as its author initialises it, in eval mode. Raises Unusable."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._model
        except Unusable as error:
            self._broken = error  # a broken import is not tried once per probe
            raise

    @cached_property
    def _model(self) -> nn.Module:
        return self.artifact.build(self.seed).eval()

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, and the defaults of the configuration class where it says nothing. Raises Unusable."""
        fields = getattr(self._config_class(), "__dataclass_fields__", {}).values()
        defaults = {one.name: one.default for one in fields if one.default is not dataclasses.MISSING}
        return defaults | self.artifact.config

    def _config_class(self) -> object:
        """The path's configuration class."""
        return getattr(self.artifact.module, f"{self.artifact.config.get('_model_class')}Config", None)

    @cached_property
    def length(self) -> int:
        """Tokens per probe sequence: the training window, shorter for large models."""
        affordable = int(_WORK_PER_FORWARD / max(1, count_parameters(self.model())))
        return min(self.artifact.seq_len, max(32, min(256, affordable)))

    @cached_property
    def vocab_size(self) -> int:
        """Size of the model's output, from a forward pass of one token. Raises Unusable."""
        import torch

        with torch.no_grad():
            return int(
                self.logits(self.model(), torch.zeros(1, 1, dtype=torch.int64, device=judge_device())).shape[
                    -1
                ]
            )

    def logits(self, model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
        """Finite logits ``(B, T, V)``; noise such as dropout is drawn from the same seed every time."""
        import torch

        torch.manual_seed(self.seed)
        logits = logits_of(self.artifact, model, input_ids)
        if not bool(torch.isfinite(logits).all()):
            raise Unusable(f"forward of {tuple(input_ids.shape)} gives logits that are not finite")
        return logits

    def random_ids(self, batch: int, *, seed: int = 0) -> torch.Tensor:
        """Uniform tokens ``(batch, length)``, the same for the same seed."""
        import torch

        generator = torch.Generator().manual_seed(self.seed + seed)
        high = min(self.vocab_size, self.corpus.vocab_size)
        return torch.randint(high, (batch, self.length), generator=generator).to(judge_device())

    def text(self, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each ``(batch, length)``, from the training text. Raises Unusable."""
        import torch

        windows = self.corpus.stream(Split.TRAIN).windows(length + 1, limit=batch, spread=True)
        if len(windows) < batch:
            raise Unusable(f"the training split has fewer than {batch} windows of {length + 1} tokens")
        tokens = torch.from_numpy(windows).to(judge_device())
        return tokens[:, :-1], tokens[:, 1:]

    def objective(
        self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What train.py minimises and what it logs: ``model.loss`` where there is one. Raises Unusable."""
        import torch

        if not callable(getattr(model, "loss", None)):
            loss = token_losses(logits_of(self.artifact, model, inputs), targets).mean()
            return loss, loss
        with self.artifact.foreign_code(f"loss() of {tuple(inputs.shape)}"):
            total, cross_entropy = model.loss(inputs, targets)  # type: ignore[operator]  # found callable above
        if not isinstance(total, torch.Tensor) or not isinstance(cross_entropy, torch.Tensor):
            raise Unusable("loss() does not return two tensors (total, cross_entropy)")
        return total, cross_entropy

    def redrawn(self, seed: int, dtype: torch.dtype | None = None) -> nn.Module:
        """A new instance with every weight drawn anew, so that no branch starts closed. Raises Unusable.

        Matrices get the variance 1 / fan-in, which keeps signals near one; norms, gates and biases
        are shifted a little from where they start.
        """
        import torch

        model = self.artifact.build(self.seed).eval().to(dtype)
        generator = torch.Generator().manual_seed(self.seed + seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                if parameter.ndim > 1:
                    parameter.copy_(noise / parameter.shape[-1] ** 0.5)
                else:
                    parameter.add_(0.1 * noise)
        return model

    @cached_property
    def drawn(self) -> nn.Module:
        """A redrawn model in float32, for probes that leave it as it is. Raises Unusable."""
        return self.redrawn(seed=1)

    @cached_property
    def instrument(self) -> Instrument:
        """In float64, where rounding cannot be taken for a leak; in float32 for models that need it.

        Mixtures of experts sum in an order that depends on their neighbours: about 1e-7 in float32
        and 1e-16 in float64, against 1e-3 and more for any true connection between redrawn weights.
        """
        import torch

        model = self.redrawn(seed=1, dtype=torch.float64)
        try:
            with torch.no_grad():
                self.logits(model, self.random_ids(2))
        except Unusable:  # a cast or a kernel that knows no float64
            return Instrument(self.drawn, tolerance=1e-4)
        return Instrument(model, tolerance=1e-5)

    @cached_property
    def anatomy(self) -> Anatomy:
        """How the model is built, seen on the instrument. Raises Unusable."""
        from ml_intern_cli.judge.probes.anatomy import Anatomy

        return Anatomy(self, self.instrument.model)

    @cached_property
    def overfitted(self) -> Overfitted:
        """A model trained on one batch. Raises Unusable."""
        from ml_intern_cli.judge.probes.learning import overfit

        return overfit(self)
