"""What a matcher gives back, and the look-ups that matchers share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ml_intern_cli.brains.reader.tokens import Kind, Token
from ml_intern_cli.brains.reader.vocabulary import (
    CONJUNCTIONS,
    NEGATION_FILLERS,
    NEGATIONS,
    STOP_WORDS,
    Field,
)
from ml_intern_cli.brains.spelling import spelling

Value = str | int | float
T = TypeVar("T")

_NEGATION_REACH = 2  # words between a negation and what it negates: "don't use the"
_LONGEST_SKIP = 8  # no sentence has more words that carry nothing in a row


@dataclass(frozen=True, slots=True)
class Match:
    """``tokens[start:stop]`` says something.

    Attributes:
        field: What it is about; ``None`` when it is understood to be about nothing that a task has, so
            that its numbers are not read as something else. It is then listed as not understood.
        value: What it says of the field.
        problem: Why it does not say one value; instead of ``value``.
    """

    field: Field | None
    start: int
    stop: int
    value: Value | None = None
    problem: str | None = None


def phrase_at(
    tokens: Sequence[Token], start: int, known: Mapping[str, T], *, longest: int = 3
) -> tuple[T, int] | None:
    """The meaning of the longest known phrase that starts there, and the position after it."""
    for stop in range(min(len(tokens), start + longest), start, -1):
        run = tokens[start:stop]
        if any(token.kind not in (Kind.WORD, Kind.NUMBER) for token in run):
            continue
        spelt = spelling("".join(token.lower for token in run))
        if spelt in known:
            return known[spelt], stop
    return None


def words(known: Collection[str]) -> dict[str, str]:
    """The words as a table for ``phrase_at``, each meaning itself."""
    return {word: word for word in known}


def negation_before(tokens: Sequence[Token], start: int, *, reach: int = _NEGATION_REACH) -> int | None:
    """Where "not", "without", "instead of" … stands, directly or with words that carry nothing between."""
    for position in range(start - 1, max(-1, start - 2 - reach), -1):
        word = tokens[position].lower
        if word in NEGATIONS or word.endswith("n't"):
            return position
        if word == "instead" and word_at(tokens, position + 1) == "of":
            return position
        if word == "but" and word_at(tokens, position - 1) == "anything":
            return position - 1
        if word in CONJUNCTIONS or word not in STOP_WORDS | NEGATION_FILLERS:
            return None
    return None


def skip(tokens: Sequence[Token], start: int, words: Collection[str], *, most: int = _LONGEST_SKIP) -> int:
    """The first position from there on whose token is none of these words."""
    end = min(len(tokens), start + most)
    while start < end and tokens[start].lower in words:
        start += 1
    return start


def word_at(tokens: Sequence[Token], position: int) -> str:
    """The token in lower case; empty outside the sentence."""
    return tokens[position].lower if 0 <= position < len(tokens) else ""
