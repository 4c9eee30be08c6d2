"""The optimizer steps of a rehearsal, and how closely they are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.supervised.rehearsal.rehearse import Event

LOOKED_AT = 5  # steps whose gradients are recomputed
CLOSE = 2e-3  # relative


def whole_steps(bench: RehearsalBench, process: int = 0) -> list[Event]:
    """Steps kept with gradients and weights. Raises Unusable when there are none."""
    steps = [event for event in bench.whole.steps(process) if "settings" in event.words]
    if not steps:
        raise Unusable("no optimizer step was recorded")
    return steps


def named(event: Event, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of an event whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value for name, value in event.tensors.items() if name.startswith(prefix)
    }
