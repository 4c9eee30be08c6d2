"""Matchers of words: architecture, method, where to publish, and what success is measured by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from ml_intern_cli.brains.reader.match import Match, negation_before, phrase_at, skip, word_at, words
from ml_intern_cli.brains.reader.numbers import quantity_at
from ml_intern_cli.brains.reader.tokens import Kind, Token
from ml_intern_cli.brains.reader.vocabulary import (
    ARCHITECTURE_SUFFIXES,
    METRIC_TRIGGERS,
    METRICS,
    PRETRAINING,
    PUBLISH_PLACES,
    PUBLISH_VERBS,
    UNSUPPORTED_METHODS,
    Field,
)
from ml_intern_cli.brains.spelling import spelling

_LONGEST_ARCHITECTURE = 4  # tokens: "Deep Seek V 3"
_NEAR_MISS = 0.8  # DeepSeek-V2, DeepSeek-R1 and DeepSeek-V3.2-Exp against DeepSeek-V3
_SHORTEST_NEAR_MISS = 6  # characters; shorter names are all alike
_ARXIV_ID = re.compile(r"(?<![0-9.])([0-9]{4}\.[0-9]{4,5})(?:v[0-9]+)?(?![0-9])")
_VERSION = re.compile(r"[vr]?[0-9]+(\.[0-9]+)*")
_COMPARATORS = {"<", ">", "≤", "≥", "=", "below", "under", "above", "over", "of", "less", "at"}
_PUBLISH_REACH = 6  # tokens after the verb in which its place is looked for


class ArchitectureMatcher:
    """Knows architectures by their spellings and by the arXiv ids of their papers."""

    def __init__(
        self, tokens: Sequence[Token], *, spellings: Mapping[str, str], arxiv_ids: Mapping[str, str]
    ) -> None:
        self._tokens = tokens
        self._spellings = spellings
        self._arxiv_ids = arxiv_ids

    def match(self, start: int) -> Match | None:
        """An architecture that starts there; a near miss such as DeepSeek-V2 is a problem, not a match."""
        if negation_before(self._tokens, start) is not None:
            return None
        return self._paper(start) or self._location(start) or self._name(start) or self._near_miss(start)

    def _paper(self, start: int) -> Match | None:
        """``2412.19437``, ``arXiv:2412.19437v2``, ``https://arxiv.org/abs/2412.19437``."""
        number = (
            skip(self._tokens, start, {"arxiv", ":"}) if word_at(self._tokens, start) == "arxiv" else start
        )
        if number >= len(self._tokens):
            return None
        paper = _ARXIV_ID.search(self._tokens[number].text)
        name = self._arxiv_ids.get(paper[1]) if paper else None
        return Match(Field.ARCHITECTURE, start, number + 1, value=name) if name else None

    def _location(self, start: int) -> Match | None:
        """``deepseek-ai/DeepSeek-V3``, on the Hub or as its URL; or the name in quotation marks."""
        token = self._tokens[start]
        if token.kind is Kind.PATH and (token.text.startswith("http") or token.text.count("/") == 1):
            name = self._spellings.get(spelling(token.text.rsplit("/", 1)[-1]))
        elif token.kind is Kind.QUOTED:
            name = self._spellings.get(spelling(token.text))
        else:
            return None
        return Match(Field.ARCHITECTURE, start, start + 1, value=name) if name else None

    def _name(self, start: int) -> Match | None:
        found = phrase_at(self._tokens, start, self._spellings, longest=_LONGEST_ARCHITECTURE)
        if found is None or self._tokens[start].glued:
            return None
        name, stop = found
        if stop < len(self._tokens) and not self._may_follow(stop):
            return None
        return Match(Field.ARCHITECTURE, start, stop, value=name)

    def _may_follow(self, position: int) -> bool:
        """Whether what stands behind a name leaves it that name: -100M or -style, but not -Lite or V2."""
        quantity = quantity_at(self._tokens, position)
        if quantity is not None and not quantity.is_bare:
            return True
        token = self._tokens[position]
        if token.glued:
            return token.lower in ARCHITECTURE_SUFFIXES
        return token.kind is not Kind.WORD or _VERSION.fullmatch(token.lower) is None

    def _near_miss(self, start: int) -> Match | None:
        """``DeepSeek-V2``, ``DeepSeek-V3-Lite``: a version of something known that is not known itself."""
        for stop in range(min(len(self._tokens), start + _LONGEST_ARCHITECTURE), start, -1):
            spelt = _version_name(self._tokens[start:stop])
            near = get_close_matches(spelt, self._spellings, n=1, cutoff=_NEAR_MISS) if spelt else []
            if near:
                problem = f"not {self._spellings[near[0]]}, and no other known architecture"
                return Match(Field.ARCHITECTURE, start, stop, problem=problem)
        return None


def _version_name(run: Sequence[Token]) -> str | None:
    """The spelling of words that could be one name with a version in it."""
    if any(token.kind not in (Kind.WORD, Kind.NUMBER) for token in run) or run[0].kind is Kind.NUMBER:
        return None
    if any(not token.glued and _VERSION.fullmatch(token.lower) is None for token in run[1:]):
        return None
    spelt = spelling("".join(token.lower for token in run))
    has_version = any(character.isdigit() for character in spelt)
    return spelt if has_version and len(spelt) >= _SHORTEST_NEAR_MISS else None


def match_method(tokens: Sequence[Token], start: int) -> Match | None:
    """Pretraining, or a kind of training that needs another brain; "without fine-tuning" is pretraining."""
    if found := phrase_at(tokens, start, words(PRETRAINING)):
        return Match(Field.METHOD, start, found[1], value="pretraining")
    found = phrase_at(tokens, start, UNSUPPORTED_METHODS)
    if found is None:
        return None
    method, stop = found
    negation = negation_before(tokens, start)
    if negation is not None:
        return Match(Field.METHOD, negation, stop, value="pretraining")
    return Match(Field.METHOD, start, stop, value=method)


def match_publish(tokens: Sequence[Token], start: int) -> Match | None:
    """``push to the hub``, ``publish to a folder``, ``don't publish``."""
    if word_at(tokens, start) not in PUBLISH_VERBS:
        return None
    negation = negation_before(tokens, start)
    place, stop = _place(tokens, start + 1)
    if negation is not None or place == "none":
        return Match(Field.PUBLISH, start if negation is None else negation, stop, value="none")
    return Match(Field.PUBLISH, start, stop, value=place or "hub")


def _place(tokens: Sequence[Token], start: int) -> tuple[str | None, int]:
    """Where to publish, if it is said soon after the verb, and the position after it."""
    for position in range(start, min(len(tokens), start + _PUBLISH_REACH)):
        if tokens[position].kind is Kind.PUNCTUATION:
            break
        if place := phrase_at(tokens, position, PUBLISH_PLACES):
            return place
    return None, start


def match_metric(tokens: Sequence[Token], start: int) -> Match | None:
    """``judged by perplexity``, ``metric: loss``; a threshold to reach is left for "not understood"."""
    trigger = phrase_at(tokens, start, words(METRIC_TRIGGERS))
    if trigger is None:
        return None
    found = phrase_at(tokens, skip(tokens, trigger[1], {":", "=", "is", "the", "on"}), METRICS)
    if found is None or word_at(tokens, found[1]) in _COMPARATORS:
        return None
    return Match(Field.METRIC, start, found[1], value=found[0])


def match_phrase(tokens: Sequence[Token], start: int) -> Match | None:
    """Whatever of this module but the architecture starts there."""
    return match_method(tokens, start) or match_publish(tokens, start) or match_metric(tokens, start)
