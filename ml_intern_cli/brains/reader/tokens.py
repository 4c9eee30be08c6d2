"""A sentence as tokens with their positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from ml_intern_cli.quantities import NUMBER

HYPHENS = "-_‐‑‒–—−"  # noqa: RUF001  hyphens of every kind, as word processors write them
DATA_SUFFIX = r"\.(?:txt|jsonl|json|csv|parquet)"


class Kind(Enum):
    """What a token is."""

    QUOTED = auto()  # text is what stands between the quotation marks
    PATH = auto()  # a path, URL, Hub id, builtin:name, or anything else with a slash in it
    NUMBER = auto()  # with the letters that follow it: 100M, 1h30m, 2412.19437v2
    WORD = auto()
    PUNCTUATION = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``sentence[start:end]`` is what was written.

    ``glued`` tells that only a hyphen or underscore stands between it and the token before it.
    """

    kind: Kind
    text: str
    start: int
    end: int
    glued: bool = False

    @property
    def lower(self) -> str:
        """The text in lower case, with a straight apostrophe and without a possessive s."""
        return self.text.lower().replace("’", "'").removesuffix("'s")


_LETTERS = r"(?:\.?[A-Za-z]+[0-9]*)+(?:\.[0-9]+)*"  # behind a number: M, h30m, v2
_DIGITS = r"(?:(?:[.,:^×]|\*{1,2})[0-9]+)+[A-Za-z]*"  # .000, ^8, :30h

_PATTERNS = (
    (Kind.QUOTED, r"\"[^\"]+\"|“[^”]+”|`[^`]+`|(?<!\w)'[^']+'(?!\w)"),
    (Kind.PATH, r"builtin:[\w-]+|[a-z][a-z0-9]{1,9}://[^\s\"'<>()\[\],;]+"),
    (Kind.PATH, r"[a-z]:[\\/][^\s\"'`“”,;()\[\]]*"),
    (Kind.PATH, rf"[^\s\"'`“”,;:=()\[\]/]+{DATA_SUFFIX}\b(?!/|\.\w)"),
    (Kind.PATH, r"[^\s\"'`“”,;:=()\[\]/]*/[^\s\"'`“”,;()\[\]]*"),
    # A hyphen is a minus where no word ends before it. What is glued to a number stays with it, so that
    # nobody takes 10^8 for 8, 1:30h for 30 hours, or 5% for 5.
    (
        Kind.NUMBER,
        rf"(?:(?<![^\s(=:$])[-+−])?(?:[0-9]+,(?=[0-9]))*{NUMBER}(?:{_LETTERS}|{_DIGITS})?%?",
    ),
    (Kind.WORD, r"[^\W\d_](?:[.'’&]?[^\W_])*"),
    (Kind.PUNCTUATION, r"\S"),
)
_UNSIGNED = re.compile(r"\$?\.?[0-9]")
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)


def tokenize(sentence: str) -> list[Token]:
    """All tokens of the sentence, in order. Hyphens and underscores inside words only glue."""
    tokens: list[Token] = []
    position, glued = 0, False
    while position < len(sentence):
        character = sentence[position]
        if character.isspace():
            position, glued = position + 1, False
            continue
        if character in HYPHENS and not _is_sign(sentence, position):
            glued = bool(tokens) and tokens[-1].end == position
            position += 1
            continue
        kind, text, end = _token_at(sentence, position)
        tokens.append(Token(kind, text, position, end, glued))
        position, glued = end, False
    return tokens


def _is_sign(sentence: str, position: int) -> bool:
    starts_word = position == 0 or sentence[position - 1] in "(=:$" or sentence[position - 1].isspace()
    return starts_word and _UNSIGNED.match(sentence, position + 1) is not None


def _token_at(sentence: str, position: int) -> tuple[Kind, str, int]:
    """The kind, text and end of the token that starts there."""
    for kind, pattern in _COMPILED:
        match = pattern.match(sentence, position)
        if match is None:
            continue
        text = match.group()
        if kind is Kind.QUOTED:
            return kind, text[1:-1].strip(), match.end()
        if kind is Kind.PATH:
            text = text.rstrip(".,:;!?")
            if not any(character.isalnum() for character in text):
                continue
        return kind, text, position + len(text)
    raise AssertionError("the last pattern matches whatever is not a space")
