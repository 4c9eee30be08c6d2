"""The statement in which a frame failed, from the file as it is on disk."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType

from ml_intern_cli.frames import SNIPPET

_LONGEST_STATEMENT = 160  # characters; of a longer one only the failing expression is shown
_MOST_SOURCE_BYTES = 2_000_000
_OF_LIBRARIES = {"site-packages", "dist-packages"}
_OWN = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120, plain strings, compared per frame

Place = tuple[int, int]
"""A line, 1-based, and a column in bytes."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in one line; of a compound one its head.

    ``nodes`` are the parts whose names matter, the failing expression first.
    """

    text: str
    nodes: tuple[ast.AST, ...] = ()


class Sources:
    """The files below one directory."""

    def __init__(self, root: Path, snippet: str) -> None:
        self._root = os.path.realpath(root)
        self._snippet = snippet
        self.label = cache(self._label)  # a recursion has a thousand frames of one file
        self._parsed = cache(self._parse)

    def _label(self, filename: str) -> str | None:
        """The file's path from the root; ``None`` for a file that is not of whoever wrote what is there."""
        if filename == SNIPPET:
            return "-c"
        real = os.path.realpath(filename)
        if not real.startswith(os.path.join(self._root, "")) or real.startswith(_OWN):  # noqa: PTH118
            return None
        label = Path(real).relative_to(self._root)
        return None if _OF_LIBRARIES & set(label.parts) or filename.startswith("<") else label.as_posix()

    def statement(self, code: CodeType, instruction: int, line: int | None) -> Statement:
        """What was being done at an instruction; ``line`` is known even where columns are not."""
        source, tree = self._parsed(code.co_filename)
        first, last, start, end = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
        first = first or line
        if first is None or first > len(source):
            return Statement("")
        raw = source[first - 1].decode("utf-8", errors="replace").strip()
        if tree is None:
            return Statement(raw)
        has_columns = last is not None and start is not None and end is not None
        begins = (first, start or 0) if has_columns else (first, 1 << 30)
        ends = (last or first, end or 0) if has_columns else (first, 0)
        around = [node for node in ast.walk(tree) if _covers(node, begins, ends, has_columns=has_columns)]
        statement = next((node for node in reversed(around) if isinstance(node, ast.stmt)), None)
        if statement is None:
            return Statement(raw)
        expression = next((node for node in reversed(around) if isinstance(node, ast.expr)), None)
        parts = tuple(_head(statement))
        text = _text(source, statement)
        if len(text) > _LONGEST_STATEMENT and expression is not None:
            text = f"… {_one_line(source, _begin(expression), _end(expression))} …"
        return Statement(text, parts if expression is None else (expression, *parts))

    def _parse(self, filename: str) -> tuple[list[bytes], ast.Module | None]:
        """The lines of a file and its tree: no lines where it is gone, no tree where it is no Python."""
        text = self._snippet
        if filename != SNIPPET:
            path = Path(filename)
            if not path.is_file() or path.stat().st_size > _MOST_SOURCE_BYTES:  # a pipe would never end
                return [], None
            text = importlib.util.decode_source(path.read_bytes())
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            tree = None
        return text.encode("utf-8", errors="replace").split(b"\n"), tree


def _covers(node: ast.AST, begins: Place, ends: Place, *, has_columns: bool) -> bool:
    if not isinstance(node, ast.stmt | ast.expr):
        return False
    if not has_columns:  # only statements of that line: which of its expressions failed is not known
        return isinstance(node, ast.stmt) and _begin(node)[0] <= begins[0] <= _end(node)[0]
    return _begin(node) <= begins and ends <= _end(node)


def _begin(node: ast.stmt | ast.expr) -> Place:
    return node.lineno, node.col_offset


def _end(node: ast.stmt | ast.expr) -> Place:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def _head(statement: ast.stmt) -> Iterator[ast.AST]:
    """A statement, or what stands before the colon of a compound one."""
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    if body is None:
        yield statement
        return
    for name, value in ast.iter_fields(statement):
        if name not in {"body", "orelse", "finalbody", "handlers", "cases"}:
            values = value if isinstance(value, list) else [value]
            yield from (one for one in values if isinstance(one, ast.AST))


def _text(source: list[bytes], statement: ast.stmt) -> str:
    head = list(_head(statement))
    if head == [statement]:
        return _one_line(source, _begin(statement), _end(statement))
    ends = [_end(node) for part in head for node in ast.walk(part) if isinstance(node, ast.stmt | ast.expr)]
    # Not up to the body: comments may stand between the two.
    last = max(ends, default=(statement.lineno, statement.col_offset + len(type(statement).__name__)))
    return f"{_one_line(source, _begin(statement), last)}:"


def _one_line(source: list[bytes], begin: Place, end: Place) -> str:
    lines = source[begin[0] - 1 : end[0]]
    if lines:
        lines[-1] = lines[-1][: end[1]]
        lines[0] = lines[0][begin[1] :]
    text = " ".join(" ".join(line.decode("utf-8", errors="replace").split()) for line in lines).strip()
    text = re.sub(r"(?<=[(\[{]) +| +(?=[)\]}])", "", text) if len(lines) > 1 else text
    return text if len(text) <= _LONGEST_STATEMENT else f"{text[:_LONGEST_STATEMENT]}…"
