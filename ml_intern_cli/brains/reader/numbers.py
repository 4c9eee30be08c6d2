"""Quantities in a token stream: ``100M``, ``1.3 billion``, ``1 h 30 min``, ``two hours``, ``~10m``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ml_intern_cli.brains.reader.tokens import Kind, Token
from ml_intern_cli.brains.reader.vocabulary import APPROXIMATELY, NUMBER_WORDS, UNITS_IN_FULL
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import COUNT_UNITS, DURATION_UNITS, NUMBER, parse_duration

_COUNT = re.compile(rf"[-+−]?{NUMBER}(?P<unit>[A-Za-z]*)")
_LONGEST_DURATION = 7  # tokens: "1 day 2 hours and 30 minutes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number with its unit at ``tokens[start:stop]``; ``10m`` is both a count and a duration.

    ``text`` is what the parsers of ``ml_intern_cli.quantities`` take.
    """

    text: str
    unit: str
    start: int
    stop: int
    is_count: bool
    is_duration: bool

    @property
    def is_bare(self) -> bool:
        """Whether it has no unit."""
        return not self.unit


def with_digits(tokens: Sequence[Token]) -> list[Token]:
    """The tokens with numbers in words replaced: "half an hour" is 0.5 hour, "one hundred" is 100.

    An article is a number only before a unit in full: "a million", "an hour", but not "a model".
    """
    result: list[Token] = []
    position = 0
    while position < len(tokens):
        value, stop = _in_words(tokens, position)
        token = tokens[position]
        if value is not None:
            token = replace(token, kind=Kind.NUMBER, text=f"{value:g}", end=tokens[stop - 1].end)
        result.append(token)
        position = stop
    return result


def quantity_at(tokens: Sequence[Token], start: int) -> Quantity | None:
    """The longest quantity that starts there, after words such as "about"."""
    first = start
    while first < len(tokens) and tokens[first].lower in APPROXIMATELY:
        first += 1
    if first == len(tokens) or tokens[first].kind is not Kind.NUMBER:
        return None
    return _duration(tokens, start, first) or _count(tokens, start, first)


def _duration(tokens: Sequence[Token], start: int, first: int) -> Quantity | None:
    for stop in range(min(len(tokens), first + _LONGEST_DURATION), first, -1):
        run = tokens[first:stop]
        text = " ".join(token.text for token in run)
        if all(token.kind in {Kind.NUMBER, Kind.WORD} for token in run) and _is_duration(text):
            count = _COUNT.fullmatch(text.replace(" ", ""))
            unit = count["unit"] if count else "time"
            return Quantity(
                text=text,
                unit=unit,
                start=start,
                stop=stop,
                is_count=unit.lower() == "m",
                is_duration=unit != "M",  # a capital M is million; nobody writes minutes so
            )
    return None


def _count(tokens: Sequence[Token], start: int, first: int) -> Quantity | None:
    """A count; or a duration that its parser refuses, such as ``-5 minutes``, so that it can say why."""
    match = _COUNT.fullmatch(tokens[first].text)
    if match is None:
        return None
    unit, stop = match["unit"], first + 1
    if not unit and stop < len(tokens) and tokens[stop].lower in COUNT_UNITS | DURATION_UNITS:
        unit, stop = tokens[stop].text, stop + 1
    if unit and unit.lower() not in COUNT_UNITS | DURATION_UNITS:
        return None
    return Quantity(
        text=" ".join(token.text for token in tokens[first:stop]),
        unit=unit,
        start=start,
        stop=stop,
        is_count=not unit or unit.lower() in COUNT_UNITS,
        is_duration=unit != "M" and unit.lower() in DURATION_UNITS,
    )


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except InvalidInput:
        return False
    return True


def _in_words(tokens: Sequence[Token], position: int) -> tuple[float | None, int]:
    """The number in words that starts there, if one does, and the position after it or after the token."""
    words = [token.lower if token.kind is Kind.WORD else "" for token in tokens[position : position + 3]]
    first, second, third = [*words, "", ""][:3]
    stop = position + 1
    value: float | None = None
    if first in NUMBER_WORDS:
        value = NUMBER_WORDS[first]
    elif first in {"a", "an"} and second in UNITS_IN_FULL | {"hundred"}:
        value = 1
    elif first == "half" and second in {"a", "an"} and third in UNITS_IN_FULL:
        return 0.5, position + 2
    if value is not None and second == "hundred":
        return 100 * value, position + 2
    return value, stop
