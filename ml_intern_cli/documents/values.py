"""Values as they are written in Markdown: ``1,003,264``, ``yes``, ``—``, and text in quotes where it must be.

A value is written plainly wherever that reads back as the same value, else as a JSON string: so nothing
that a string can hold (newlines, quotes, the word "none") is ever lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from ml_intern_cli.documents.model import Model, Quantity
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import parse_params

NONE = "—"
_NONES = frozenset({"", NONE, "-", "–", "none", "null", "n/a"})
_BOOLEANS = {"yes": True, "true": True, "no": False, "false": False}
_NUMBER = re.compile(
    r"[+-]?([0-9]{1,3}(,[0-9]{3})+|[0-9]+(_[0-9]+)*|(?=\.[0-9]))(\.[0-9]*)?([eE][+-]?[0-9]+)?"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LARGEST_EXACT_FLOAT = 2.0**53

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one field of a model stands in Markdown.

    ``base`` is the type of its values, ``object`` where a field takes any scalar.
    """

    base: type
    is_optional: bool = False
    parse: Callable[[str], float] | None = None  # for numbers that people also write with a unit

    def read(self, text: str) -> object:
        """The value that a text stands for; the text itself where it is none, for validation to refuse."""
        text = " ".join(line.strip() for line in text.split("\n")).strip()
        if len(text) > 2 and text[0] == text[-1] == "`" and "`" not in text[1:-1]:
            text = text[1:-1]
        quoted = _unquote(text)
        if quoted is not None:
            if self.base in (str, object):
                return quoted
            text = quoted.strip()
        if self.is_optional and text.casefold() in _NONES:
            return None
        return self._convert(text)

    def write(self, value: object) -> str:
        """The shortest text that ``read`` takes for this value."""
        if value is None:
            return NONE
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, float):
            # Where any scalar may stand, 2.0 has to stay different from 2.
            return repr(value) if self.base is object else repr(value).removesuffix(".0")
        text = str(value)
        return text if is_one_line(text) and self.read(text) == value else quote(text)

    def _convert(self, text: str) -> object:
        if self.base is bool or issubclass(self.base, StrEnum):
            return text.casefold()
        if self.base is int:
            return _whole(text, self.parse)
        if self.base is float:
            return _number(text, self.parse)
        return _scalar(text) if self.base is object else text


TEXT = FieldType(str)
SCALAR = FieldType(object)


@cache
def field_types(model: type[Model]) -> dict[str, FieldType]:
    """The fields of a model that hold one value each."""
    types = {}
    for name, info in model.model_fields.items():
        field_type = _field_type(info.annotation, info.metadata)
        if field_type is not None:
            types[name] = field_type
    return types


def quote(text: str) -> str:
    """A JSON string on one line, every control character escaped."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def is_one_line(text: str) -> bool:
    """Whether a text has no newline, tab or other control character."""
    return _CONTROL.search(text) is None


def _field_type(annotation: Any, metadata: Sequence[Any] = ()) -> FieldType | None:
    if get_origin(annotation) is Annotated:
        annotation, *own = get_args(annotation)
        return _field_type(annotation, [*own, *metadata])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        is_optional = len(options) < len(get_args(annotation))
        inner = _field_type(options[0], metadata) if len(options) == 1 else SCALAR
        return inner and replace(inner, is_optional=is_optional)
    if isinstance(annotation, type) and issubclass(annotation, (str, int, float)):
        parse = next((mark.parse for mark in metadata if isinstance(mark, Quantity)), None)
        return FieldType(annotation, parse=parse)
    return None


def _unquote(text: str) -> str | None:
    if not (len(text) > 1 and text[0] == text[-1] == '"'):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _plain_number(text: str) -> str | None:
    """The text as Python reads numbers, when it is one: ``1,000`` → ``1000``."""
    return text.replace(",", "").replace("_", "") if _NUMBER.fullmatch(text) else None


def _whole(text: str, parse: Callable[[str], float] | None) -> int | str:
    number = _plain_number(text)
    if number is None:
        return _with_unit(text, parse or parse_params, int)
    try:
        return int(number)
    except ValueError:
        value = float(number)
        return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT_FLOAT else text


def _number(text: str, parse: Callable[[str], float] | None) -> float | str:
    number = _plain_number(text)
    if number is not None:
        return float(number)
    return text if parse is None else _with_unit(text, parse, float)


def _with_unit(text: str, parse: Callable[[str], float], kind: type[N]) -> N | str:
    try:
        return kind(parse(text))
    except InvalidInput:
        return text


def _scalar(text: str) -> bool | float | str:
    if text.casefold() in _BOOLEANS:
        return _BOOLEANS[text.casefold()]
    whole = _whole(text, None) if _plain_number(text) and not set(".eE") & set(text) else text
    return _number(text, None) if isinstance(whole, str) else whole
