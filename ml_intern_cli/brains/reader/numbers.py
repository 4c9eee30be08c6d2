"""Quantities in a token stream: ``100M``, ``1.3 billion``, ``1 h 30 min``, ``two hours``, ``~10m``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ml_intern_cli.brains.reader.match import phrase_at, skip, word_at
from ml_intern_cli.brains.reader.tokens import Kind, Token
from ml_intern_cli.brains.reader.vocabulary import (
    ADJECTIVES,
    APPROXIMATELY,
    FRACTION_WORDS,
    MINUS_WORDS,
    NOUNS,
    NUMBER_WORDS,
    UNITS_IN_FULL,
    Field,
)
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import COUNT_UNITS, DURATION_UNITS, NUMBER, parse_duration

_COUNT = re.compile(rf"[-+−]?{NUMBER}(?P<unit>[A-Za-z]*)")
_WITH_NOUN = re.compile(
    rf"(?P<count>[-+−]?{NUMBER}[kmbt])(?P<noun>params?|parameters?|toks?|tokens?|steps?)", re.IGNORECASE
)
_LONGEST_DURATION = 7  # tokens: "1 day 2 hours and 30 minutes"
_MOST_APPROXIMATELY = 3  # "just about ~10M"
_ARTICLES = frozenset({"a", "an"})
_AND_A_HALF = ("and", "a", "half")


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
    """The tokens with every number in digits, as one token, and apart from its noun.

    "half an hour" is 0.5 hour, "twenty-five" is 25, "an hour and a half" is 1.5 hour, "minus 5M" is -5M,
    "100 000 000" is 100000000, and "20Mtokens" is 20M tokens. An article is a number only before a unit in
    full: "a million", "an hour", but not "a model".
    """
    result: list[Token] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        text, stop = _digits(tokens, position)
        if text is None:
            result.append(token)
            position += 1
            continue
        number = replace(token, kind=Kind.NUMBER, text=text, end=tokens[stop - 1].end)
        if with_noun := _WITH_NOUN.fullmatch(text):
            middle = token.start + with_noun.end("count")
            result.append(replace(number, text=with_noun["count"], end=middle))
            number = Token(Kind.WORD, with_noun["noun"], middle, number.end, glued=True)
        result.append(number)
        position = stop
        if text.isdecimal() and _is_unit(tokens, stop) and _are(tokens, stop + 1, _AND_A_HALF):
            result[-1] = replace(number, text=f"{text}.5")  # "an hour and a half"
            result.append(replace(tokens[stop], end=tokens[stop + 3].end))
            position = stop + 4
    return result


def quantity_at(tokens: Sequence[Token], start: int) -> Quantity | None:
    """The longest quantity that starts there, after words such as "about"."""
    first = skip(tokens, start, APPROXIMATELY, most=_MOST_APPROXIMATELY)
    if first == len(tokens) or tokens[first].kind is not Kind.NUMBER:
        return None
    return _duration(tokens, start, first) or _count(tokens, start, first)


def _duration(tokens: Sequence[Token], start: int, first: int) -> Quantity | None:
    one = _COUNT.fullmatch(tokens[first].text)
    if one and (one["unit"] or word_at(tokens, first + 1)).lower() not in DURATION_UNITS:
        return None
    for stop in range(min(len(tokens), first + _LONGEST_DURATION), first, -1):
        run = tokens[first:stop]
        text = " ".join(token.text for token in run)
        if (
            all(
                token.kind in {Kind.NUMBER, Kind.WORD} or _joins(tokens, position)
                for position, token in enumerate(run, start=first)
            )
            and _is_duration(text)
            and not _ends_in_millions(tokens, first, stop)
        ):
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


def _joins(tokens: Sequence[Token], position: int) -> bool:
    """Whether it is the comma of "1 hour, 30 minutes"; in "1h, 10m" the two may be different things."""
    number = position + 1
    if tokens[position].text != "," or number >= len(tokens) or tokens[number].kind is not Kind.NUMBER:
        return False
    match = _COUNT.fullmatch(tokens[number].text)
    return match is not None and len(match["unit"] or word_at(tokens, number + 1)) > 1


def _ends_in_millions(tokens: Sequence[Token], first: int, stop: int) -> bool:
    """Whether the last part of what looks like a duration is another thing: "2h 5M", "2h 10m tokens"."""
    last = tokens[stop - 1]
    has_unit_apart = last.kind is Kind.WORD
    if stop - first <= 1 + has_unit_apart or not last.text.endswith(("m", "M")):
        return False
    noun = phrase_at(tokens, skip(tokens, stop, ADJECTIVES), NOUNS)
    return last.text.endswith("M") or (noun is not None and noun[0] in {Field.PARAMS, Field.TOKENS})


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


def _digits(tokens: Sequence[Token], position: int) -> tuple[str | None, int]:
    """The number that starts there, in digits, and the position after it; ``None`` if none does."""
    word, following = word_at(tokens, position), word_at(tokens, position + 1)
    if word in MINUS_WORDS:
        if following in MINUS_WORDS or position + 1 == len(tokens):
            return None, position
        text, stop = _digits(tokens, position + 1)
        return (None, position) if text is None else (f"-{text.lstrip('-−')}", stop)
    text, stop = _grouped(tokens, position)
    if text is None:
        value, stop = _fraction(tokens, position) or _cardinal(tokens, position) or (None, position)
        text = None if value is None else f"{value:g}"
    if text is not None and text.isdecimal() and _are(tokens, stop, _AND_A_HALF):
        return f"{text}.5", stop + 3
    return text, stop


def _grouped(tokens: Sequence[Token], position: int) -> tuple[str | None, int]:
    """A number in digits, with groups of three after spaces: ``100 000 000``.

    Two plain numbers may stand beside each other too ("seq 256 512"), so it takes two groups or zeros.
    """
    if tokens[position].kind is not Kind.NUMBER:
        return None, position
    text, stop = tokens[position].text, position + 1
    while (
        re.fullmatch(r"[-+−]?[1-9][0-9]{0,2}", text)
        and stop < len(tokens)
        and re.fullmatch(r"[0-9]{3}[kmbt]?", tokens[stop].text, re.IGNORECASE)
        and tokens[stop].start == tokens[stop - 1].end + 1
        and not tokens[stop].glued
        and tokens[stop - 1].text.lstrip("-+−").isdecimal()
    ):
        stop += 1
    groups = [token.text for token in tokens[position + 1 : stop]]
    is_one_number = len(groups) > 1 or groups == ["000"]
    return (text + "".join(groups), stop) if is_one_number else (text, position + 1)


def _fraction(tokens: Sequence[Token], position: int) -> tuple[float, int] | None:
    """``half an hour``, ``half hour``, ``a quarter of an hour``: the position is that of the unit."""
    start = position + (word_at(tokens, position) in _ARTICLES)
    value = FRACTION_WORDS.get(word_at(tokens, start))
    unit = skip(tokens, start + 1, {"of"}, most=1)
    unit = skip(tokens, unit, _ARTICLES, most=1)
    return (value, unit) if value and word_at(tokens, unit) in UNITS_IN_FULL else None


def _cardinal(tokens: Sequence[Token], position: int) -> tuple[float, int] | None:
    """``ten``, ``twenty-five``, ``a hundred``, ``one hundred and fifty``, ``one point five``."""
    first = word_at(tokens, position)
    if tokens[position].kind is not Kind.WORD:
        return None
    if first in _ARTICLES and word_at(tokens, position + 1) in UNITS_IN_FULL | {"hundred"}:
        # In "$2 an hour" and "a third of an hour" it is none.
        before = position - 1
        if before >= 0 and (tokens[before].kind is Kind.NUMBER or tokens[before].lower == "of"):
            return None
        value = 1
    elif first in NUMBER_WORDS:
        value = NUMBER_WORDS[first]
    else:
        return None
    stop = position + 1
    if 0 < value < 10 and word_at(tokens, stop) == "hundred":
        value, stop = 100 * value, stop + 1
        rest = skip(tokens, stop, {"and"}, most=1)
        if word_at(tokens, rest) in NUMBER_WORDS:
            value, stop = value + NUMBER_WORDS[word_at(tokens, rest)], rest + 1
    ones = NUMBER_WORDS.get(word_at(tokens, stop), 0)
    if value % 100 >= 20 and value % 10 == 0 and 0 < ones < 10:
        value, stop = value + ones, stop + 1
    if word_at(tokens, stop) == "point" and word_at(tokens, stop + 1) in NUMBER_WORDS:
        return float(f"{value}.{NUMBER_WORDS[word_at(tokens, stop + 1)]}"), stop + 2
    return value, stop


def _are(tokens: Sequence[Token], start: int, words: Sequence[str]) -> bool:
    return all(word_at(tokens, start + offset) == word for offset, word in enumerate(words))


def _is_unit(tokens: Sequence[Token], position: int) -> bool:
    return word_at(tokens, position) in COUNT_UNITS | DURATION_UNITS
