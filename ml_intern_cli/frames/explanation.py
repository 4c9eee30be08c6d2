"""An exception as text: its frames, innermost first, each with its failing line and the tensors in that.

RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x64 and 128x64)
  model.py:41 in Attention.forward:  y = self.proj(x.transpose(1, 2))
      x                        (2, 8, 64) float32
      self.proj.weight         (64, 128) float32  Linear 128 → 64
      input in Linear.forward  (2, 64, 8) float32
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType, FunctionType, TracebackType, WrapperDescriptorType
from typing import Any

from ml_intern_cli.frames import LONGEST, says_out_of_memory
from ml_intern_cli.frames.lookup import (
    MISSING,
    Found,
    Scope,
    is_exactly,
    item,
    local_variables,
    mro,
    own,
    type_name,
)
from ml_intern_cli.frames.source import Sources, Statement
from ml_intern_cli.frames.values import Row, is_number, is_tensor, rows, size_bytes, tensors_in

_MOST_FRAMES = 12
_MOST_ROWS = 12  # of one frame
_MOST_LARGEST = 5  # tensors, where memory ran out
_MOST_FOREIGN = 50  # frames of libraries below the innermost one that are looked at
_LONGEST_HEADLINE = 500
_LONGEST_NAME = 40
_LONGEST_ROW = 200
_MARGIN = 60  # characters for the lines that say what was left out
_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class _Step:
    """A frame on the way to the failure, and the frames of libraries that it called."""

    label: str  # of its file
    frame: FrameType
    instruction: int
    line: int | None
    called: list[TracebackType]

    @property
    def code(self) -> CodeType:
        return self.frame.f_code


def build(error: BaseException, *, root: Path, snippet: str) -> str:
    """The explanation."""
    sources = Sources(root, snippet)
    cause = BaseException.__dict__["__cause__"].__get__(error)
    steps = _steps(error, sources)
    because = _steps(cause, sources) if cause is not None else []
    most = _MOST_FRAMES // 2 if because else _MOST_FRAMES
    text = _headline(error, sources)
    if _ran_out_of_memory(error, text):
        text += _largest(steps)
    ending = f"\ncaused by {_headline(cause, sources)}" if because else ""
    share = (LONGEST - len(text) - len(ending)) // (2 if because else 1)
    text += _frames(steps, sources, most=most, longest=share) + ending
    if because:
        text += _frames(because, sources, most=most, longest=LONGEST - len(text))
    return text[:LONGEST]


def _headline(error: BaseException, sources: Sources) -> str:
    """``RuntimeError: message`` in one line; without the message where the program's own code makes it."""
    message = _shown(str(error)) if _says_itself(error, sources) else ""
    if len(message) > _LONGEST_HEADLINE:
        message = f"{message[:_LONGEST_HEADLINE]}…"
    return f"{type_name(error)}: {message}" if message else type_name(error)


def _says_itself(error: BaseException, sources: Sources) -> bool:
    """Whether ``str`` runs only code of Python and of libraries."""
    speaker = next(
        found for base in mro(type(error)) if (found := item(dict(own(base)), "__str__")) is not MISSING
    )
    if isinstance(speaker, FunctionType):
        filename = speaker.__code__.co_filename
        return sources.label(filename) is None and not filename.startswith("<")
    arguments = BaseException.__dict__["args"].__get__(error)
    return isinstance(speaker, WrapperDescriptorType) and all(map(_is_plain, arguments))


def _is_plain(value: object) -> bool:
    return is_exactly(value, *_PLAIN) or (type(value) is tuple and all(map(_is_plain, value)))


def _steps(error: BaseException, sources: Sources) -> list[_Step]:
    """The frames of the program, outermost first."""
    steps: list[_Step] = []
    link: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    while link is not None:
        label = sources.label(link.tb_frame.f_code.co_filename)
        if label is not None:
            steps.append(_Step(label, link.tb_frame, link.tb_lasti, link.tb_lineno, []))
        elif steps and len(steps[-1].called) < _MOST_FOREIGN:
            steps[-1].called.append(link)
        link = link.tb_next
    return steps


def _frames(steps: list[_Step], sources: Sources, *, most: int, longest: int) -> str:
    """The frames that fit, innermost first; the outermost one is always among them."""
    if not steps:
        return ""
    runs = [list(run) for _, run in groupby(reversed(steps), key=lambda step: (step.code, step.instruction))]
    *inner, outermost = runs
    blocks = [_block(run, sources, is_innermost=run is runs[0]) for run in inner[: most - 1]]
    ending = _block(outermost, sources, is_innermost=not inner)
    while len(blocks) > 1 and sum(map(len, blocks)) + len(ending) + _MARGIN > longest:
        blocks.pop()
    left_out = sum(map(len, inner[len(blocks) :]))
    gap = f"\n  … {left_out:,} more frames" if left_out else ""
    return "".join([*blocks, gap, ending])[: max(0, longest)]


def _block(run: list[_Step], sources: Sources, *, is_innermost: bool) -> str:
    """One frame; ``run`` has more than one where it called itself from the same place."""
    step = run[0]
    statement = sources.statement(step.code, step.instruction, step.line)
    again = f"  ({len(run):,} times)" if len(run) > 1 else ""
    place = f"  {step.label}:{step.line} in {step.code.co_qualname}:  {_shown(statement.text)}"
    found = list(_unique(_rows_of(step, statement)))[:_MOST_ROWS]
    if is_innermost:
        known = {row.key for row in found}
        found += [row for row in _rows_inside(step) if row.key not in known][:_MOST_ROWS]
    width = max((len(_name(row)) for row in found), default=0)
    return "".join(f"\n{line}" for line in (place.rstrip() + again, *(_line(row, width) for row in found)))


def _rows_of(step: _Step, statement: Statement) -> Iterator[Row]:
    if not statement.nodes:  # without its source: whatever tensors the frame holds
        for name, value in local_variables(step.frame).items():
            if is_tensor(value):
                yield from rows(name, value)
    for prefixes in Scope(step.frame).found_in(statement.nodes):
        yield from _longest(prefixes)


def _longest(prefixes: tuple[Found, ...]) -> tuple[Row, ...]:
    """About the longest part of ``self.proj.weight.shape`` that there is something to say about."""
    return next(filter(None, (rows(one.label, one.value) for one in reversed(prefixes))), ())


def _rows_inside(step: _Step) -> list[Row]:
    """What the innermost function of a library was given, if there were tensors among it.

    It tells the shapes of what was computed on the way and has no name in the program.
    """
    for link in reversed(step.called):
        code, variables = link.tb_frame.f_code, local_variables(link.tb_frame)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = {name: item(variables, name) for name in names}
        if any(map(is_tensor, given.values())):
            found = [
                row for name, value in given.items() if not is_number(value) for row in rows(name, value)
            ]
            return [replace(row, name=f"{row.name} in {code.co_qualname}") for row in found]
    return []


def _unique(found: Iterable[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in found:
        if row.name not in seen:
            seen.add(row.name)
            yield row


def _ran_out_of_memory(error: BaseException, text: str) -> bool:
    return any(base is MemoryError for base in mro(type(error))) or says_out_of_memory(text)


def _largest(steps: list[_Step]) -> str:
    """The largest tensors that the program's variables hold."""
    found: dict[int, tuple[int, str, Any, _Step]] = {}
    for step in steps[-_MOST_FRAMES:]:
        for variable, value in local_variables(step.frame).items():
            for name, tensor in tensors_in(variable, value):
                found.setdefault(id(tensor), (size_bytes(tensor), name, tensor, step))
    lines = [
        f"\n  {size / 2**30:8.3f} GiB  {_shown(name)[:_LONGEST_NAME]}  {row.text}  ({step.label}:{step.line})"
        for size, name, tensor, step in heapq.nlargest(_MOST_LARGEST, found.values(), key=lambda one: one[0])
        for row in rows(name, tensor)
    ]
    return "".join(["\n  the largest tensors in these frames:", *lines]) if lines else ""


def _name(row: Row) -> str:
    name = _shown(row.name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _line(row: Row, width: int) -> str:
    text = _shown(row.text, keep_spaces=True)
    return (
        f"      {_name(row).ljust(width)}  {text if len(text) <= _LONGEST_ROW else text[:_LONGEST_ROW] + '…'}"
    )


def _shown(text: str, *, keep_spaces: bool = False) -> str:
    """Text in one line, without what would move the cursor of a terminal."""
    text = text if keep_spaces else " ".join(text.split())
    return "".join(one if one.isprintable() else "�" for one in text)
