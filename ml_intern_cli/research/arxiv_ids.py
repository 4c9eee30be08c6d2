"""How papers of arXiv are named."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ml_intern_cli.errors import InvalidInput

_ID = re.compile(r"(?P<id>\d{4}\.\d{4,5}|[a-z][a-z-]*(?:\.[A-Z]{2})?/\d{7})(?P<version>v[1-9]\d?)?")
_BEFORE = re.compile(
    r"(?:https?://)?(?:(?:www\.|export\.)?arxiv\.org/(?:abs|html|pdf)/|(?:ar5iv\.labs\.arxiv|ar5iv)\.org/(?:abs|html)/)"
    r"|arxiv:|doi:10\.48550/arxiv\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ArxivId:
    """A paper, and perhaps one version of it."""

    unversioned: str
    version: str = ""

    def __str__(self) -> str:
        return self.unversioned + self.version


def arxiv_id(text: str) -> ArxivId:
    """The id in ``2412.19437``, ``2412.19437v1``, ``cs/0112017``, ``arXiv:…`` or an address of arXiv.

    Raises:
        InvalidInput: there is none.
    """
    rest = text.strip()
    prefix = _BEFORE.match(rest)
    if prefix:
        rest = re.split(r"[?#]", rest[prefix.end() :])[0].rstrip("/").removesuffix(".pdf")
    match = _ID.fullmatch(rest)
    if match is None:
        raise InvalidInput(
            f"{text[:100]!r} is no arXiv id", hint="ids are like 2412.19437, 2412.19437v2 or cs/0112017"
        )
    return ArxivId(match["id"], match["version"] or "")
