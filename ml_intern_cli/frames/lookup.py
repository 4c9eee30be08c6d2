"""What a name stands for in a frame, found without running any code of the objects on the way.

Instance dictionaries and slots are read, properties and ``__getattr__`` are not; ``isinstance`` is avoided
because it asks an object for its ``__class__``.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, MemberDescriptorType
from typing import Any

MISSING: Any = object()

_OPTIMIZED = (
    inspect.CO_OPTIMIZED
)  # the locals are slots of the frame, not a mapping that somebody may have made
_MODULE_STORES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, slots=True)
class Found:
    """A value and the words for it in the source: ``self.proj``, ``batch["x"]``."""

    label: str
    value: Any


def mro(kind: type) -> tuple[type, ...]:
    """A class and its bases, whatever its metaclass says."""
    bases: tuple[type, ...] = type.__dict__["__mro__"].__get__(kind)
    return bases


def own(kind: type) -> Mapping[str, Any]:
    """What a class itself defines."""
    found: Mapping[str, Any] = type.__dict__["__dict__"].__get__(kind)
    return found


def is_a(value: object, kind: type) -> bool:
    """Whether a value is of a class, whatever it says itself."""
    return any(base is kind for base in mro(type(value)))


def type_name(value: object) -> str:
    """The name of a value's class."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def is_exactly(value: object, *kinds: type) -> bool:
    """Whether a value is of one of these types and of no subclass; compared so that no metaclass is asked."""
    return any(type(value) is kind for kind in kinds)


def item(mapping: object, key: str | int) -> Any:
    """The value of a key in a dictionary; keys of other kinds are not even compared."""
    if not is_a(mapping, dict):
        return MISSING
    pairs: ItemsView[Any, Any] = dict.items(mapping)  # type: ignore[arg-type]
    return next((value for one, value in pairs if type(one) is type(key) and one == key), MISSING)


def attribute(value: object, name: str) -> Any:
    """An attribute that is stored in the object: in a module also a parameter, buffer or submodule."""
    if is_module(value):
        for store in _MODULE_STORES:
            found = item(_static(value, store), name)
            if found is not MISSING:
                return found
    found = _static(value, name)
    if type(found) is MemberDescriptorType:  # a slot
        try:
            return found.__get__(value)
        except (AttributeError, TypeError):
            return MISSING
    return found


def is_module(value: object) -> bool:
    """Whether a value is an ``nn.Module``; there are none where torch was not imported."""
    nn = sys.modules.get("torch.nn")
    return nn is not None and is_a(value, nn.Module)


def local_variables(frame: FrameType) -> dict[str, Any]:
    """The locals of a frame; none where a metaclass made the mapping that holds them."""
    found = frame.f_locals
    if type(found) is dict:
        return found
    return dict(found) if frame.f_code.co_flags & _OPTIMIZED else {}


class Scope:
    """The names of one frame."""

    def __init__(self, frame: FrameType) -> None:
        self._locals = local_variables(frame)
        self._globals = frame.f_globals

    def name(self, name: str, *, is_bound_inside: bool) -> Any:
        """A variable; one that a comprehension or lambda binds is no global of the same name."""
        found = item(self._locals, name)
        return item(self._globals, name) if found is MISSING and not is_bound_inside else found

    def found_in(self, nodes: tuple[ast.AST, ...]) -> Iterator[tuple[Found, ...]]:
        """For each name, attribute or item that is read: its value, after those of what it is taken from."""
        bound = {name for node in nodes for name in _bound_inside(node)}
        for node in nodes:
            yield from self._visit(node, bound)

    def _visit(self, node: ast.AST, bound: set[str]) -> Iterator[tuple[Found, ...]]:
        is_chain = isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
        if is_chain and not isinstance(getattr(node, "ctx", None), ast.Store):
            yield from self._chain(node, bound)
            return
        if isinstance(node, ast.AugAssign):  # the target is read too
            yield from self._chain(node.target, bound)
        for child in ast.iter_child_nodes(node):
            yield from self._visit(child, bound)

    def _chain(self, node: ast.AST, bound: set[str]) -> Iterator[tuple[Found, ...]]:
        steps: list[ast.Attribute | ast.Subscript] = []
        indices: list[ast.AST] = []
        while isinstance(node, ast.Attribute | ast.Subscript):
            steps.append(node)
            if isinstance(node, ast.Subscript):
                indices.append(node.slice)
            node = node.value
        if isinstance(node, ast.Name):
            found = self.name(node.id, is_bound_inside=node.id in bound)
            yield tuple(_prefixes(Found(node.id, found), reversed(steps)))
        else:
            yield from self._visit(node, bound)
        for index in indices:
            yield from self._visit(index, bound)


def _prefixes(found: Found, steps: Iterator[ast.Attribute | ast.Subscript]) -> Iterator[Found]:
    while found.value is not MISSING:
        yield found
        step = next(steps, None)
        if step is None:
            return
        if isinstance(step, ast.Attribute):
            found = Found(f"{found.label}.{step.attr}", attribute(found.value, step.attr))
        else:
            found = _constant_item(found, step.slice)


def _constant_item(found: Found, index: ast.AST) -> Found:
    """``batch["x"]``, ``parts[-1]``, ``self.blocks[0]``; an index that would have to be computed is not."""
    key: Any = None
    try:
        key = ast.literal_eval(index) if isinstance(index, ast.Constant | ast.UnaryOp) else None
    except (ValueError, TypeError):
        return Found(found.label, MISSING)
    value = MISSING
    if is_exactly(key, str, int):
        if is_exactly(found.value, list, tuple) and type(key) is int:
            value = found.value[key] if -len(found.value) <= key < len(found.value) else MISSING
        elif is_module(found.value):
            value = item(_static(found.value, "_modules"), str(key))
        else:
            value = item(found.value, key)
    text = f'"{key}"' if isinstance(key, str) else str(key)
    return Found(f"{found.label}[{text}]", value)


def _bound_inside(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.comprehension):
            yield from (one.id for one in ast.walk(inner.target) if isinstance(one, ast.Name))
        elif isinstance(inner, ast.Lambda):
            yield from (one.arg for one in ast.walk(inner.args) if isinstance(one, ast.arg))


def _static(value: object, name: str) -> Any:
    try:
        return inspect.getattr_static(value, name, MISSING)
    except Exception:  # noqa: BLE001 - a class that is broken in a way of its own
        return MISSING
