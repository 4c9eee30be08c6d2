"""One output stream: what it can show (colour, symbols, width) and how text gets onto it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The symbols of one character set. ``bars`` and ``spinner`` go from low to high and round."""

    done: str
    failed: str
    started: str
    stopped: str
    todo: str
    dot: str
    bars: str
    spinner: str


UNICODE = Glyphs(
    done="✓", failed="✗", started="▸", stopped="!", todo="–", dot="·", bars="▁▂▃▄▅▆▇█", spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
)
ASCII = Glyphs(
    done="+", failed="x", started=">", stopped="!", todo="-", dot="|", bars="_.-=*#", spinner="|/-\\"
)

_PLAIN = str.maketrans(
    {"✓": "+", "✗": "x", "·": "|", "–": "-", "—": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "≈": "~"}
    | {"Δ": "d", "±": "+-", "×": "x", "÷": "/", "°": " deg"}
)
_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Terminal:
    """A text stream that is written line by line. A reader that went away (``| head``) is no error."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self.stream = stream
        self.is_dumb = environment.get("TERM") == "dumb"
        self.is_interactive = stream.isatty() and not self.is_dumb
        self.has_color = self.is_interactive and not environment.get("NO_COLOR")
        self.is_unicode = _can_encode(stream, UNICODE.bars + UNICODE.spinner)
        self.glyphs = UNICODE if self.is_unicode else ASCII

    @property
    def width(self) -> int:
        """Columns. What is read by a program is never wrapped, so without a terminal it is wide."""
        return shutil.get_terminal_size().columns if self.is_interactive else 160

    def style(self, text: str, *names: str) -> str:
        """``text`` in a colour or weight, where the stream shows any."""
        if not self.has_color or not text:
            return text
        return f"\x1b[{';'.join(_SGR[name] for name in names)}m{text}\x1b[0m"

    def fit(self, text: str) -> str:
        """``text`` in the characters that the stream has."""
        return text if self.is_unicode else text.translate(_PLAIN).encode("ascii", "replace").decode()

    def lines(self, lines: Iterable[str]) -> None:
        """Write lines and flush."""
        try:
            for line in lines:
                self.stream.write(self.fit(line) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            _abandon(self.stream)

    def line(self, text: str = "") -> None:
        """Write one line and flush."""
        self.lines([text])

    def prompt(self, text: str) -> None:
        """Write text that an answer is typed behind."""
        self.stream.write(self.fit(text))
        self.stream.flush()


def aligned(rows: Iterable[Iterable[str]], *, gap: int = 2) -> list[str]:
    """Rows as columns of equal width; the last column is left as it is."""
    table = [tuple(row) for row in rows]
    if not table:
        return []
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    widths[-1] = 0
    space = " " * gap
    return [
        space.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")  # a stream in memory has none, and takes all
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _abandon(stream: TextIO) -> None:
    """Point the stream at nothing, so that neither a later line nor the interpreter's exit complains."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return  # not a file: nothing flushes it at exit
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def standard_streams(environment: Mapping[str, str]) -> tuple[Terminal, Terminal]:
    """The terminals of stdout and stderr; one that was closed (``>&-``) goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115, for good
    return Terminal(sys.stdout, environment), Terminal(sys.stderr, environment)
