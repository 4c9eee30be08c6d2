"""What has been read of a document so far: raw values, the lines they stand on, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from ml_intern_cli.documents.model import PATTERNS, Model
from ml_intern_cli.errors import InvalidDocument, Problem

Place = tuple[str | int, ...]
"""Where a value belongs in the model, as pydantic names it: ``("paths", 0, "steps")``."""

M = TypeVar("M", bound=Model)

_MESSAGES = {
    "missing": "is missing",
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be >= {ge:g}",
    "less_than": "must be < {lt:g}",
    "less_than_equal": "must be <= {le:g}",
    "int_parsing": "must be a whole number, not {input!r}",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number, not {input!r}",
    "float_parsing": "must be a number, not {input!r}",
    "finite_number": "must be finite",
    "bool_parsing": "must be yes or no, not {input!r}",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
    "value_error": "{error}",
}


class Draft:
    """Collects values by their place; ``finish`` turns them into the document or refuses it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._values: dict[str, Any] = {}
        self._lines: dict[Place, int] = {}
        self._homes: dict[str, tuple[str, int | None]] = {}
        self._problems: list[Problem] = []

    def put(self, place: Place, value: object, line: int) -> None:
        """Note a value. Its container must have been put before; a second value is a problem."""
        if place in self._lines:
            self.problem(line, place[-1], f"appears twice, first in line {self._lines[place]}")
            return
        self._at(place[:-1])[place[-1]] = value
        self._lines[place] = line

    def append(self, place: Place, value: object, line: int) -> Place:
        """Add to a list that was put before; gives back the new value's place."""
        values = self._at(place)
        values.append(value)
        new = (*place, len(values) - 1)
        self._lines[new] = line
        return new

    def items(self, name: str) -> Iterator[tuple[Place, Any]]:
        """The values of a list that was put before, each with its place."""
        return (((name, index), value) for index, value in enumerate(self._values[name]))

    def line(self, place: Place) -> int | None:
        """Where a value stands, or the nearest of what contains it."""
        known = (place[:length] for length in range(len(place), 0, -1))
        return next((self._lines[prefix] for prefix in known if prefix in self._lines), None)

    def problem(self, line: int | None, field: object, message: str) -> None:
        """Note something wrong."""
        self._problems.append(Problem(self._source, line, None if field is None else str(field), message))

    def expect(self, names: Iterable[str], *, below: str, line: int | None) -> None:
        """Note the heading below which fields belong, and its line when it is there."""
        self._homes |= dict.fromkeys(names, (below, line))

    def require(self, names: Iterable[str]) -> None:
        """Note which of these fields are missing, also where the model has a default."""
        for name in names:
            if (name,) not in self._lines:
                self.problem(None, name, "is missing")

    def unknown(self, line: int, name: str, known: Iterable[str]) -> None:
        """Note a name that nothing is known by, with the nearest one that is."""
        near = nearest(name, known)
        self.problem(line, name, "unknown name" + (f"; did you mean {near}?" if near else ""))

    def finish(self, model: type[M]) -> M:
        """The document. Raises InvalidDocument with every problem, in the order of their lines."""
        document = None
        try:
            document = model.model_validate(self._values)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            places = [details["loc"] for details in errors]
            for details in errors:
                # A list whose records are all refused also counts as too short; that is no news.
                if details["type"] != "too_short" or not _has_inside(places, details["loc"]):
                    self._refuse(details)
        if self._problems or document is None:
            unique = dict.fromkeys(self._problems)
            raise InvalidDocument(sorted(unique, key=lambda problem: problem.line or 0))
        return document

    def _at(self, place: Place) -> Any:
        value: Any = self._values
        for key in place:
            value = value[key]
        return value

    def _refuse(self, details: Any) -> None:
        place: Place = details["loc"]
        line = self.line(place)
        field = next((key for key in reversed(place) if isinstance(key, str)), None)
        message = _message(details)
        if line is None and field in self._homes:
            below, line = self._homes[field]
            message += "" if line else f"; it belongs below {below}"
        self.problem(line, field, message)


def _has_inside(places: Iterable[Place], outer: Place) -> bool:
    return any(len(place) > len(outer) and place[: len(outer)] == outer for place in places)


def _message(details: Any) -> str:
    """Pydantic's finding in the words of this program."""
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if given == "":
        return "is empty"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"must be {PATTERNS.get(pattern, pattern)}; not {given!r}"
    if kind == "enum":
        return f"must be one of: {context['expected'].replace(' or ', ', ')}; not {given!r}"
    if kind in _MESSAGES:
        return _MESSAGES[kind].format(input=given, **context)
    message: str = details["msg"]
    return message[0].lower() + message[1:]


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is spelt most like this one, if any is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
