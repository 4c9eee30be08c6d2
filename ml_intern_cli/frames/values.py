"""A value in a few words: ``(2, 8, 64) float32``. Tensors, arrays, modules with a weight, and sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ml_intern_cli.frames.lookup import (
    MISSING,
    attribute,
    is_a,
    is_exactly,
    is_module,
    item,
    mro,
    own,
    type_name,
)

_MOST_ELEMENTS_READ = 1_000_000
_ORDINARY = (int, float, str)  # lists hold millions of them, and looking for torch takes a while
_MOST_LISTED = 6  # tensors of one list or dictionary
_LONGEST_SHAPE = 8  # sizes in a tuple
_MOST_BITS = 64  # of an integer that may be a size
_SIZES = (
    ("in_features", "out_features"),
    ("num_embeddings", "embedding_dim"),
    ("in_channels", "out_channels"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a name and the words for its value, which ``key`` identifies."""

    name: str
    text: str
    key: int


def rows(name: str, value: Any) -> tuple[Row, ...]:
    """The lines about a value; none for what has no size."""
    try:
        return tuple(_rows(name, value))
    except Exception:  # noqa: BLE001 - a tensor in a state that its own library refuses to look at
        return ()


def tensors_in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors and arrays that a variable is or directly holds, each with its name."""
    if is_tensor(value) or is_array(value):
        yield name, value
    elif is_exactly(value, list, tuple):
        yield from ((f"{name}[{index}]", one) for index, one in enumerate(value) if is_tensor(one))
    elif is_a(value, dict):
        for key, one in dict.items(value):
            if type(key) is str and (is_tensor(one) or is_array(one)):
                yield f'{name}["{key}"]', one


def size_bytes(value: Any) -> int:
    """What a tensor or array takes; 0 where that cannot be said."""
    try:
        if is_array(value):
            return int(_numpy().ndarray.__dict__["nbytes"].__get__(value))
        torch = _torch()
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - else a subclass's own code would answer
            base = torch.Tensor
            return int(base.numel(value)) * int(base.element_size(value))
    except Exception:  # noqa: BLE001 - as in rows()
        return 0


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor; there are none where torch was not imported."""
    if is_exactly(value, *_ORDINARY):
        return False
    torch = _torch()
    return torch is not None and is_a(value, torch.Tensor)


def is_array(value: object) -> bool:
    """Whether a value is an array of numpy."""
    if is_exactly(value, *_ORDINARY):
        return False
    numpy = _numpy()
    return numpy is not None and is_a(value, numpy.ndarray)


def is_number(value: object) -> bool:
    """Whether a value is a plain number."""
    return is_exactly(value, int, float)


def _rows(name: str, value: Any) -> Iterator[Row]:
    if is_tensor(value):
        yield Row(name, _tensor(value), id(value))
    elif is_array(value):
        yield Row(name, _array(value), id(value))
    elif is_module(value):
        yield from _module(name, value)
    elif is_number(value):
        yield from _number(name, value)
    elif _is_shape(value):
        yield Row(name, str(tuple(value)), id(value))
    elif is_exactly(value, list, tuple):
        yield from _list(name, value)
    elif is_a(value, dict):
        for inner, one in list(tensors_in(name, value))[:_MOST_LISTED]:
            yield from _rows(inner, one)


def _module(name: str, value: object) -> Iterator[Row]:
    weight = attribute(value, "weight")
    if is_tensor(weight):
        yield Row(f"{name}.weight", f"{_tensor(weight)}  {_layer(value)}", id(weight))


def _number(name: str, value: Any) -> Iterator[Row]:
    if isinstance(value, float) or value.bit_length() <= _MOST_BITS:
        yield Row(name, repr(value), id(value))


def _is_shape(value: Any) -> bool:
    torch = _torch()
    is_sequence = is_exactly(value, tuple, list) or (torch is not None and type(value) is torch.Size)
    return (
        is_sequence
        and 0 < len(value) <= _LONGEST_SHAPE
        and all(type(one) is int and one.bit_length() <= _MOST_BITS for one in value)
    )


def _list(name: str, value: list[Any] | tuple[Any, ...]) -> Iterator[Row]:
    held = [one for one in value if is_tensor(one) or is_array(one)]
    if held:
        listed = [_tensor(one) if is_tensor(one) else _array(one) for one in held[:_MOST_LISTED]]
        more = f", and {len(held) - _MOST_LISTED} more" if len(held) > _MOST_LISTED else ""
        yield Row(name, f"{type(value).__name__} of {len(value)}: {', '.join(listed)}{more}", id(value))


def _tensor(value: Any) -> str:
    torch = _torch()
    if not _is_plain(torch, value):
        return f"a {type_name(value)}"
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - else a subclass's own code would answer
        base = torch.Tensor
        shape, dtype, device = (
            torch._C.TensorBase.__dict__[name].__get__(value)  # noqa: SLF001 - a subclass may hide them
            for name in ("shape", "dtype", "device")
        )
        words = [str(tuple(shape)), str(dtype).removeprefix("torch.")]
        if device.type != "cpu":
            words.append(str(device))
        if bool(base.is_floating_point(value) or base.is_complex(value)):
            words.append(_finiteness(torch, value, device))
    return " ".join(filter(None, words))


def _is_plain(torch: Any, value: Any) -> bool:
    """Whether no Python code stands behind a tensor's operations."""
    owner = next(base for base in mro(type(value)) if "__torch_dispatch__" in own(base))
    return owner is torch.Tensor


def _finiteness(torch: Any, value: Any, device: Any) -> str:
    count = int(torch.Tensor.numel(value))
    if not 0 < count <= _MOST_ELEMENTS_READ or device.type == "meta":
        return ""
    from torch.utils._python_dispatch import _disable_current_modes

    try:
        with torch.no_grad(), _disable_current_modes():
            finite = int(torch.isfinite(value).sum())
    except Exception:  # noqa: BLE001 - a device that failed, a type of number that has no such operation
        return ""
    return f"{count - finite:,} of {count:,} not finite" if finite < count else ""


def _array(value: Any) -> str:
    numpy = _numpy()
    array = numpy.ndarray.view(value, numpy.ndarray)
    text = f"{array.shape} {str(array.dtype)[:40]} array"
    if array.dtype.kind in "fc" and 0 < array.size <= _MOST_ELEMENTS_READ:
        bad = array.size - int(numpy.isfinite(array).sum())
        text += f" {bad:,} of {array.size:,} not finite" if bad else ""
    return text


def _layer(module: object) -> str:
    """``Linear 64 → 128``."""
    for names in _SIZES:
        sizes = [attribute(module, name) for name in names]
        if all(type(size) is int for size in sizes):
            return f"{type_name(module)} {sizes[0]} → {sizes[1]}"
    return type_name(module)


def _torch() -> Any:
    """Torch, if the program imported it, wholly."""
    torch = sys.modules.get("torch")
    return None if torch is None or item(vars(torch), "Tensor") is MISSING else torch


def _numpy() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None or item(vars(numpy), "ndarray") is MISSING else numpy
