"""Everything that can go wrong on purpose.

MlInternError                exit 1   a dependency failed
├── InvalidInput             exit 2   arguments, values, files the user gave
│   ├── InvalidDocument      exit 2   a document that does not parse (all problems at once)
│   ├── UnknownRun           exit 2   no such slug (with the nearest ones)
│   ├── RunLocked            exit 2   another process holds the run
│   ├── NewerRun             exit 2   made by a newer version of this program
│   └── StorageFailed        exit 2   disk full, read-only, not a directory
├── Blocked                  exit 3   the user is needed; becomes BLOCKER.md
└── NoPathPassed             exit 4   ran to the end, nothing passed verification

Only ``ml_intern_cli.__main__`` turns these into messages and exit codes; every message ends, in
``hint``, with the command or the edit that goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MlInternError(Exception):
    """A failure with a message for the user and, in ``hint``, what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(MlInternError):
    """The user gave something that cannot be used."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one document: ``PLAN.md:14: learning_rate: must be > 0``."""

    source: str
    line: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class InvalidDocument(InvalidInput):
    """A document that does not parse. ``problems`` holds all of them, in line order."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(str(problem) for problem in self.problems),
            hint=hint or "edit the file and run the same command again; .history/ keeps what was replaced",
        )


class UnknownRun(InvalidInput):
    """No run has this slug."""

    def __init__(self, slug: str, nearest: Sequence[str]) -> None:
        self.slug = slug
        self.nearest = tuple(nearest)
        meant = f"did you mean {' or '.join(nearest)}? " if nearest else ""
        super().__init__(f"no run named {slug!r}", hint=f"{meant}ml-intern list shows all runs")


class RunLocked(InvalidInput):
    """Another process is working on this run."""

    def __init__(self, slug: str, holder: str) -> None:
        super().__init__(
            f"run {slug} is in use by {holder}",
            hint=f"wait for it, or stop that process; look meanwhile with: ml-intern status {slug}",
        )


class NewerRun(InvalidInput):
    """The run was made by a version of this program that this one does not understand."""

    def __init__(self, slug: str, made_by: str, this: str) -> None:
        super().__init__(
            f"run {slug} was made by ml-intern {made_by}; this is {this}",
            hint="upgrade: pip install --upgrade ml-intern-cli",
        )


class StorageFailed(InvalidInput):
    """A file or directory could not be written or read."""


class Blocked(MlInternError):
    """Work cannot go on without the user. The pipeline writes it down as BLOCKER.md.

    Args:
        what: What stopped, in one line.
        why: The reason, in one line.
        ways_on: Commands or edits, each of which would unblock it; at least one.
    """

    exit_code = 3

    def __init__(self, what: str, *, why: str, ways_on: Sequence[str]) -> None:
        self.what = what
        self.why = why
        self.ways_on = tuple(ways_on)
        super().__init__(f"{what}: {why}", hint=" · or: ".join(self.ways_on))


class NoPathPassed(MlInternError):
    """Every candidate path was tried to the end and none passed verification."""

    exit_code = 4
