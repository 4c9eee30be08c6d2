"""The programs of a path: what they may not read, the end of their logs, and why they failed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import StorageFailed
from ml_intern_cli.frames import explanation_in, says_out_of_memory, without_explanations

_TAIL_LINES = 12
_SHOWN_LINES = 12
_LEAST_FREE_BYTES = 64 << 10  # a program may be unable to write even that it found no space
CRASH_LINES = 120  # of a log, which hold its last traceback and what explains it


def tail_of(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a text file, fit to be printed; empty when there is none."""
    return leavings.tail(path.parent, path.name, lines=lines)


def heldout_shards(layout: RunLayout) -> tuple[Path, ...]:
    """The files that only the judge may read."""
    return tuple(sorted(layout.data.glob("heldout-*.bin")))


def explained(program: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a program so that its crash is explained with the shapes in the failing lines."""
    return (sys.executable, "-m", "ml_intern_cli.frames", program, *arguments)


def how_it_crashed(exit_code: int, log: str) -> str:
    """One line about a program that failed without saying why in a file."""
    if exit_code < 0:
        return killed_by(-exit_code)
    last = [line for line in without_explanations(log).splitlines() if line.strip()][-1:]
    return f"exit code {exit_code}: {last[0] if last else 'nothing on stderr'}"


def killed_by(number: int) -> str:
    """``killed by signal 9``."""
    return f"killed by signal {number}"


def lacked_memory(reason: str) -> bool:
    """Whether that is why something failed: it said so, or the kernel's out-of-memory killer ended it."""
    return says_out_of_memory(reason) or killed_by(signal.SIGKILL) in reason


def raise_if_disk_full(layout: RunLayout, said: str) -> None:
    """A full disk is no fault of a path: nothing is written down, and the step is taken again later.

    Args:
        layout: The run's.
        said: What the program that failed said.

    Raises:
        StorageFailed: that is why.
    """
    if os.strerror(errno.ENOSPC) in said or shutil.disk_usage(layout.root).free < _LEAST_FREE_BYTES:
        raise StorageFailed(
            f"the disk is full: what a step writes found no room below {layout.root}",
            hint=f"free some; the run goes on from there: ml-intern run {layout.slug}",
        )


def crash_details(log: str) -> tuple[str, ...]:
    """What to show of a crash: the failing lines with their shapes, else the end of what it printed."""
    explanation = explanation_in(log).splitlines()[:_SHOWN_LINES]
    return tuple(explanation or log.splitlines()[-3:])
