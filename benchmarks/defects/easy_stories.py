"""The built-in stories with fewer plots and fewer words, so that a small model learns them in seconds.

Still the project's grammar, read by the project's code: whole rules and the commonest words are kept, so
the probability of every text, and with it the lowest possible loss, is known exactly.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from ml_intern_cli.data import stories
from ml_intern_cli.data.corpus import split_of
from ml_intern_cli.documents.manifest import Split

_PLOTS = ["<opening> <lost>", "<opening> <rescue>"]
_LEAST_WORDS = 5  # of each lexicon
_SPARE_WORDS = 2  # beside as many as one story can mention: they are drawn until one is new
_ALTERNATIVES = 3  # of each rule


def easy_grammar() -> stories.Grammar:
    """The grammar of builtin:stories, thinned."""
    document = tomllib.loads(Path(stories.__file__).with_name("stories.toml").read_text(encoding="utf-8"))
    rules = {name: alternatives[:_ALTERNATIVES] for name, alternatives in document["rules"].items()}
    rules["story"] = _PLOTS
    rules = _reachable(rules)
    mentioned = _mentioned(rules)
    lexicons = {
        name: lexicon | {"words": _first_words(lexicon["words"], mentioned[name] + _SPARE_WORDS)}
        for name, lexicon in document["lexicons"].items()
        if name in mentioned
    }
    return stories.Grammar(_toml({"rules": rules, "lexicons": lexicons}))


def _reachable(rules: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rules that a story can use."""
    found, agenda = {"story"}, ["story"]
    while agenda:
        for name in re.findall(r"<(\w+)>", " ".join(rules[agenda.pop()])):
            if name not in found:
                found.add(name)
                agenda.append(name)
    return {name: rules[name] for name in rules if name in found}


def _mentioned(rules: dict[str, list[str]]) -> Counter[str]:
    """Lexicon → how many different words of it one story may mention."""
    text = " ".join(part for alternatives in rules.values() for part in alternatives)
    slots = re.findall(r"\{(?:[aA] )?(\w+)(?::(\w+))?(?:\.\w+)?\}", text)
    variables = {(variable.lower(), lexicon or variable.lower()) for variable, lexicon in slots}
    named = {variable for variable, lexicon in variables if variable != lexicon}
    return Counter(lexicon for variable, lexicon in variables if variable != lexicon or variable not in named)


def _first_words(groups: list[str], count: int) -> list[str]:
    """The first words of each string, so many in all or a few more."""
    share = -(-max(_LEAST_WORDS, count) // len(groups))
    kept = []
    for group in groups:
        words, colon, shared = group.partition(":")
        kept.append(",".join(islice(words.split(","), share)) + colon + shared)
    return kept


def _toml(document: dict[str, Any]) -> str:
    """TOML of strings and lists of strings, two levels deep; JSON writes both the same way."""
    lines = ["[rules]", *(f"{name} = {json.dumps(value)}" for name, value in document["rules"].items())]
    for name, lexicon in document["lexicons"].items():
        lines += [f"[lexicons.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in lexicon.items())]
    return "\n".join(lines) + "\n"


class EasyStories:
    """A corpus (``ml_intern_cli.data.corpus.TextSource``); endless."""

    id = "builtin:stories, thinned"
    license = "Apache-2.0"
    url = None
    column = None

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._grammar = easy_grammar()
        self.revision = f"grammar {self._grammar.version}, seed {seed}"

    def documents(self, split: Split) -> Iterator[str]:
        """The stories of a split, in order of their index."""
        texts = (self._grammar.generate(self._seed, index).text for index in count())
        return (text for text in texts if split_of(text) is split)

    def log_prob(self, text: str) -> float:
        """The exact log-probability of a story in nats."""
        return self._grammar.log_prob(text)
