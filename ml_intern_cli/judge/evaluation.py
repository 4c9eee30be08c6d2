"""Cross-entropy, computed by the judge from the logits and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Artifact, Unusable, judge_device

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.corpus import Tokens

_LOGITS_PER_BATCH = 1 << 24  # 64 MiB in fp32
_ROWS_PER_BATCH = 16


@dataclass(frozen=True, slots=True)
class LossEstimate:
    """A mean over windows, in nats per token."""

    mean: float
    standard_error: float  # of the mean, from the spread between windows
    tokens: int

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.mean)


def logits_of(
    artifact: Artifact, model: Callable[[torch.Tensor], Any], input_ids: torch.Tensor
) -> torch.Tensor:
    """The logits ``(B, T, V)`` of ``input_ids`` ``(B, T)``, however the model hands them over.

    Raises:
        Unusable: the forward pass raised, or what it returned is no such tensor.
    """
    import torch

    batch, length = input_ids.shape
    with artifact.foreign_code(f"forward(input_ids of shape ({batch}, {length}))"):
        output: Any = model(input_ids)
        if not isinstance(output, torch.Tensor):
            output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 3 or output.shape[:2] != (batch, length):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise Unusable(f"forward of ({batch}, {length}) returned {shape}, expected ({batch}, {length}, V)")
    return output


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy ``(B, T)`` in nats of logits ``(B, T, V)`` against targets ``(B, T)``."""
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view(
        targets.shape
    )


def evaluate(
    artifact: Artifact,
    model: Callable[[torch.Tensor], Any],
    windows: Tokens,
    *,
    vocab_size: int,
    progress: Callable[[int], None],
) -> LossEstimate:
    """The loss over windows ``(N, T + 1)``; ``progress`` gets how many are done. Raises Unusable."""
    import torch

    if len(windows) == 0:
        raise Unusable("the split is shorter than one window")
    device = judge_device()
    means = []
    rows = max(1, min(_ROWS_PER_BATCH, _LOGITS_PER_BATCH // (windows.shape[1] * vocab_size)))
    with torch.inference_mode():
        for start in range(0, len(windows), rows):
            progress(start)
            batch = torch.from_numpy(windows[start : start + rows]).to(device)
            losses = token_losses(logits_of(artifact, model, batch[:, :-1]), batch[:, 1:])
            means.append(losses.double().mean(dim=1).cpu())
    window_means = torch.cat(means)
    spread = float(window_means.std()) if len(window_means) > 1 else 1.0
    return LossEstimate(
        mean=float(window_means.mean()),
        standard_error=spread / math.sqrt(len(window_means)),
        tokens=len(windows) * (windows.shape[1] - 1),
    )
