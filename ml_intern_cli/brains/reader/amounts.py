"""Matchers of numbers: which of parameters, tokens, steps, sequence length, time, seed and money each one is.

A number belongs to the noun beside it. Where nouns stand on both sides ("10m tokens 5M, seq 256"), a noun
goes with the number after it unless that one has a noun of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ml_intern_cli.brains.reader.match import Match, Value, phrase_at, skip, word_at, words
from ml_intern_cli.brains.reader.numbers import Quantity, quantity_at
from ml_intern_cli.brains.reader.tokens import Token
from ml_intern_cli.brains.reader.vocabulary import (
    ADJECTIVES,
    COUNTED_THINGS,
    CURRENCY,
    LIMIT_WORDS,
    LONGEST_NOUN,
    MINUTE_PREPOSITIONS,
    NOUNS,
    RATE_WORDS,
    STRONG_CONNECTORS,
    Field,
)
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import parse_duration, parse_params, parse_seq_len, parse_steps, parse_tokens

Noun = tuple[Field | None, int]  # the field, and the position after the noun

_LARGEST_SEED = 2**32 - 1
_SMALLEST_BARE_PARAMS = 10_000  # "at 1000000" is a size; "at 3" is something else


class AmountMatcher:
    """Finds what the quantity at a position means. Built once per sentence, because nouns are shared out."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._owned: dict[int, Noun] = {}  # start of a quantity → the noun after it, where that is its own
        for start in reversed(range(len(tokens))):
            quantity = quantity_at(tokens, start)
            noun = quantity and self._noun_after(quantity)
            if noun and not self._takes_next_number(noun):
                self._owned[start] = noun
            elif (
                quantity
                and not quantity.is_duration
                and (counted := phrase_at(tokens, quantity.stop, words(COUNTED_THINGS)))
            ):
                self._owned[start] = (None, counted[1])

    def match(self, start: int) -> Match | None:
        """What ``tokens[start:]`` begins with, if that is an amount of something."""
        return (
            self._money(start)
            or self._range(start)
            or self._noun_then_number(start)
            or self._number_then_noun(start)
            or self._number_alone(start)
        )

    def _money(self, start: int) -> Match | None:
        """``$5``, ``5 USD``."""
        first = start + 1 if word_at(self._tokens, start) in CURRENCY else start
        quantity = quantity_at(self._tokens, first)
        if quantity is None or not quantity.is_count:
            return None
        stop = quantity.stop
        if first == start:
            if word_at(self._tokens, stop) not in CURRENCY:
                return None
            stop += 1
        value = parse_params(quantity.text) if not quantity.is_bare else _positive(quantity.text)
        return Match(Field.MAX_USD, start, stop, value=float(value))

    def _range(self, start: int) -> Match | None:
        """``20-30 minutes``: two values where one is needed."""
        follower = start + 1
        if follower >= len(self._tokens) or not self._tokens[follower].glued:
            return None
        low, high = quantity_at(self._tokens, start), quantity_at(self._tokens, follower)
        if low is None or high is None or low.stop != follower:
            return None
        field, stop = self._owned.get(follower, (None, high.stop))
        if field is None and not high.is_bare:
            field = Field.TIME_BUDGET if high.is_duration else Field.PARAMS
        if field is None:
            return None
        return Match(field, start, stop, problem="a range; one value is needed")

    def _noun_then_number(self, start: int) -> Match | None:
        noun = self._noun_at(start)
        if noun is None or not self._takes_next_number(noun):
            return None
        field, after_noun = noun
        quantity = self._number_after(after_noun)
        if quantity is None:
            return None
        stop = quantity.stop
        trailing = self._noun_at(skip(self._tokens, stop, ADJECTIVES))
        if trailing and not self._takes_next_number(trailing):
            same_thing = trailing[0] == field or (field is Field.SEQ_LEN and trailing[0] is Field.TOKENS)
            stop = trailing[1] if same_thing else stop
        return self._amount(field, quantity, start, stop)

    def _number_then_noun(self, start: int) -> Match | None:
        quantity = quantity_at(self._tokens, start)
        if quantity is None or start not in self._owned:
            return None
        field, stop = self._owned[start]
        if word_at(self._tokens, stop) in RATE_WORDS or word_at(self._tokens, start - 1) in RATE_WORDS:
            return Match(None, start, stop)
        if field is Field.SEED:  # "one seed" does not say which
            return Match(None, start, stop)
        return self._amount(field, quantity, start, stop)

    def _number_alone(self, start: int) -> Match | None:
        quantity = quantity_at(self._tokens, start)
        if quantity is None:
            return None
        before, stop = word_at(self._tokens, start - 1), quantity.stop
        if before in RATE_WORDS or word_at(self._tokens, stop) in RATE_WORDS:
            return Match(None, start, stop)
        field, problem = _sense(quantity, before)
        if problem is not None:
            return Match(field, start, stop, problem=problem)
        return None if field is None else self._amount(field, quantity, start, stop)

    def _amount(self, field: Field | None, quantity: Quantity, start: int, stop: int) -> Match:
        if field is None:
            return Match(None, start, stop)
        if field is Field.TIME_BUDGET and not quantity.is_duration:
            problem = "tokens, minutes or money: its unit does not tell"
            return Match(field, start, stop, problem=problem)
        return Match(field, start, stop, value=_PARSERS[field](quantity.text))

    def _noun_at(self, start: int) -> Noun | None:
        return phrase_at(self._tokens, start, NOUNS, longest=LONGEST_NOUN)

    def _noun_after(self, quantity: Quantity) -> Noun | None:
        if noun := self._noun_at(quantity.stop):
            return noun
        return self._noun_at(skip(self._tokens, quantity.stop, ADJECTIVES))

    def _number_after(self, position: int) -> Quantity | None:
        """The number behind a noun, over "of", "=" and the like."""
        return quantity_at(self._tokens, skip(self._tokens, position, STRONG_CONNECTORS))

    def _takes_next_number(self, noun: Noun) -> bool:
        field, position = noun
        quantity = self._number_after(position)
        if quantity is None:
            return False
        if word_at(self._tokens, position) in STRONG_CONNECTORS:
            return True
        own_noun = self._owned.get(quantity.start)
        # "sequence length 256 tokens": the unit of a length is the token.
        return own_noun is None or (field is Field.SEQ_LEN and own_noun[0] is Field.TOKENS)


def _sense(quantity: Quantity, before: str) -> tuple[Field | None, str | None]:
    """What a number without a noun is after that word, or why one cannot tell."""
    if quantity.is_bare:
        is_size = before == "at" and _magnitude(quantity.text) >= _SMALLEST_BARE_PARAMS
        return (Field.PARAMS if is_size else None), None
    if not quantity.is_count or (quantity.is_duration and before in MINUTE_PREPOSITIONS):
        return Field.TIME_BUDGET, None
    if quantity.is_duration and before in LIMIT_WORDS:
        return Field.PARAMS, "minutes, or millions of parameters"
    if before in MINUTE_PREPOSITIONS | {"on", "over"}:
        return Field.PARAMS, "parameters, tokens or minutes"
    return Field.PARAMS, None


def _magnitude(text: str) -> float:
    return float(text.replace(",", "").replace("_", "").replace("−", "-"))


def _positive(text: str) -> float:
    value = _magnitude(text)
    if not 0 < value < 10**9:
        raise InvalidInput(f"an amount of ${text} cannot be spent", hint="write it like $5")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST_SEED:
        raise InvalidInput(
            f"{text!r} is not a seed", hint=f"a seed is a whole number from 0 to {_LARGEST_SEED}"
        )
    return int(text)


_PARSERS: dict[Field, Callable[[str], Value]] = {
    Field.PARAMS: parse_params,
    Field.TOKENS: parse_tokens,
    Field.STEPS: parse_steps,
    Field.SEQ_LEN: parse_seq_len,
    Field.TIME_BUDGET: parse_duration,
    Field.SEED: _seed,
}
