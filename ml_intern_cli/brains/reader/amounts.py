"""Matchers of numbers: which of parameters, tokens, steps, sequence length, time, seed and money each one is.

A number belongs to the noun beside it. Where nouns stand on both sides ("10m tokens 5M, seq 256"), a noun
goes with the number after it unless that one has a noun of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ml_intern_cli.brains.reader.match import Match, Value, phrase_at, skip, word_at, words
from ml_intern_cli.brains.reader.numbers import Quantity, quantity_at
from ml_intern_cli.brains.reader.tokens import Kind, Token
from ml_intern_cli.brains.reader.vocabulary import (
    ADJECTIVES,
    COUNTED_IN_UNITS,
    COUNTED_THINGS,
    CURRENCY,
    DATA_NOUNS,
    KNOWN_DATASETS,
    LESS_WORDS,
    LIMIT_WORDS,
    LONGEST_NOUN,
    MINUS_WORDS,
    MINUTE_PREPOSITIONS,
    MORE_WORDS,
    NEGATIONS,
    NO_PLURALS,
    NOUNS,
    OTHER_WORK,
    RANGE_WORDS,
    RATE_UNITS,
    RATE_WORDS,
    STOP_WORDS,
    STRONG_CONNECTORS,
    Field,
)
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import parse_duration, parse_params, parse_seq_len, parse_steps, parse_tokens

_LARGEST_SEED = 2**32 - 1
_SMALLEST_BARE_PARAMS = 10_000  # "at 1000000" is a size; "at 3" is something else
_SHORTEST_PLURAL = 3  # characters: "rows", and not "is"
_PAUSES = frozenset(",;.:!?)")

_COUNTED = words(COUNTED_THINGS)
_COUNTED_IN_UNITS = words(COUNTED_IN_UNITS)
_NOT_COUNTED = STOP_WORDS | NOUNS.keys() | NO_PLURALS | NEGATIONS

_RANGE = "a range; one value is needed"
_TWO_VALUES = "two values; one is needed"
_LOWER_BOUND = "a lower bound; one value is needed"
_UPPER_BOUND = "an upper bound; one size is needed"


@dataclass(frozen=True, slots=True)
class Noun:
    """``tokens[start:stop]`` is what a number counts; ``field`` is ``None`` if no task has a place for it."""

    field: Field | None
    start: int
    stop: int


class AmountMatcher:
    """Finds what the quantity at a position means. Built once per sentence, because nouns are shared out."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._owned: dict[int, Noun] = {}  # start of a quantity → the noun after it, where that is its own
        for start in reversed(range(len(tokens))):
            quantity = quantity_at(tokens, start)
            noun = quantity and self._own_noun(quantity)
            if noun:
                self._owned[start] = noun

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
        quantity, stop = self._sum_at(start)
        if quantity is None:
            return None
        if self._is_rate(start, stop):
            return Match(None, start, stop)
        if other := self._other_value(stop):
            return Match(Field.MAX_USD, start, other.stop, problem=_RANGE)
        is_negative = word_at(self._tokens, start - 1) in MINUS_WORDS | {"-"}  # "-$5"
        text = f"-{quantity.text}" if is_negative else quantity.text
        value = parse_params(text) if not quantity.is_bare else _positive(text)
        return Match(Field.MAX_USD, start, stop, value=float(value))

    def _sum_at(self, start: int) -> tuple[Quantity | None, int]:
        """The number of a sum of money that starts there, and the position after the sum."""
        has_currency = word_at(self._tokens, start) in CURRENCY
        quantity = quantity_at(self._tokens, start + has_currency)
        if quantity is None or not quantity.is_count:
            return None, start
        if has_currency:
            return quantity, quantity.stop
        stop = quantity.stop + 1
        if word_at(self._tokens, quantity.stop) not in CURRENCY or quantity_at(self._tokens, stop):
            return None, start
        # In "10M $5" and "10M $(x)" the sign belongs to what follows.
        is_of_following = any(
            token.start == self._tokens[quantity.stop].end and token.text not in _PAUSES
            for token in self._tokens[stop : stop + 1]
        )
        return (None, start) if is_of_following else (quantity, stop)

    def _range(self, start: int) -> Match | None:
        """``20-30 minutes``, ``5M to 10M tokens``: two values where one is needed."""
        low = quantity_at(self._tokens, start)
        if low is None or start in self._owned or low.stop >= len(self._tokens):
            return None
        joint = word_at(self._tokens, low.stop)
        is_between = joint == "and" and word_at(self._tokens, start - 1) == "between"
        follower = low.stop + (joint in RANGE_WORDS or is_between)
        high = quantity_at(self._tokens, follower)
        if high is None or (follower == low.stop and not self._tokens[follower].glued):
            return None
        is_of_one_kind = (
            low.is_bare or (low.is_count and high.is_count) or (low.is_duration and high.is_duration)
        )
        noun = self._owned.get(follower, Noun(None, follower, high.stop))
        field = noun.field
        if field is None and not high.is_bare and follower not in self._owned:
            field = Field.TIME_BUDGET if high.is_duration else Field.PARAMS
        if field is None or not is_of_one_kind:
            return None
        return Match(field, start, noun.stop, problem=_RANGE)

    def _other_value(self, position: int) -> Quantity | None:
        """The second number of "seed 1 and 2" or "seq 256-512", if one stands there."""
        is_joined = word_at(self._tokens, position) in RANGE_WORDS | {"and"}
        follower = position + is_joined
        other = quantity_at(self._tokens, follower)
        if other is None or not other.is_bare or follower in self._owned:
            return None
        return other if is_joined or self._tokens[follower].glued else None

    def _noun_then_number(self, start: int) -> Match | None:
        noun = self._noun_at(start)
        if noun is None or not self._takes_next_number(noun, comes_first=True):
            return None
        quantity = self._number_after(noun, comes_first=True)
        if quantity is None:
            return None
        stop = quantity.stop
        trailing = self._noun_at(skip(self._tokens, stop, ADJECTIVES))
        if trailing and not self._takes_next_number(trailing):
            same_thing = trailing.field == noun.field or self._is_unit_of(trailing, noun)
            stop = trailing.stop if same_thing else stop
        if noun.field is not None and (other := self._other_value(stop)):
            return Match(noun.field, start, other.stop, problem=_TWO_VALUES)
        return self._amount(noun.field, quantity, start, stop)

    def _number_then_noun(self, start: int) -> Match | None:
        quantity = quantity_at(self._tokens, start)
        if quantity is None or start not in self._owned:
            return None
        noun = self._owned[start]
        if self._is_rate(start, noun.stop) or self._is_of_other_work(start):
            return Match(None, start, noun.stop)
        if noun.field is Field.SEED:  # "one seed" does not say which
            return Match(None, start, noun.stop)
        return self._amount(noun.field, quantity, start, noun.stop)

    def _number_alone(self, start: int) -> Match | None:
        quantity = quantity_at(self._tokens, start)
        if quantity is None:
            return None
        before, stop = word_at(self._tokens, start - 1), quantity.stop
        if self._is_rate(start, stop) or self._is_of_other_work(start):
            return Match(None, start, stop)
        field, problem = _sense(quantity, before)
        if field is not None and word_at(self._tokens, stop) in RANGE_WORDS:  # "an hour or two"
            other = self._other_value(stop)
            stop, problem = (other.stop, _TWO_VALUES) if other else (stop, problem)
        if problem is not None:
            return Match(field, start, stop, problem=problem)
        return None if field is None else self._amount(field, quantity, start, stop)

    def _amount(self, field: Field | None, quantity: Quantity, start: int, stop: int) -> Match:
        if field is None:
            return Match(None, start, stop)
        if field is Field.TIME_BUDGET and not quantity.is_duration:
            problem = "tokens, minutes or money: its unit does not tell"
            return Match(field, start, stop, problem=problem)
        bound = None if field is Field.SEED else self._bound(field, quantity, stop)
        if bound is not None:
            return Match(field, start, stop, problem=bound)
        return Match(field, start, stop, value=_PARSERS[field](quantity.text))

    def _bound(self, field: Field, quantity: Quantity, stop: int) -> str | None:
        """Why the number is none to aim at, as in "at least 5M tokens", "10M+" and "under 10M parameters".

        An upper bound of a budget is the budget; "at most" and "up to" a size is read as that size.
        """
        position = quantity.start - 1
        last = word_at(self._tokens, position)
        second = word_at(self._tokens, position - 1)
        third = word_at(self._tokens, position - 2)
        if last == "=" and second in {"<", ">"}:  # ≤ is "at most"
            last = "≥" if second == ">" else ""
        is_negated = third in NEGATIONS
        is_lower = (
            (second, last) == ("at", "least")
            or last in {">", "≥", "minimum"}
            or (last == "than" and (second in MORE_WORDS) != is_negated and second in MORE_WORDS | LESS_WORDS)
            or (last in {"over", "above"} and second in MINUTE_PREPOSITIONS | {"at", "with", "of"})
            or (word_at(self._tokens, stop) == "or" and word_at(self._tokens, stop + 1) in MORE_WORDS)
            or self._has_plus(quantity.stop)
        )
        if is_lower:
            return _LOWER_BOUND
        is_upper = last in {"<", "under", "below"} or (last == "than" and not is_negated)
        return _UPPER_BOUND if is_upper and field is Field.PARAMS else None

    def _has_plus(self, position: int) -> bool:
        """Whether there is the plus of "10M+", and not that of "10M+MTP"."""
        if word_at(self._tokens, position) != "+":
            return False
        plus, following = self._tokens[position], self._tokens[position + 1 : position + 2]
        is_glued = self._tokens[position - 1].end == plus.start
        return is_glued and not any(token.start == plus.end for token in following)

    def _is_rate(self, start: int, stop: int) -> bool:
        """Whether the amount is one per something: "per batch", "tokens a step", "every 20 minutes"."""
        after = word_at(self._tokens, stop)
        is_of_one = after in {"a", "an"} and word_at(self._tokens, stop + 1) in RATE_UNITS
        return after in RATE_WORDS or is_of_one or word_at(self._tokens, start - 1) in RATE_WORDS

    def _is_of_other_work(self, start: int) -> bool:
        """Whether the amount is not of training: "evaluate on 100k tokens", "generate 100 tokens"."""
        position = start - 1
        if word_at(self._tokens, position) in {"on", "over", "with", "of", "for", ":"}:
            position -= 1
        word = word_at(self._tokens, position)
        return word in OTHER_WORK or word_at(self._tokens, position - 1) + word in OTHER_WORK

    def _noun_at(self, start: int) -> Noun | None:
        found = phrase_at(self._tokens, start, NOUNS, longest=LONGEST_NOUN)
        return Noun(found[0], start, found[1]) if found else None

    def _own_noun(self, quantity: Quantity) -> Noun | None:
        """What stands behind a number and says what it counts, unless that goes with the number after it."""
        tokens, stop = self._tokens, quantity.stop
        if quantity.is_bare and self._ends_a_name(quantity.start):
            return None
        if quantity.is_count and (counted := self._counted(stop)):
            return Noun(None, stop, counted)
        noun = self._noun_at(stop) or self._noun_at(skip(tokens, stop, ADJECTIVES))
        is_of_data = noun is not None and word_at(tokens, noun.start) in DATA_NOUNS  # "10M, dataset size 1M"
        if noun is None or is_of_data or self._takes_next_number(noun):
            return None
        # "256 tokens of context", "100 steps warmup", "64k-token batches"
        measured = self._noun_at(skip(tokens, noun.stop, {"of", "long"}))
        if measured and self._is_unit_of(noun, measured) and not self._takes_next_number(measured):
            return replace(measured, start=noun.start)
        return noun

    def _counted(self, position: int) -> int | None:
        """The position after the things that are counted there: "runs", "tweets", "tok/s"."""
        if found := phrase_at(self._tokens, position, _COUNTED):
            return found[1]
        if position >= len(self._tokens):
            return None
        token = self._tokens[position]
        if token.kind is Kind.PATH:
            first, _, last = token.lower.partition("/")
            is_counted = (first in NOUNS or first in COUNTED_THINGS) and last in RATE_UNITS
        else:
            is_counted = (
                token.kind is Kind.WORD
                and len(token.lower) > _SHORTEST_PLURAL
                and token.lower.endswith("s")
                and not token.lower.endswith(("ss", "us", "is"))
                and token.lower not in _NOT_COUNTED
                and phrase_at(self._tokens, position, KNOWN_DATASETS) is None
            )
        return position + 1 if is_counted else None

    def _ends_a_name(self, start: int) -> bool:
        """Whether a plain number is the end of a name, as in "GPT-2 scale"."""
        before = self._tokens[start - 1] if start and self._tokens[start].glued else None
        return before is not None and before.kind is Kind.WORD

    def _number_after(self, noun: Noun, *, comes_first: bool = False) -> Quantity | None:
        """The number behind a noun, over "of", "=" and the like; over "to" where none stands before it."""
        connectors = STRONG_CONNECTORS | {"to"} if comes_first else STRONG_CONNECTORS
        return quantity_at(self._tokens, skip(self._tokens, noun.stop, connectors))

    def _takes_next_number(self, noun: Noun, *, comes_first: bool = False) -> bool:
        """Whether the number behind a noun is the noun's; ``comes_first``: no number stands before it."""
        quantity = self._number_after(noun, comes_first=comes_first)
        if quantity is None:
            return False
        is_measured = noun.field is Field.TIME_BUDGET or (noun.field is None and self._is_in_units(noun))
        if not quantity.is_count and not is_measured:  # "512 context 1h"
            return False
        if noun.field is Field.TIME_BUDGET and self._sum_at(quantity.start)[0]:  # "a budget of 5 dollars"
            return False
        own_noun = self._owned.get(quantity.start)
        if own_noun is None or own_noun.field == noun.field:
            return True
        is_tied = comes_first or word_at(self._tokens, noun.stop) in STRONG_CONNECTORS
        return is_tied and self._is_unit_of(own_noun, noun)

    def _is_unit_of(self, unit: Noun, noun: Noun) -> bool:
        """Whether one counts the other: a sequence length in tokens, a warmup in steps."""
        if noun.field is Field.SEQ_LEN:
            return unit.field is Field.TOKENS
        return self._is_in_units(noun) and unit.field in {Field.TOKENS, Field.STEPS}

    def _is_in_units(self, noun: Noun) -> bool:
        return phrase_at(self._tokens, noun.start, _COUNTED_IN_UNITS) is not None


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
