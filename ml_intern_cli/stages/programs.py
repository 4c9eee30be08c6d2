"""The programs of a path: what they may not read, the end of their logs, and why they failed."""

from __future__ import annotations

from pathlib import Path

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import RunLayout

_TAIL_LINES = 12


def tail_of(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a text file, fit to be printed; empty when there is none."""
    return leavings.tail(path.parent, path.name, lines=lines)


def heldout_shards(layout: RunLayout) -> tuple[Path, ...]:
    """The files that only the judge may read."""
    return tuple(sorted(layout.data.glob("heldout-*.bin")))


def how_it_crashed(exit_code: int, tail: str) -> str:
    """One line about a program that failed without saying why in a file."""
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    last = tail.splitlines()[-1] if tail else "nothing on stderr"
    return f"exit code {exit_code}: {last}"
