"""builtin:stories, a corpus that the program writes itself and whose entropy is therefore known.

A probabilistic grammar (stories.toml) is expanded top-down. What is drawn is remembered for the rest of the
story: names, pronouns, objects, places and consequences agree over any distance, which is what there is to
learn. Any story of a seed can be had by its index, without the ones before it.

The probability of a text is the product of its draws. ``Grammar.log_prob`` finds it again from the text
alone, by parsing; it sums over all derivations, and the tests show that a text never has two.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import tomllib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

_GRAMMAR = Path(__file__).with_name("stories.toml")
_PART = re.compile(
    r"<(?P<rule>\w+)>|\{(?P<article>[aA] )?(?P<variable>\w+)(?::(?P<lexicon>\w+))?(?:\.(?P<form>\w+))?\}"
)
_TAKES_AN = re.compile(r"(?!eu|one|uni|use)[aeio]|u(?!k|ni|se)|ho(?:nest|ur)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Story:
    """A text and its exact probability under the grammar."""

    text: str
    log_prob_nats: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Probabilities over 0 … n-1."""

    p: tuple[float, ...]
    log_p: tuple[float, ...]
    cumulative: tuple[float, ...]

    @classmethod
    def proportional_to(cls, weights: Sequence[float]) -> Distribution:
        """The distribution with these weights, normalised."""
        total = sum(weights)
        p = tuple(weight / total for weight in weights)
        return cls(p, tuple(map(math.log, p)), (*accumulate(p[:-1]), 1.0))

    def draw(self, rng: random.Random) -> int:
        """A random index."""
        return bisect(self.cumulative, rng.random())

    def log_p_without(self, excluded: Sequence[int], index: int) -> float:
        """The log-probability of ``index``, given that it is none of ``excluded``."""
        if not excluded:
            return self.log_p[index]
        return self.log_p[index] - math.log1p(-math.fsum(self.p[other] for other in excluded))


def _by_rank(count: int) -> list[float]:
    """Weights of a Zipf-Mandelbrot law: the r-th of a list, from 0, has 1 / (r + 5)²."""
    return [(rank + 5) ** -2 for rank in range(count)]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words of one kind; ``entries[i]`` are the forms of one word, in the order of ``forms``."""

    forms: tuple[str, ...]
    entries: tuple[tuple[str, ...], ...]
    distribution: Distribution

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Lexicon:
        """Reads one ``[lexicons.*]`` section of the grammar."""
        entries: list[tuple[str, ...]] = []
        weights: list[float] = []
        for group in section["words"]:
            words, _, shared = group.partition(":")
            own = [tuple(form.strip() for form in word.split("/")) for word in words.split(",")]
            rest = tuple(form.strip() for form in shared.split("/")) if shared else ()
            entries += [forms + rest for forms in own]
            weights += _by_rank(len(own))
        return cls(tuple(section["forms"]), tuple(entries), Distribution.proportional_to(weights))


@dataclass(frozen=True, slots=True)
class Slot:
    """A mention of a variable; ``readings[i]`` is how entry i of its lexicon reads at this place."""

    variable: str
    lexicon: str
    distribution: Distribution
    readings: tuple[str, ...]


@dataclass(slots=True)
class Rule:
    """A choice between sequences of parts."""

    alternatives: tuple[tuple[Part, ...], ...] = ()
    distribution: Distribution = field(default_factory=lambda: Distribution.proportional_to([1.0]))


Part = str | Slot | Rule
Bindings = dict[str, int]
"""The entry that each variable stands for."""
Pending = tuple[Part, "Pending"] | None
"""Parts that are still to be read, as a linked list, so that the parser's states share their tails."""


class Grammar:
    """A parsed grammar: writes stories and scores texts."""

    def __init__(self, source: str) -> None:
        document = tomllib.loads(source)
        self.version = hashlib.sha256(source.encode()).hexdigest()[:12]
        self._lexicons = {name: Lexicon.parse(section) for name, section in document["lexicons"].items()}
        self._lexicon_of: dict[str, str] = {}
        self._rules = {name: Rule() for name in document["rules"]}
        for name, alternatives in document["rules"].items():
            rule = self._rules[name]
            rule.alternatives = tuple(tuple(self._parts(text)) for text in alternatives)
            rule.distribution = Distribution.proportional_to(_by_rank(len(alternatives)))
        self._start = self._rules["story"]

    def _parts(self, text: str) -> Iterator[Part]:
        end = 0
        for match in _PART.finditer(text):
            if match.start() > end:
                yield text[end : match.start()]
            yield self._rules[match["rule"]] if match["rule"] else self._slot(match)
            end = match.end()
        if end < len(text):
            yield text[end:]

    def _slot(self, match: re.Match[str]) -> Slot:
        variable = match["variable"].lower()
        name = match["lexicon"] or variable
        if self._lexicon_of.setdefault(variable, name) != name:
            raise ValueError(f"{match[0]}: {variable} is of lexicon {self._lexicon_of[variable]} elsewhere")
        lexicon = self._lexicons[name]
        form = lexicon.forms.index(match["form"]) if match["form"] else 0
        readings = [entry[form] for entry in lexicon.entries]
        if match["article"]:
            readings = [f"{'an' if _TAKES_AN.match(reading) else 'a'} {reading}" for reading in readings]
        if (match["article"] or match["variable"])[0].isupper():
            readings = [reading[0].upper() + reading[1:] for reading in readings]
        return Slot(variable, name, lexicon.distribution, tuple(readings))

    def generate(self, seed: int, index: int) -> Story:
        """Story ``index`` of the endless sequence that belongs to ``seed``."""
        writer = _Writer(random.Random(f"{seed}:{index}"))  # noqa: S311 - reproducible, not secret
        log_p = writer.expand(self._start)
        return Story("".join(writer.pieces), log_p)

    def log_prob(self, text: str) -> float:
        """The natural logarithm of the probability of ``text``; minus infinity if it cannot be written."""
        derivations = list(self.derivations(text))
        if not derivations:
            return -math.inf
        likeliest = max(derivations)
        return likeliest + math.log(math.fsum(math.exp(log_p - likeliest) for log_p in derivations))

    def derivations(self, text: str) -> Iterator[float]:
        """The log-probability of each way in which the grammar writes ``text``: depth-first search."""
        agenda: list[tuple[Pending, int, Bindings, float]] = [((self._start, None), 0, {}, 0.0)]
        while agenda:
            pending, at, bound, log_p = agenda.pop()
            if pending is None:
                if at == len(text):
                    yield log_p
                continue
            part, rest = pending
            if isinstance(part, Rule):
                for alternative, choice_log_p in zip(part.alternatives, part.distribution.log_p, strict=True):
                    longer = rest
                    for piece in reversed(alternative):
                        longer = (piece, longer)
                    agenda.append((longer, at, bound, log_p + choice_log_p))
            elif isinstance(part, str):
                if text.startswith(part, at):
                    agenda.append((rest, at + len(part), bound, log_p))
            else:
                for end, bound_now, drawn in self._readings(part, text, at, bound):
                    agenda.append((rest, end, bound_now, log_p + drawn))

    def _readings(
        self, slot: Slot, text: str, at: int, bound: Bindings
    ) -> Iterator[tuple[int, Bindings, float]]:
        """The ways to read ``slot`` at a position: where each ends, what is bound then, ln p of the draw."""
        if slot.variable in bound:
            reading = slot.readings[bound[slot.variable]]
            if text.startswith(reading, at):
                yield at + len(reading), bound, 0.0
            return
        taken = [entry for name, entry in bound.items() if self._lexicon_of[name] == slot.lexicon]
        for entry, reading in enumerate(slot.readings):
            if text.startswith(reading, at) and entry not in taken:
                log_p = slot.distribution.log_p_without(taken, entry)
                yield at + len(reading), {**bound, slot.variable: entry}, log_p


class _Writer:
    """One story in the making."""

    def __init__(self, rng: random.Random) -> None:
        self.pieces: list[str] = []
        self._rng = rng
        self._bound: Bindings = {}
        self._taken: defaultdict[str, list[int]] = defaultdict(list)

    def expand(self, rule: Rule) -> float:
        """Writes one alternative of a rule; returns the log-probability of everything drawn for it."""
        choice = rule.distribution.draw(self._rng)
        log_p = rule.distribution.log_p[choice]
        for part in rule.alternatives[choice]:
            if isinstance(part, str):
                self.pieces.append(part)
            elif isinstance(part, Rule):
                log_p += self.expand(part)
            else:
                entry = self._bound.get(part.variable)
                if entry is None:
                    taken = self._taken[part.lexicon]
                    entry = part.distribution.draw(self._rng)
                    while entry in taken:
                        entry = part.distribution.draw(self._rng)
                    log_p += part.distribution.log_p_without(taken, entry)
                    self._bound[part.variable] = entry
                    taken.append(entry)
                self.pieces.append(part.readings[entry])
        return log_p


@cache
def grammar() -> Grammar:
    """The grammar that ships with the program."""
    return Grammar(_GRAMMAR.read_text(encoding="utf-8"))


def generate(seed: int, index: int) -> Story:
    """Story ``index`` of the endless sequence that belongs to ``seed``."""
    return grammar().generate(seed, index)


def log_prob(text: str) -> float:
    """The natural logarithm of the probability of ``text``; minus infinity if the grammar cannot write it."""
    return grammar().log_prob(text)
