"""Names compared the way people write them: case, spaces, hyphens and underscores don't count."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.6  # difflib's ratio; "deepseekv2" and "deepseekv3" have 0.9, unrelated names below 0.5


def spelling(text: str) -> str:
    """Letters and digits in lower case: ``DeepSeek-V3`` and ``deepseek v3`` are both ``deepseekv3``."""
    return "".join(character for character in text.lower() if character.isalnum())


def nearest(text: str, spellings: Iterable[str], *, count: int = 3) -> tuple[str, ...]:
    """The spellings most like the text, best first; empty when none is like it."""
    return tuple(get_close_matches(spelling(text), list(spellings), n=count, cutoff=_LIKENESS))
