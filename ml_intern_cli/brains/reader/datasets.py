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
    DESTINATION_WORDS,
    DETERMINERS,
    KNOWN_DATASETS,
    NAMING_MARKERS,
    NEGATIONS,
    NOT_DATASETS,
    NOT_NAMING,
    NOUNS,
    OTHER_WORK,
    OUTPUT_VERBS,
    STOP_WORDS,
    VAGUE_DETERMINERS,
    Field,
)
from ml_intern_cli.brains.spelling import spelling

_HUB_ID = re.compile(r"[A-Za-z][\w.-]*/[\w.-]*[A-Za-z][\w.-]*(:[\w.-]+)?")
_HUB_URL = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)datasets/([\w.-]+(?:/[\w.-]+)?)"
)
_LOCAL_PATH = re.compile(
    rf"builtin:.+|[a-z]:[\\/].+|(?:~|\.{{1,2}})?/.+|.+/|.+/.+/.*|.*{DATA_SUFFIX}", re.IGNORECASE | re.DOTALL
)
_VERSION = re.compile(r"v[0-9]+", re.IGNORECASE)
_ORDINARY = (NOT_DATASETS | STOP_WORDS | NOUNS.keys() | NEGATIONS) - DATA_NOUNS
_OUTPUT_REACH = 4  # words after "save" in which a path is where to


def match_dataset(tokens: Sequence[Token], start: int) -> Match | None:
    """The dataset or its column, if one is named there. "My data" names none, which is a problem."""
    if negation_before(tokens, start) is not None or _is_destination(tokens, start):
        return None
    found = (
        _column(tokens, start)
        or _reference(tokens, start, start)
        or _after_marker(tokens, start)
        or _before_noun(tokens, start)
    )
    if found and _is_for_other_work(tokens, start):
        return Match(None, start, found.stop)
    return found


def _is_destination(tokens: Sequence[Token], start: int) -> bool:
    """Whether what stands there is where something goes: "push to me/model", "save it in out/x"."""
    before = range(start - 1, max(-1, start - 1 - _OUTPUT_REACH), -1)
    return word_at(tokens, start - 1) in DESTINATION_WORDS or any(
        tokens[i].lower in OUTPUT_VERBS for i in before if word_at(tokens, start) not in DATASET_MARKERS
    )


def _is_for_other_work(tokens: Sequence[Token], start: int) -> bool:
    """Whether it is not trained on: "evaluate on wikitext-2", "validate it with x.txt"."""
    position = start - 1
    if word_at(tokens, position) in {"it", "them", "model", ":"}:
        position -= 1 + (word_at(tokens, position - 1) == "the")
    return word_at(tokens, position) in OTHER_WORK


def _column(tokens: Sequence[Token], start: int) -> Match | None:
    """``column text``, ``column 'story'``."""
    if word_at(tokens, start) != "column":
        return _column_after_name(tokens, start)
    position = skip(tokens, start + 1, {"=", ":", "named", "called", "is"})
    if position == len(tokens) or tokens[position].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    stop = _end_of_name(tokens, position)
    return Match(Field.DATASET_COLUMN, start, stop, value=_written(tokens, position, stop, joint="_"))


def _column_after_name(tokens: Sequence[Token], start: int) -> Match | None:
    """``the text column``, where no name follows "column"."""
    name, following = tokens[start], start + 2
    is_name = name.kind in (Kind.WORD, Kind.QUOTED) and name.lower not in STOP_WORDS | VAGUE_DETERMINERS
    if not is_name or word_at(tokens, start + 1) != "column":
        return None
    ends = following >= len(tokens) or tokens[following].kind is Kind.PUNCTUATION
    if not ends and tokens[following].lower not in STOP_WORDS:
        return None
    if word_at(tokens, following) in {"=", ":"}:
        return None
    return Match(Field.DATASET_COLUMN, start, following, value=name.text)


def _reference(tokens: Sequence[Token], start: int, position: int) -> Match | None:
    """A name or token that cannot be anything but a dataset, wherever it stands."""
    if known := phrase_at(tokens, position, KNOWN_DATASETS):
        name, stop = known
        if other := _end_of_variant(tokens, stop):
            problem = f"not {name}, and no other known dataset: write its Hub id"
            return Match(Field.DATASET, start, other, problem=problem)
        return _named(tokens, start, stop, name)
    location = _location(tokens[position], is_marked=position > start)
    return _named(tokens, start, position + 1, location) if location else None


def _end_of_variant(tokens: Sequence[Token], stop: int) -> int | None:
    """The end of what makes another dataset of a known one: TinyStories-v2, fineweb-10BT, but no -20min."""
    if stop == len(tokens):
        return None
    if not tokens[stop].glued:
        return stop + 1 if _VERSION.fullmatch(tokens[stop].text) else None
    quantity = quantity_at(tokens, stop)
    is_setting = tokens[stop].lower in DATA_NOUNS | NOUNS.keys() or (quantity and not quantity.is_count)
    return None if is_setting else _end_of_name(tokens, stop)


def _location(token: Token, *, is_marked: bool) -> str | None:
    """The local path or Hub id that a token is, if it is one; ``is_marked``: behind "on" or "dataset"."""
    if token.kind not in (Kind.PATH, Kind.QUOTED):
        return None
    if url := _HUB_URL.match(token.text):
        return url[1]
    is_other_page = token.text.startswith("http") and not re.search(rf"{DATA_SUFFIX}$", token.text)
    is_prose = token.kind is Kind.PATH and (
        token.lower in NOT_DATASETS or _is_ratio(token.text) or _is_choice(token.lower, is_marked=is_marked)
    )
    is_location = _LOCAL_PATH.fullmatch(token.text) or _HUB_ID.fullmatch(token.text)
    return token.text if is_location and not is_other_page and not is_prose else None


def _after_marker(tokens: Sequence[Token], start: int) -> Match | None:
    """``on TinyStories``, ``using the wikitext dataset``, ``dataset: "my notes"``."""
    marker = word_at(tokens, start)
    if marker not in DATASET_MARKERS or word_at(tokens, start - 1) in NOT_NAMING:
        return None
    position = skip(tokens, start + 1, DETERMINERS)
    if position == len(tokens):
        return None
    if reference := _reference(tokens, start, position):
        return reference
    # "data parallel" names nothing; "data: imdb" and "the data imdb" do.
    naming = marker in NAMING_MARKERS or any(
        word_at(tokens, i) in DATA_NOUNS for i in range(start + (position == start + 1), position)
    )
    if word_at(tokens, position + 1) == "column":
        return None
    if tokens[position].kind is Kind.QUOTED and (naming or marker in DATA_NOUNS):
        text = tokens[position].text
        return _named(tokens, start, position + 1, KNOWN_DATASETS.get(spelling(text), text))
    return _vague_name(tokens, start, position) or _plain_name(tokens, start, position, naming=naming)


def _vague_name(tokens: Sequence[Token], start: int, position: int) -> Match | None:
    """``my data``: a dataset is meant, and not named."""
    noun = skip(tokens, position, VAGUE_DETERMINERS)
    if noun == position or word_at(tokens, noun) not in DATA_NOUNS:
        return None
    name = skip(tokens, noun, DETERMINERS)
    if name < len(tokens) and (reference := _reference(tokens, start, name)):  # "my file notes.txt"
        return reference
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
    return "/" in text and all(part[:1].isdigit() for part in text.split("/"))


def _is_choice(text: str, *, is_marked: bool) -> bool:
    """Whether it is ordinary words on both sides of a slash: ``tokens/param``, ``GPU/CPU``, ``yes/no``."""
    ordinary = NOT_DATASETS if is_marked else _ORDINARY
    parts = text.split("/")
    return len(parts) > 1 and all(
        part in ordinary or part[:1].isdigit() or (len(part) == 1 and not is_marked) for part in parts
    )
