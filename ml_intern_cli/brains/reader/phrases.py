"""Matchers of words: architecture, method, where to publish, and what success is measured by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from ml_intern_cli.brains.reader.match import Match, negation_before, phrase_at, skip, word_at, words
from ml_intern_cli.brains.reader.numbers import quantity_at
from ml_intern_cli.brains.reader.tokens import Kind, Token, tokenize
from ml_intern_cli.brains.reader.vocabulary import (
    ARCHITECTURE_SUFFIXES,
    COMPARISONS,
    KEPT_LOCAL,
    METRIC_TRIGGERS,
    METRICS,
    NEGATIONS,
    NOT_ARCHITECTURES,
    OTHER_ARCHITECTURES,
    OTHER_TASKS,
    PRETRAINING,
    PRIVACY,
    PUBLISH_OBJECTS,
    PUBLISH_PLACES,
    PUBLISH_VERBS,
    PUBLISH_VERBS_IF_NEGATED,
    STOP_WORDS,
    SWITCHED_OFF,
    UNSUPPORTED_METHODS,
    Field,
)
from ml_intern_cli.brains.spelling import spelling

_LONGEST_ARCHITECTURE = 4  # tokens: "Deep Seek V 3"
_NEAR_MISS = 0.8  # DeepSeek-V2, DeepSeek-R1 and DeepSeek-V3.2-Exp against DeepSeek-V3
_SHORTEST_NEAR_MISS = 6  # characters; shorter names are all alike
_ARXIV_ID = re.compile(r"(?<![0-9])(?<![0-9]\.)([0-9]{4}\.[0-9]{4,5})(?:v[0-9]+)?(?![0-9])")
_REPOSITORY = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|github\.com)/)?\w[\w.-]*/([\w.-]+?)(?:\.git)?(/.*)?"
)
_VERSION = re.compile(r"[vr]?[0-9]+(\.[0-9]+)*")
_COMPARATORS = {"<", ">", "≤", "≥", "=", "below", "under", "above", "over", "of", "less", "at"}
_PUBLISH_REACH = 6  # tokens after the verb in which its place is looked for
_PUBLISH_NEGATION_REACH = 6  # "don't even think about uploading"
_LONGEST_OPENING = 8  # words: "hi, could you please help me to"
_LONGEST_KEPT_LOCAL = 4  # "keep it private", "keep the model local"

_KEPT_LOCAL = words(KEPT_LOCAL)
_METRIC_TRIGGERS = words(METRIC_TRIGGERS)
_OTHER_ARCHITECTURES = words(OTHER_ARCHITECTURES)
_PRETRAINING = words(PRETRAINING)
_PUBLISH_VERBS = words(PUBLISH_VERBS | PUBLISH_VERBS_IF_NEGATED)


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
        found = self._paper(start) or self._location(start) or self._name(start) or self._near_miss(start)
        if found and word_at(self._tokens, found.stop) in COMPARISONS:
            return replace(found, value=None, problem="a comparison; one architecture is needed")
        return found

    def others(self) -> list[Match]:
        """Architectures that are named and have no blueprint, each as a problem; but no "gpt2 tokenizer"."""
        found = (
            (start, phrase_at(self._tokens, start, _OTHER_ARCHITECTURES, longest=2))
            for start in range(len(self._tokens))
        )
        return [
            Match(Field.ARCHITECTURE, start, name[1], problem="another architecture; one is needed")
            for start, name in found
            if name is not None
            and negation_before(self._tokens, start) is None
            and word_at(self._tokens, start - 1) not in NOT_ARCHITECTURES | {"like", "of", "to", "from"}
            and word_at(self._tokens, name[1]) not in NOT_ARCHITECTURES
        ]

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
        repository = _REPOSITORY.fullmatch(token.text) if token.kind is Kind.PATH else None
        if repository is None and token.kind is not Kind.QUOTED:
            return None
        if repository and repository[2] and "//" not in token.text and ".co" not in token.text:
            return None  # a path of three parts is a file
        inner = tokenize(repository[1] if repository else token.text)
        matcher = ArchitectureMatcher(inner, spellings=self._spellings, arxiv_ids={})
        found = matcher.match(0) if inner and inner[0].kind is Kind.WORD else None
        if found is None or any(token.lower not in ARCHITECTURE_SUFFIXES for token in inner[found.stop :]):
            return None
        return replace(found, start=start, stop=start + 1)

    def _name(self, start: int) -> Match | None:
        found = phrase_at(self._tokens, start, self._spellings, longest=_LONGEST_ARCHITECTURE)
        if found is None or (self._tokens[start].glued and self._tokens[start - 1].kind is not Kind.NUMBER):
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
    found = phrase_at(tokens, start, UNSUPPORTED_METHODS) or _other_task(tokens, start)
    if found is None:
        if pretraining := phrase_at(tokens, start, _PRETRAINING):
            is_negated = word_at(tokens, start - 1) in NEGATIONS
            value = "training that is not from scratch" if is_negated else "pretraining"
            return Match(Field.METHOD, start, pretraining[1], value=value)
        return None
    method, stop = found
    first = start
    while word_at(tokens, first - 1) in {"or", "nor"} and phrase_at(tokens, first - 2, UNSUPPORTED_METHODS):
        first -= 2  # "without SFT or RL"
    negation = negation_before(tokens, first)
    if negation is not None:
        return Match(Field.METHOD, negation, stop, value="pretraining")
    return Match(Field.METHOD, start, stop, value=method)


def _other_task(tokens: Sequence[Token], start: int) -> tuple[str, int] | None:
    """What a sentence that begins with "evaluate", "explain" or "what is" asks for."""
    found = phrase_at(tokens, start, OTHER_TASKS)
    begins = start <= _LONGEST_OPENING and all(token.lower in STOP_WORDS for token in tokens[:start])
    return found if begins else None


def match_publish(tokens: Sequence[Token], start: int) -> Match | None:
    """``push to the hub``, ``publish to a folder``, ``don't publish``, ``push_to_hub=False``."""
    if kept := phrase_at(tokens, start, _KEPT_LOCAL, longest=_LONGEST_KEPT_LOCAL):
        return Match(Field.PUBLISH, start, kept[1], value="none")
    verb = phrase_at(tokens, start, _PUBLISH_VERBS)
    if verb is None:
        return None
    negation = negation_before(tokens, start, reach=_PUBLISH_NEGATION_REACH)
    place, stop = _place(tokens, verb[1])
    if negation is not None or _is_switched_off(tokens, stop):
        off = skip(tokens, stop, {"=", ":", "?"})
        stop = off + (word_at(tokens, off) in SWITCHED_OFF)
        return Match(Field.PUBLISH, start if negation is None else negation, stop, value="none")
    if verb[0] in PUBLISH_VERBS_IF_NEGATED:
        return None
    if place is not None:
        return Match(Field.PUBLISH, start, stop, value=place)
    return _published_elsewhere(tokens, start, stop)


def _place(tokens: Sequence[Token], start: int) -> tuple[str | None, int]:
    """Where to publish, if nothing else is said between the verb and the place; and the position after it."""
    for position in range(start, min(len(tokens), start + _PUBLISH_REACH)):
        if place := phrase_at(tokens, position, PUBLISH_PLACES):
            return place
        if tokens[position].lower not in STOP_WORDS | PUBLISH_OBJECTS | {":", "="}:
            break
    return None, start


def _is_switched_off(tokens: Sequence[Token], position: int) -> bool:
    """Whether "=False", ": no" or "off" stands there; "publish no matter what" is no refusal."""
    off = skip(tokens, position, {"=", ":", "?"})
    return word_at(tokens, off) in (SWITCHED_OFF if off > position else {"off", "false"})


def _published_elsewhere(tokens: Sequence[Token], start: int, stop: int) -> Match | None:
    """A verb whose place is not known. The name of a repository is on the Hub; others are no places."""
    place = skip(tokens, stop, STOP_WORDS | PUBLISH_OBJECTS)
    target = tokens[place] if place < len(tokens) else None
    if target is None or target.kind in (Kind.PUNCTUATION, Kind.NUMBER):
        return Match(Field.PUBLISH, start, stop, value="hub")
    if target.lower in PRIVACY:
        problem = "what is published on the Hub can be seen by everybody"
        return Match(Field.PUBLISH, start, place + 1, problem=problem)
    if word_at(tokens, place - 1) in {"to", "into", "onto", "as"} and not _REPOSITORY.fullmatch(target.text):
        problem = "a model can be published to the Hub, to a folder of the run, or not at all"
        return Match(Field.PUBLISH, start, place + 1, problem=problem)
    is_other_push = tokens[start].lower.startswith("push") and target.kind is Kind.WORD and place > stop
    return None if is_other_push else Match(Field.PUBLISH, start, stop, value="hub")


def match_metric(tokens: Sequence[Token], start: int) -> Match | None:
    """``judged by perplexity``, ``metric: loss``; a threshold to reach is left for "not understood"."""
    trigger = phrase_at(tokens, start, _METRIC_TRIGGERS)
    if trigger is None or negation_before(tokens, start) is not None:
        return None
    found = phrase_at(tokens, skip(tokens, trigger[1], {":", "=", "is", "the", "on"}), METRICS)
    if found is None or word_at(tokens, found[1]) in _COMPARATORS:
        return None
    return Match(Field.METRIC, start, found[1], value=found[0])


def match_phrase(tokens: Sequence[Token], start: int) -> Match | None:
    """Whatever of this module but the architecture starts there."""
    return match_method(tokens, start) or match_publish(tokens, start) or match_metric(tokens, start)
