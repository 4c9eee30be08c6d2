"""The architectures that can be built: one folder each under ``blueprints/``, with ``blueprint.py`` in it.

A blueprint is found by its folder and loaded by its file; neither needs torch. Every function takes the
``root`` that holds the folders; it is the shipped one unless a caller says otherwise.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Protocol, cast

from ml_intern_cli.brains.spelling import nearest, spelling
from ml_intern_cli.documents.model import Scalar
from ml_intern_cli.errors import InvalidInput, MlInternError
from ml_intern_cli.resources import resource


class Variant(Protocol):
    """One implementation of the architecture: a file of the blueprint's folder that becomes model.py."""

    file: str
    approach: str
    hypothesis: str
    why: str


class Sizing(Protocol):
    """A solved configuration. ``params`` counts tied weights once; ``active_params`` is per token."""

    config: dict[str, Scalar | None]
    params: int
    active_params: int
    vocab_size: int


class TokenizerChoice(Protocol):
    """A tokenizer worth using. ``hub_id`` ``None``: train one of this size on the data."""

    hub_id: str | None
    vocab_size: int


class Recipe(Protocol):
    """How to train a sizing. ``sources`` says where each number comes from, by field name."""

    learning_rate: float
    min_learning_rate_ratio: float
    warmup_fraction: float
    schedule: str
    beta1: float
    beta2: float
    weight_decay: float
    grad_clip: float
    seq_len: int
    tokens_per_step: int
    sources: Mapping[str, str]


class Blueprint(Protocol):
    """What ``blueprint.py`` defines at its top level."""

    NAME: str
    TITLE: str
    ALIASES: Sequence[str]
    ARXIV_IDS: Sequence[str]
    SOURCES: Sequence[tuple[str, str]]  # (what it says, URL)
    VARIANTS: Mapping[str, Variant]  # the preferred one first
    CONFIG_EXTRAS: Mapping[str, str | list[str]]  # what config.json holds beside the configuration

    def solve(self, params: int, *, vocab_size: int | None = None, seq_len: int | None = None) -> Sizing:
        """The balanced configuration nearest to ``params``. Raises InvalidInput outside its range."""
        ...

    def tokenizers(self, params: int) -> Sequence[TokenizerChoice]:
        """Tokenizers for that size, the preferred one first; the last needs no network."""
        ...

    def recipe(self, sizing: Sizing, *, tokens: int | None = None) -> Recipe:
        """How to train that sizing on so many tokens."""
        ...


def names(*, root: Path | None = None) -> tuple[str, ...]:
    """The names of all blueprints, sorted; nothing is loaded."""
    folders = (file.parent for file in _root(root).glob("*/blueprint.py"))
    return tuple(sorted(folder.name.replace("_", "-") for folder in folders))


def folder(name: str, *, root: Path | None = None) -> Path:
    """Where a blueprint's files are."""
    return _root(root) / name.replace("-", "_")


def load(name: str, *, root: Path | None = None) -> Blueprint:
    """The blueprint of that name.

    Raises:
        InvalidInput: there is none; the hint names the nearest.
    """
    if name not in names(root=root):
        raise _unknown(name, root)
    return _load_file(folder(name, root=root) / "blueprint.py")


def find(text: str, *, root: Path | None = None) -> Blueprint:
    """The blueprint that a person means: its name or an alias in any spelling, or its paper's arXiv id.

    Raises:
        InvalidInput: there is none; the hint names the nearest.
    """
    name = spellings(root=root).get(spelling(text)) or arxiv_ids(root=root).get(_without_version(text))
    if name is None:
        raise _unknown(text, root)
    return load(name, root=root)


def card(name: str, *, root: Path | None = None) -> str:
    """The Markdown page about the architecture."""
    load(name, root=root)
    return (folder(name, root=root) / "card.md").read_text(encoding="utf-8")


def spellings(*, root: Path | None = None) -> dict[str, str]:
    """Spelling (see ``spelling``) → name, for every name, title and alias."""
    return {
        spelling(text): blueprint.NAME
        for blueprint in _all(root)
        for text in (blueprint.NAME, blueprint.TITLE, *blueprint.ALIASES)
    }


def arxiv_ids(*, root: Path | None = None) -> dict[str, str]:
    """The arXiv id of a paper, without version → name of the architecture it introduced."""
    return {paper: blueprint.NAME for blueprint in _all(root) for paper in blueprint.ARXIV_IDS}


def suggestions(text: str, *, root: Path | None = None) -> tuple[str, ...]:
    """Names of the blueprints spelt most like the text, best first; each once."""
    known = spellings(root=root)
    return tuple(dict.fromkeys(known[found] for found in nearest(text, known)))


def _root(root: Path | None) -> Path:
    return resource("blueprints") if root is None else root


def _all(root: Path | None) -> list[Blueprint]:
    return [load(name, root=root) for name in names(root=root)]


def _without_version(text: str) -> str:
    return re.sub(r"^arxiv[:\s]*|v[0-9]+$", "", text.strip().lower())


def _unknown(text: str, root: Path | None) -> InvalidInput:
    near = suggestions(text, root=root)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return InvalidInput(f"no blueprint for {text!r}", hint=f"{meant}see them all: ml-intern blueprints")


@cache
def _load_file(file: Path) -> Blueprint:
    spec = spec_from_file_location(f"ml_intern_blueprints.{file.parent.name}", file)
    if spec is None or spec.loader is None:
        raise MlInternError(
            f"{file} cannot be loaded", hint="reinstall: pip install --force-reinstall ml-intern-cli"
        )
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return cast("Blueprint", module)
