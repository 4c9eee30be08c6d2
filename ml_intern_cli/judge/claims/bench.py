"""The bench of the claims: the trained model in its host, the claims, the data, and losses by window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters, read_checkpoint
from ml_intern_cli.judge.checks.loss import Losses
from ml_intern_cli.judge.checks.yardstick import Text
from ml_intern_cli.judge.confinement.hosted import HostedModel
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.evaluation import token_losses
from ml_intern_cli.judge.records import Records
from ml_intern_cli.judge.reference import NGramReference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ml_intern_cli.judge.corpus import Tokens

    Floats = npt.NDArray[np.float64]

_WORK = 2e10  # parameters x tokens per measurement: 20,000 tokens at 1M
_LEAST_TOKENS, _MOST_TOKENS = 2_000, 20_000
_LOGITS_PER_BATCH = 1 << 24
_ROWS_PER_BATCH = 16
_REFERENCE_TOKENS = 100_000


@dataclass(frozen=True)
class ClaimBench:
    """One verification. Weights that a probe changes are put back with ``restore``."""

    artifact: Artifact
    corpus: Corpus
    records: Records
    trainer: HostedModel
    judged: HostedModel
    checkpoint: str  # the folder below ckpts/ whose weights are judged
    losses: Losses | None
    broken: str  # why there is no model or no loss; empty when there are both
    seed: int
    reference: NGramReference
    written: tuple[Text, ...] = ()  # the judge's own samples
    before: Mapping[str, str] = field(default_factory=dict)  # file → SHA-256 before the author's programs ran
    train_s: float | None = None  # seconds of training as measured by whoever started it

    @property
    def model(self) -> HostedModel:
        """The model with the checkpoint in it, in the host that looks like training. Raises Unusable."""
        if self.broken:
            raise Unusable(self.broken.removeprefix("not run: "))
        return self.trainer

    @property
    def measured(self) -> Losses:
        """What the judge measured. Raises Unusable."""
        if self.losses is None:
            raise Unusable(self.broken.removeprefix("not run: ") or "no loss could be measured")
        return self.losses

    def setting(self, name: str) -> int | None:
        """A whole number of train_config.json, where it has one."""
        value = self.settings.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def number(self, name: str) -> float | None:
        """A number of train_config.json, where it has one."""
        value = self.settings.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @cached_property
    def settings(self) -> dict[str, object]:
        """train_config.json; empty when there is none."""
        try:
            return self.artifact.train_config
        except Unusable:
            return {}

    @property
    def windows_per_step(self) -> int | None:
        """Training windows of one optimizer step, where train_config.json tells."""
        micro_batch, accumulation = self.setting("micro_batch"), self.setting("accumulation")
        return micro_batch * accumulation if micro_batch and accumulation else None

    @cached_property
    def num_windows(self) -> int:
        """Windows that one measurement can afford."""
        tokens = _WORK / max(1, count_parameters(self.model))
        return max(8, int(min(_MOST_TOKENS, max(_LEAST_TOKENS, tokens))) // self.artifact.seq_len)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The judged checkpoint. Raises Unusable."""
        return read_checkpoint(self.artifact, self.checkpoint)

    def restore(self) -> None:
        """Puts the judged weights back."""
        self.trainer.load(self.weights)

    def windows(self, split: Split, count: int, *, spread: bool = True) -> Tokens:
        """At most ``count`` windows ``(N, T + 1)`` of a split."""
        stream = self.corpus.stream(split)
        length = min(self.artifact.seq_len, max(1, len(stream) - 1))
        return stream.windows(length + 1, limit=max(1, count), spread=spread)

    def window_losses(
        self, windows: Tokens, *, train: bool = False, seed: int | None = None, shift: int = 1
    ) -> Floats:
        """Mean cross-entropy ``(N,)`` of each window ``(N, T + 1)``, in nats per token.

        Args:
            windows: Token ids.
            train: In train mode, with whatever noise that has.
            seed: Of that noise.
            shift: Which token is predicted at each place: 1 is the next.
        """
        import numpy as np
        import torch

        model, means = self.model, []
        rows = max(1, min(_ROWS_PER_BATCH, _LOGITS_PER_BATCH // (windows.shape[1] * self.corpus.vocab_size)))
        for start in range(0, len(windows), rows):
            batch = torch.from_numpy(windows[start : start + rows])
            logits = model(batch[:, :-1], train=train, seed=seed)
            length = logits.shape[1]
            first, last = max(0, -shift), min(length, length + 1 - shift)
            losses = token_losses(logits[:, first:last], batch[:, first + shift : last + shift])
            means.append(losses.double().mean(dim=1).numpy())
        found: Floats = np.concatenate(means)
        return found

    @cached_property
    def is_noisy(self) -> bool:
        """Whether train mode computes something else than eval mode, as dropout does. Raises Unusable."""
        import torch

        ids = torch.from_numpy(self.windows(Split.TRAIN, 2)[:, :-1])
        in_eval, in_train = self.model(ids), self.model(ids, train=True, seed=self.seed)
        self.restore()
        return bool((in_eval - in_train).abs().max() > 1e-4 * in_eval.abs().max())

    @cached_property
    def train_losses(self) -> Floats:
        """By window of the training text, in train mode, as training logs them. Raises Unusable."""
        windows = self.windows(Split.TRAIN, self.num_windows)
        if not self.is_noisy:
            return self.window_losses(windows)
        losses = self.window_losses(windows, train=True, seed=self.seed)
        self.restore()
        return losses

    @cached_property
    def initial_losses(self) -> Floats:
        """By window of the training text, in train mode, of the weights that training starts from."""
        windows = self.windows(Split.TRAIN, self.num_windows // 4)
        try:
            self.trainer.build(self.setting("seed") or 0)
            return self.window_losses(windows, train=True, seed=self.seed)
        finally:
            self.trainer.build(0)
            self.restore()

    @cached_property
    def harder_by(self) -> float:
        """How much more an n-gram model of the training text pays for held-out text than for val."""

        def cost(split: Split) -> float:
            tokens = self.corpus.stream(split).read(0, _REFERENCE_TOKENS)
            return -float(self.reference.log_probs(tokens, history=[self.corpus.eos]).mean())

        return cost(Split.HELDOUT) - cost(Split.VAL)


def place_in(file: str, line: int) -> str:
    """``metrics.jsonl:12``."""
    return f"{file}:{line}"


def short(value: object) -> str:
    """A claimed value, fit for a verdict."""
    return json.dumps(value)[:80] if not isinstance(value, float) else f"{value:.6g}"
