"""Which module is to blame: the outputs of all modules in the order they end, compared between two runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.audit.bench import AuditBench

if TYPE_CHECKING:
    import torch

Trace = list[tuple[str, "torch.Tensor"]]


def traced(bench: AuditBench, input_ids: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, Trace]:
    """Logits ``(B, T, V)`` and the outputs ``(B, T, …)`` of every module, the innermost first."""
    import torch

    outputs: Trace = []
    shape = input_ids.shape

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) and output else output
            if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.shape[:2] == shape:
                outputs.append((name, value.detach().float()))

        return hook

    handles = [
        module.register_forward_hook(keep(name)) for name, module in bench.model.named_modules() if name
    ]
    try:
        return bench.logits(input_ids, **arguments), outputs
    finally:
        for handle in handles:
            handle.remove()


def first_moved(base: Trace, changed: Trace, of_base: Any, of_changed: Any, *, allowed: float) -> str:
    """The first module whose outputs differ where they should not; empty when none does.

    Args:
        base: Of one run.
        changed: Of the other.
        of_base: An index into ``(B, T, …)``: what should be the same.
        of_changed: The same things in the other run.
        allowed: Difference, as a share of an output's largest number.
    """
    for (name, one), (other_name, other) in zip(base, changed, strict=False):
        if name != other_name:
            return ""
        scale = float(one.abs().max()) or 1.0
        here, there = one[of_base], other[of_changed]
        if here.shape == there.shape and float((here - there).abs().max()) > allowed * scale:
            return name
    return ""
