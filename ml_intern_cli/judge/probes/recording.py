"""What a forward pass does, module by module and operation by operation, recorded from outside.

Hooks see every module's inputs and outputs, a dispatch mode sees every operation, whichever way the model
is written: attention scores are found where a softmax or a fused kernel takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

_HIDDEN = -1e4  # a score below this is masked: exp(-1e4) is zero in every precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of one module, its tensors copied. Calls are listed in the order in which they ended."""

    name: str  # of the module; empty for the model itself
    occasion: int  # 0 for the module's first call
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def inputs(self) -> list[torch.Tensor]:
        """All tensors that went in."""
        return list(tensors((self.args, self.kwargs)))

    @property
    def outputs(self) -> list[torch.Tensor]:
        """All tensors that came out."""
        return list(tensors(self.output))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one softmax attention took: ``values`` (B, A, T, T) before the softmax, masked ones ``-inf``."""

    modules: tuple[str, ...]  # that were running, the outermost first
    values: torch.Tensor
    head_dim: int | None  # of queries and keys, where it could be seen

    @property
    def visible(self) -> torch.Tensor:
        """Which keys which query sees, ``(B, A, T, T)``."""
        return self.values > _HIDDEN


@dataclass(slots=True)
class Recording:
    """One forward pass."""

    calls: list[Call] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    half_precision: dict[str, str] = field(default_factory=dict)  # operation → module, the first of each


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists, dicts and dataclass-like outputs."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)


@contextmanager
def recording(
    model: nn.Module, *, length: int, calls: bool = True, operations: bool = False
) -> Iterator[Recording]:
    """Records what ``model`` does in the block.

    Args:
        model: Whose modules are watched.
        length: T, by which attention scores are known.
        calls: Copy every module's inputs and outputs.
        operations: Look at every operation.
    """
    record = Recording()
    running: list[str] = []
    counts: dict[str, int] = {}
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            running.append(name)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if running and running[-1] == name:
                running.pop()
            if calls:
                occasion = counts.get(name, 0)
                counts[name] = occasion + 1
                record.calls.append(
                    Call(
                        name=name,
                        occasion=occasion,
                        module=module,
                        args=_copied(args),
                        kwargs=_copied(kwargs),
                        output=_copied(output),
                    )
                )

        return hook

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
    try:
        if operations:
            with _watch(record, running, length):
                yield record
        else:
            yield record
    finally:
        for handle in handles:
            handle.remove()


def _copied(value: Any) -> Any:
    """The value with its tensors copied, since later operations may write into them."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):  # also the output classes of transformers
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_copied(one) for one in value)
    return value


def _watch(record: Recording, running: list[str], length: int) -> TorchDispatchMode:
    """A mode that notes attention scores and operations in half precision."""
    from torch.utils._python_dispatch import TorchDispatchMode

    watch = _Watch(record, running, length)

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own base class
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # nothing is compiled here, and importing the compiler takes seconds

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del types
            output = func(*args, **(kwargs or {}))
            watch.see(func._schema, args, kwargs or {}, output)  # noqa: SLF001, it has no public name
            return output

    return Mode()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Watch:
    """Looks at every operation."""

    record: Recording
    running: list[str]
    length: int
    head_dim: int | None = None  # of the latest product that gave scores

    def see(self, schema: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Notes an operation that matters."""
        import torch

        operation = schema.name.removeprefix("aten::")
        square = isinstance(output, torch.Tensor) and output.shape[-2:] == (self.length, self.length)
        if square and operation in ("bmm", "baddbmm"):
            self.head_dim = args[0 if operation == "bmm" else 1].shape[-1]
        elif square and operation in ("_softmax", "_safe_softmax") and args[1] in (-1, output.ndim - 1):
            self._note(args[0], self.head_dim)
            self.head_dim = None
        elif operation.startswith("_scaled_dot_product"):
            given = dict(zip((one.name for one in schema.arguments), args, strict=False)) | kwargs
            if given["query"].shape[-2] == given["key"].shape[-2] == self.length:
                self._note(_scores(given), given["query"].shape[-1])
        where = self.running[-1] if self.running else ""
        for one in tensors(output):
            if one.dtype in (torch.float16, torch.bfloat16):
                dtype = str(one.dtype).removeprefix("torch.")
                self.record.half_precision.setdefault(f"{operation} in {dtype}", where)

    def _note(self, values: torch.Tensor, head_dim: int | None) -> None:
        """Keeps scores; what stands before ``(T, T)`` is rows and heads, in one or two dimensions."""
        lead = values.shape[:-2]
        kept = values.detach().reshape(lead[0] if lead else 1, -1, self.length, self.length).clone()
        self.record.scores.append(Scores(modules=tuple(self.running), values=kept, head_dim=head_dim))


def _scores(given: dict[str, Any]) -> torch.Tensor:
    """What a fused kernel computes before its softmax, ``(B, A, T, T)``."""
    import torch

    query: torch.Tensor = given["query"]
    key: torch.Tensor = given["key"]
    scale = given.get("scale")
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    values: torch.Tensor = (query @ key.transpose(-1, -2)) * (
        query.shape[-1] ** -0.5 if scale is None else scale
    )
    mask = given.get("attn_mask", given.get("attn_bias"))
    if mask is not None:
        values = values.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else values + mask
    if given.get("is_causal"):
        future = torch.ones(values.shape[-2:], dtype=torch.bool, device=values.device).triu(1)
        values = values.masked_fill(future, -torch.inf)
    return values
