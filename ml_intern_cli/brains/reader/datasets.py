"""Matcher of the dataset: a path, a Hub id, the built-in corpus, or a name after "on" or "dataset"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ml_intern_cli.brains.reader.match import Match, negation_before, phrase_at, skip, word_at
from ml_intern_cli.brains.reader.numbers import quantity_at
from ml_intern_cli.brains.reader.tokens import DATA_SUFFIX, Kind, Token
from ml_intern_cli.brains.reader.vocabulary import (
    DATA_NOUNS,
    DATASET_MARKERS,
    DETERMINERS,
    KNOWN_DATASETS,
    NAMING_MARKERS,
    NOT_DATASETS,
    STOP_WORDS,
    VAGUE_DETERMINERS,
    Field,
)

_HUB_ID = re.compile(r"[A-Za-z][\w.-]*/[\w.-]*[A-Za-z][\w.-]*(:[\w.-]+)?")
_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+(?:/[\w.-]+)?)")
_LOCAL_PATH = re.compile(
    rf"builtin:.+|(?:~|\.{{1,2}})?/.+|.+/|.+/.+/.*|.*{DATA_SUFFIX}", re.IGNORECASE | re.DOTALL
)


def match_dataset(tokens: Sequence[Token], start: int) -> Match | None:
    """The dataset or its column, if one is named there. "My data" names none, which is a problem."""
    if negation_before(tokens, start) is not None:
        return None
    return (
        _column(tokens, start)
        or _reference(tokens, start, start)
        or _after_marker(tokens, start)
        or _before_noun(tokens, start)
    )


def _column(tokens: Sequence[Token], start: int) -> Match | None:
    """``column text``, ``column 'story'``."""
    if word_at(tokens, start) != "column":
        return None
    position = skip(tokens, start + 1, {"=", ":", "named", "called", "is"})
    if position == len(tokens) or tokens[position].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    stop = _end_of_name(tokens, position)
    return Match(Field.DATASET_COLUMN, start, stop, value=_written(tokens, position, stop, joint="_"))


def _reference(tokens: Sequence[Token], start: int, position: int) -> Match | None:
    """A name or token that cannot be anything but a dataset, wherever it stands."""
    if known := phrase_at(tokens, position, KNOWN_DATASETS):
        return _named(tokens, start, known[1], known[0])
    location = _location(tokens[position])
    return _named(tokens, start, position + 1, location) if location else None


def _location(token: Token) -> str | None:
    """The local path or Hub id that a token is, if it is one."""
    if token.kind not in (Kind.PATH, Kind.QUOTED):
        return None
    if url := _HUB_URL.match(token.text):
        return url[1]
    is_other_page = token.text.startswith("http") and not re.search(rf"{DATA_SUFFIX}$", token.text)
    is_prose = token.kind is Kind.PATH and (token.lower in NOT_DATASETS or _is_ratio(token.text))
    is_location = _LOCAL_PATH.fullmatch(token.text) or _HUB_ID.fullmatch(token.text)
    return token.text if is_location and not is_other_page and not is_prose else None


def _after_marker(tokens: Sequence[Token], start: int) -> Match | None:
    """``on TinyStories``, ``using the wikitext dataset``, ``dataset: "my notes"``."""
    marker = word_at(tokens, start)
    if marker not in DATASET_MARKERS:
        return None
    position = skip(tokens, start + 1, DETERMINERS)
    if position == len(tokens):
        return None
    if reference := _reference(tokens, start, position):
        return reference
    naming = marker in NAMING_MARKERS or any(word_at(tokens, i) in DATA_NOUNS for i in range(start, position))
    if tokens[position].kind is Kind.QUOTED and naming:
        return _named(tokens, start, position + 1, tokens[position].text)
    return _vague_name(tokens, start, position) or _plain_name(tokens, start, position, naming=naming)


def _vague_name(tokens: Sequence[Token], start: int, position: int) -> Match | None:
    """``my data``: a dataset is meant, and not named."""
    noun = skip(tokens, position, VAGUE_DETERMINERS)
    if noun == position or word_at(tokens, noun) not in DATA_NOUNS:
        return None
    return Match(Field.DATASET, start, noun + 1, problem="it does not say which data")


def _plain_name(tokens: Sequence[Token], start: int, position: int, *, naming: bool) -> Match | None:
    if tokens[position].kind is not Kind.WORD or tokens[position].lower in NOT_DATASETS | STOP_WORDS:
        return None
    stop = _end_of_name(tokens, position)
    followed_by_noun = word_at(tokens, stop) in DATA_NOUNS
    ends_here = (
        stop == len(tokens) or tokens[stop].kind is Kind.PUNCTUATION or tokens[stop].lower in STOP_WORDS
    )
    if followed_by_noun or (naming and (ends_here or quantity_at(tokens, stop) is not None)):
        return _named(tokens, start, stop, _written(tokens, position, stop))
    return None


def _before_noun(tokens: Sequence[Token], start: int) -> Match | None:
    """``"my notes" dataset``: quotation marks make a name of anything."""
    if tokens[start].kind is Kind.QUOTED and word_at(tokens, start + 1) in DATA_NOUNS:
        return _named(tokens, start, start + 1, tokens[start].text)
    return None


def _named(tokens: Sequence[Token], start: int, stop: int, name: str) -> Match:
    return Match(Field.DATASET, start, stop + (word_at(tokens, stop) in DATA_NOUNS), value=name)


def _end_of_name(tokens: Sequence[Token], position: int) -> int:
    """The position after a word and what is glued to it: ``FineWeb-Edu``."""
    stop = position + 1
    while stop < len(tokens) and tokens[stop].glued:
        stop += 1
    return stop


def _written(tokens: Sequence[Token], start: int, stop: int, *, joint: str = "-") -> str:
    return joint.join(token.text for token in tokens[start:stop])


def _is_ratio(text: str) -> bool:
    """Whether it is numbers on both sides of a slash: ``100M/1B``."""
    return all(part[:1].isdigit() for part in text.split("/"))
