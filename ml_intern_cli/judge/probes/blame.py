"""Which module is to blame: the innermost whose inputs are as they should be and whose outputs are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probes.recording import Call, recording

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

Differs = Callable[["torch.Tensor", "torch.Tensor"], bool]


def culprit(
    bench: Bench,
    model: nn.Module,
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    differs: Differs,
    other: nn.Module | None = None,
    second_seed: int = 0,
) -> str:
    """The innermost module that makes two forward passes differ, in the order of execution.

    Args:
        bench: Where the model runs.
        model: The model.
        first: Tokens ``(B, T)``.
        second: Tokens, as many rows or as many tokens.
        differs: Whether two tensors differ where they must not.
        other: The model for ``second``, when it is another one.
        second_seed: What noise is drawn from in the second pass; it is 0 in the first.
    """
    before = _calls(bench, model, first)
    after = _calls(bench, other or model, second, seed=second_seed)
    counterpart = {(call.name, call.occasion): call for call in after}
    for call in before:
        twin = counterpart.get((call.name, call.occasion))
        if twin is None:
            continue
        if _differ(call.outputs, twin.outputs, differs) and not _differ(call.inputs, twin.inputs, differs):
            return module_name(model, call.name)
    return type(model).__name__


def module_name(model: nn.Module, name: str) -> str:
    """The module's name; the class for the model itself, which has none."""
    return name or type(model).__name__


def moved_before(position: int, tolerance: float) -> Differs:
    """Whether tensors of one row differ before ``position``: ``(1, T, …)``, or ``(T, …)`` laid flat.

    The two may be of different length T. Tensors without a time axis tell nothing.
    """

    def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
        if not a.is_floating_point() or a.ndim < 2:
            return False
        if a.ndim > 2 and a.shape[0] == 1 and a.shape[2:] == b.shape[2:]:
            a, b = a[0], b[0]
        if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < position:
            return False
        return _moved(a[:position], b[:position], scale=a, tolerance=tolerance)

    return differs


def moved_row(length: int, tolerance: float, *, row: int) -> Differs:
    """Whether a row (0 or -1) differs, in tensors ``(B, T, …)`` and ``(B * T, …)`` of perhaps another B."""

    def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
        if not a.is_floating_point() or a.ndim < 2:
            return False
        if a.ndim > 2 and a.shape[1] == b.shape[1] == length:
            a, b = a[row], b[row]
        elif a.shape[0] % length or b.shape[0] % length:
            return False
        else:
            a, b = (rows.reshape(-1, length, *rows.shape[1:])[row] for rows in (a, b))
        if a.shape != b.shape:
            return False
        return _moved(a, b, scale=a, tolerance=tolerance)

    return differs


def unequal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are not the same numbers."""
    return not a.equal(b)


def code_place(text: str) -> str:
    """``model.py:41`` out of an exception's description; empty when it names no line."""
    found = re.search(r"\b(\w+\.py:\d+)\b", text)
    return found[1] if found else ""


def first_not_finite(bench: Bench, model: nn.Module, ids: torch.Tensor) -> str:
    """The first module that makes NaN or infinity out of numbers; empty when there is none."""
    for call in _calls(bench, model, ids):
        if any(map(_broken, call.outputs)) and not any(map(_broken, call.inputs)):
            return module_name(model, call.name)
    return ""


def strongest(bench: Bench, model: nn.Module, ids: torch.Tensor) -> str:
    """What makes a model's signals large: the module that amplifies most, or the one that widens the logits.

    Modules without children are compared by the root mean square of what comes out over what goes in, the
    embedding by what comes out; normalisations set their own scale and are passed over.
    """
    loudest, name = 1.0, ""
    for call in _calls(bench, model, ids):
        out = [one for one in call.outputs if one.is_floating_point()]
        weights = [one for one in call.module.parameters(recurse=False) if one.ndim > 1]
        if not out or not weights:
            continue
        into = [one for one in call.inputs if one.is_floating_point()]
        gain = _rms(out[0]) / (_rms(into[0]) if into else 1.0)
        if gain > loudest:
            loudest, name = gain, call.name
    return (
        f"{name}.weight"
        if name and hasattr(model.get_submodule(name), "weight")
        else module_name(model, name)
    )


def whole_module(model: nn.Module, names: list[str]) -> str:
    """The largest module that these parameters make up; the first of them, when they make up none.

    Of several such modules, the one with the most parameters counts; of equals, the first.
    """
    blamed = set(names)
    best, most = (names[0] if names else ""), 1
    for name, module in model.named_modules():
        inside = [f"{name}.{one}" if name else one for one, _ in module.named_parameters()]
        if len(inside) > most and name and blamed.issuperset(inside):
            best, most = name, len(inside)
    return best


def unregistered(model: nn.Module) -> str:
    """The first attribute that holds tensors or modules which the model does not know of; empty without."""
    import torch

    def holds_state(value: object) -> bool:
        if isinstance(value, (list, tuple)):
            return any(map(holds_state, value))
        if isinstance(value, dict):
            return any(map(holds_state, value.values()))
        return isinstance(value, (torch.Tensor, torch.nn.Module))

    own = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            known = isinstance(value, (list, tuple)) and all(id(one) in own for one in value)
            if not attribute.startswith("_") and not known and holds_state(value):
                return f"{name}.{attribute}" if name else attribute
    return ""


def blind_module(bench: Bench, model: nn.Module, first: torch.Tensor, second: torch.Tensor) -> str:
    """Where a change of an earlier token gets lost on its way to the last position.

    The innermost module around the first one that takes notice and that itself does not; else, the first
    module that is given the change and by its name should mix tokens.
    """
    after = {(call.name, call.occasion): call for call in _calls(bench, model, second)}
    noticed, candidates = "", []
    for call in _calls(bench, model, first):
        twin = after.get((call.name, call.occasion))
        if twin is None:
            continue
        last_moved = any(
            x.shape == y.shape and x.ndim >= 3 and not x[:, -1].equal(y[:, -1])
            for x, y in zip(call.outputs, twin.outputs, strict=False)
        )
        if last_moved and not noticed:
            noticed = call.name
        elif noticed and not last_moved and noticed.startswith(f"{call.name}." if call.name else ""):
            return module_name(model, call.name)
        if _MIXING.search(call.name.rpartition(".")[2].lower()):
            candidates.append(call.name)
    return candidates[0] if candidates else type(model).__name__


_MIXING = re.compile(r"attn|attention|mix|conv|lstm|gru|rnn|ssm|mamba|recurr")


def _rms(tensor: torch.Tensor) -> float:
    return max(float(tensor.double().square().mean().sqrt()), 1e-12)


def _calls(bench: Bench, model: nn.Module, ids: torch.Tensor, *, seed: int = 0) -> list[Call]:
    """The calls of one forward pass; as far as it got, when it raises."""
    import torch

    with torch.no_grad(), recording(model, length=ids.shape[1]) as record:
        torch.manual_seed(bench.seed + seed)
        try:
            with bench.artifact.foreign_code("forward"):
                model(ids)
        except Unusable:
            pass
    return record.calls


def _differ(a: list[torch.Tensor], b: list[torch.Tensor], differs: Differs) -> bool:
    return any(x.ndim == y.ndim and differs(x, y) for x, y in zip(a, b, strict=False))


def _moved(a: torch.Tensor, b: torch.Tensor, *, scale: torch.Tensor, tolerance: float) -> bool:
    if not a.numel():
        return False
    return float((a - b).abs().max()) > tolerance * max(float(scale.abs().max()), 1e-30)


def _broken(tensor: torch.Tensor) -> bool:
    """NaN or infinity; masks are full of minus infinity and not broken."""
    return tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any())
