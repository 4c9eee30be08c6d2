"""What a sentence says, what of it contradicts itself, and what of it was not understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ml_intern_cli.brains.reader.amounts import AmountMatcher
from ml_intern_cli.brains.reader.datasets import match_dataset
from ml_intern_cli.brains.reader.match import Match, Value
from ml_intern_cli.brains.reader.numbers import with_digits
from ml_intern_cli.brains.reader.phrases import ArchitectureMatcher, match_phrase
from ml_intern_cli.brains.reader.tokens import Kind, Token, tokenize
from ml_intern_cli.brains.reader.vocabulary import NOUNS, STOP_WORDS, Field
from ml_intern_cli.errors import InvalidInput

_LONGEST_SENTENCE = 4000  # characters
_CLAUSE_ENDS = frozenset(",;:.!?()[]{}–—")


@dataclass(frozen=True, slots=True)
class Understood:
    """A part of the sentence, ``sentence[start:end]``, and what it says."""

    field: Field
    value: Value
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A field for which the sentence does not say one value."""

    field: Field
    said: tuple[str, ...]  # the parts of the sentence
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read.

    Attributes:
        understood: Every part that says something, in order.
        conflicts: Fields that are said in two ways or unclearly; they have no value.
        not_understood: What is left of the sentence without the words that carry no meaning.
    """

    sentence: str
    understood: tuple[Understood, ...]
    conflicts: tuple[Conflict, ...]
    not_understood: tuple[str, ...]

    def values(self, field: Field) -> tuple[Value, ...]:
        """All values said of a field, in order, each once."""
        return tuple(dict.fromkeys(part.value for part in self.understood if part.field is field))

    def text(self, field: Field) -> str | None:
        """The one text said of a field; ``None`` when it is not said or not clear."""
        value = self._value(field)
        return value if isinstance(value, str) else None

    def count(self, field: Field) -> int | None:
        """The one whole number said of a field; ``None`` when it is not said or not clear."""
        value = self._value(field)
        return value if isinstance(value, int) else None

    def amount(self, field: Field) -> float | None:
        """The one number said of a field; ``None`` when it is not said or not clear."""
        value = self._value(field)
        return None if value is None or isinstance(value, str) else float(value)

    def _value(self, field: Field) -> Value | None:
        if any(conflict.field is field for conflict in self.conflicts):
            return None
        return next(iter(self.values(field)), None)


def read(sentence: str, *, spellings: Mapping[str, str], arxiv_ids: Mapping[str, str]) -> Reading:
    """Read a sentence.

    Args:
        sentence: What the user wrote.
        spellings: Spelling of an architecture's name or alias → its name.
        arxiv_ids: arXiv id without version → name of the architecture.

    Raises:
        InvalidInput: a size is negative, zero or absurd, or the text is no sentence but a document.
    """
    if len(sentence) > _LONGEST_SENTENCE:
        raise InvalidInput(
            f"a task is a sentence of at most {_LONGEST_SENTENCE:,} characters; this has {len(sentence):,}",
            hint='write it like: ml-intern run "implement DeepSeek-V3 at 100M on data/my.txt for 20 minutes"',
        )
    tokens = with_digits(tokenize(sentence))
    architectures = ArchitectureMatcher(tokens, spellings=spellings, arxiv_ids=arxiv_ids)

    def dataset(start: int) -> Match | None:
        found = match_dataset(tokens, start)
        # "on DeepSeek-V3" names no dataset.
        is_architecture = found and any(architectures.match(i) for i in range(start, found.stop))
        return None if is_architecture else found

    matches = _scan(
        tokens,
        (
            architectures.match,
            AmountMatcher(tokens).match,
            lambda start: match_phrase(tokens, start),
            dataset,
        ),
    )
    if any(match.field is Field.ARCHITECTURE and match.value for match in matches):
        matches += architectures.others()  # "DeepSeek-V3 and GPT-2": which of the two?
    understood = tuple(
        Understood(match.field, match.value, tokens[match.start].start, tokens[match.stop - 1].end)
        for match in matches
        if match.field is not None and match.value is not None
    )
    return Reading(
        sentence=sentence,
        understood=understood,
        conflicts=_conflicts(sentence, tokens, matches),
        not_understood=_leftovers(sentence, tokens, matches),
    )


def _scan(tokens: Sequence[Token], matchers: Sequence[Callable[[int], Match | None]]) -> list[Match]:
    """All matches from left to right; at each position the first matcher that finds something wins."""
    matches: list[Match] = []
    position = 0
    while position < len(tokens):
        found = next((match for matcher in matchers if (match := matcher(position))), None)
        if found:
            # A negation before the match may be part of what was matched before.
            before = matches[-1].stop if matches else 0
            matches.append(replace(found, start=max(found.start, before)))
        position = found.stop if found else position + 1
    return matches


def _conflicts(sentence: str, tokens: Sequence[Token], matches: Sequence[Match]) -> tuple[Conflict, ...]:
    conflicts = []
    for field in Field:
        if field is Field.METHOD:  # "pretrain, then DPO" is two methods, not a contradiction
            continue
        about = [match for match in matches if match.field is field]
        said = tuple(_quote(sentence, tokens, match) for match in about)
        problems = [
            f"{text!r}: {match.problem}" for text, match in zip(said, about, strict=True) if match.problem
        ]
        if problems:
            conflicts.append(Conflict(field, said, "; ".join(problems)))
        elif len({match.value for match in about}) > 1:
            conflicts.append(
                Conflict(field, said, f"said in different ways: {' and '.join(map(repr, said))}")
            )
    return tuple(conflicts)


def _leftovers(sentence: str, tokens: Sequence[Token], matches: Sequence[Match]) -> tuple[str, ...]:
    """Runs of tokens that nothing used, within one clause, without stop words at their ends."""
    used = {i for match in matches if match.field is not None for i in range(match.start, match.stop)}
    runs: list[list[Token]] = [[]]
    for position, token in enumerate(tokens):
        if position in used or token.text in _CLAUSE_ENDS:
            runs.append([])
        else:
            runs[-1].append(token)
    fragments = []
    for run in runs:
        meaningful = [
            token
            for before, token in zip([None, *run], run, strict=False)
            if token.kind is not Kind.PUNCTUATION
            # The noun after a number says what the number is of.
            and (token.lower not in STOP_WORDS or (before is not None and _counts(before, token)))
        ]
        if meaningful:
            fragments.append(sentence[meaningful[0].start : meaningful[-1].end])
    return tuple(fragments)


def _counts(before: Token, token: Token) -> bool:
    return before.kind is Kind.NUMBER and token.lower in NOUNS


def _quote(sentence: str, tokens: Sequence[Token], match: Match) -> str:
    return sentence[tokens[match.start].start : tokens[match.stop - 1].end]
