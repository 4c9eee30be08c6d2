"""Reading logs: their head, their tail, or the lines that match."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.output import Outputs, plain
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool

_MOST_BYTES = 8 << 20
_MOST_LINES = 500
_LONGEST_LINE = 2_000  # characters
_PATIENCE_S = 5.0  # for a pattern
_GREP = Path(__file__).with_name("grep.py")


class ReadLog(Arguments):
    """Which lines of which log."""

    path: str = Field(
        description="relative to the folder: train.log, train.stderr, SMOKE.md, outputs/001-….txt"
    )
    mode: Literal["head", "tail"] = "tail"
    lines: int = Field(default=80, ge=1, le=_MOST_LINES)
    pattern: str | None = Field(default=None, description="a regular expression: only lines that it matches")
    context: int = Field(default=0, ge=0, le=5, description="lines around each match")


def log_tools(folder: Folder, outputs: Outputs | None) -> tuple[Tool, ...]:
    """``read_log`` for a folder; ``outputs`` bounds what it answers."""

    def read_log(given: ReadLog) -> str:
        from_end = given.mode == "tail"
        text = plain(folder.read_part(given.path, most=_MOST_BYTES, from_end=from_end))
        lines = [line[:_LONGEST_LINE] for line in text.splitlines()]
        numbers = (
            range(len(lines)) if given.pattern is None else _matching(lines, given.pattern, given.context)
        )
        chosen = list(numbers)[: given.lines] if given.mode == "head" else list(numbers)[-given.lines :]
        shown = "\n".join(f"{number + 1:6}\t{lines[number]}" for number in chosen)
        answer = shown or f"no line of {given.path}" + (" matches" if given.pattern else "")
        return outputs.bounded(answer, name="log") if outputs else answer

    return (
        tool(
            "read_log",
            "Reads the head or the tail of a log, or the lines that match a pattern; lines are numbered. "
            "Of a file over 8 MiB only its head or its end is read.",
            ReadLog,
            read_log,
            read_only=True,
        ),
    )


def _matching(lines: Sequence[str], pattern: str, context: int) -> list[int]:
    """The numbers of matching lines and those around them. Raises ToolFailed."""
    try:
        ran = subprocess.run(
            (sys.executable, "-I", str(_GREP)),
            input=json.dumps({"pattern": pattern, "lines": lines}),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed("the pattern takes too long; use a simpler one") from error
    if ran.returncode != 0:  # it was out of memory
        raise ToolFailed("the pattern takes too much memory; use a simpler one")
    answer = json.loads(ran.stdout)
    if "error" in answer:
        raise ToolFailed(f"the pattern is no regular expression: {answer['error']}")
    around = {
        j for i in answer["matches"] for j in range(max(0, i - context), min(len(lines), i + context + 1))
    }
    return sorted(around)
