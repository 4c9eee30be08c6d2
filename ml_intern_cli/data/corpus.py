"""What every corpus offers, and which document belongs to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from ml_intern_cli.documents.manifest import Split

EVALUATION_SHARE = 0.05
"""The part of all documents that goes to ``val``, and again to ``heldout``."""


class TextSource(Protocol):
    """Documents in three disjoint splits, with the provenance that the manifest records."""

    @property
    def id(self) -> str:
        """What the user called it."""
        ...

    @property
    def revision(self) -> str:
        """What pins the content: a commit, a checksum, or the grammar's version and seed."""
        ...

    @property
    def license(self) -> str:
        """Its licence, or "unknown"."""
        ...

    @property
    def url(self) -> str | None:
        """Where a person can look at it."""
        ...

    @property
    def column(self) -> str | None:
        """The column of a table that holds the text."""
        ...

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, in an order that never changes. May be endless."""
        ...

    def log_prob(self, text: str) -> float | None:
        """The exact log-probability of a document in nats, where the source knows it."""
        ...


def digest(text: str) -> int:
    """A 64-bit hash of a document; the same text always has the same one."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def split_of(text: str) -> Split:
    """The split of a document by its hash, so that equal documents are never in two splits."""
    position = digest(text) / 2**64
    if position < EVALUATION_SHARE:
        return Split.VAL
    return Split.HELDOUT if position < 2 * EVALUATION_SHARE else Split.TRAIN
