"""Reading and writing in the folder of a path."""

from __future__ import annotations

import difflib

from pydantic import Field

from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool

_NEAREST_LINES = 3


class ListFiles(Arguments):
    """Takes nothing."""


class ReadFile(Arguments):
    """Which lines of which file."""

    path: str = Field(description="relative to the folder")
    first_line: int = Field(default=1, ge=1)
    last_line: int | None = Field(default=None, ge=1, description="null: to the end")


class WriteFile(Arguments):
    """A whole file."""

    path: str = Field(description="relative to the folder")
    text: str


class EditFile(Arguments):
    """One place of a file."""

    path: str = Field(description="relative to the folder")
    old: str = Field(min_length=1, description="what stands there, to the letter; must occur once")
    new: str


def file_tools(
    folder: Folder, *, writable: bool = True, protected: frozenset[str] = frozenset()
) -> tuple[Tool, ...]:
    """The tools of a folder.

    Args:
        folder: Where they work, and nowhere else.
        writable: Whether they may change something.
        protected: Names that they may not change.
    """

    def list_files(_: ListFiles) -> str:
        return "\n".join(folder.names())

    def read_file(given: ReadFile) -> str:
        lines = folder.read(given.path).removesuffix("\n").split("\n")
        chosen = lines[given.first_line - 1 : given.last_line]
        if lines and not chosen:
            raise ToolFailed(f"{given.path} has {len(lines):,} lines")
        return "\n".join(f"{number:5}\t{line}" for number, line in enumerate(chosen, start=given.first_line))

    def write_file(given: WriteFile) -> str:
        _refuse_protected(given.path, protected)
        folder.write(given.path, given.text)
        return (
            f"{given.path} written, {len(given.text.splitlines()):,} lines{compiles(given.path, given.text)}"
        )

    def edit_file(given: EditFile) -> str:
        _refuse_protected(given.path, protected)
        text = folder.read(given.path)
        places = _places(text, given.old)
        # A conversation that was broken off may repeat an edit that was already made.
        if _is_made(text, given.old, given.new):
            return f"{given.path} is already so{compiles(given.path, text)}"
        if len(places) != 1:
            raise ToolFailed(_no_single_place(given.path, text, given.old, len(places)))
        edited = text.replace(given.old, given.new)
        folder.write(given.path, edited)
        return f"{given.path} edited{compiles(given.path, edited)}"

    reading = (
        tool("list_files", "Lists the folder: names and sizes.", ListFiles, list_files, read_only=True),
        tool(
            "read_file",
            "Reads a text file of the folder, lines numbered. At most 1 MiB; for logs there is read_log.",
            ReadFile,
            read_file,
            read_only=True,
        ),
    )
    if not writable:
        return reading
    return (
        *reading,
        tool(
            "write_file",
            "Writes a whole file of the folder, at most 256 KiB, in place of what stands there.",
            WriteFile,
            write_file,
            read_only=False,
        ),
        tool(
            "edit_file",
            "Replaces one place in a file of the folder. `old` must occur once: give enough around it.",
            EditFile,
            edit_file,
            read_only=False,
        ),
    )


def compiles(name: str, text: str) -> str:
    """What is to be said of a program that does not compile; nothing of anything else."""
    if not name.endswith(".py"):
        return ""
    try:
        compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"; it does not compile: {error}"
    return ""


def _refuse_protected(name: str, protected: frozenset[str]) -> None:
    if "/".join(part for part in name.split("/") if part != ".") in protected:
        raise ToolFailed(f"{name} holds the plan's numbers, which are not yours to change")


def _places(text: str, part: str) -> list[int]:
    """Where a part begins, overlapping ones too."""
    places, start = [], text.find(part)
    while start >= 0:
        places.append(start)
        start = text.find(part, start + 1)
    return places


def _is_made(text: str, old: str, new: str) -> bool:
    """Whether the new text stands there once, and the old nowhere but inside it."""
    made = _places(text, new) if new else []
    if len(made) != 1:
        return False
    begin, end = made[0], made[0] + len(new)
    return all(begin <= place and place + len(old) <= end for place in _places(text, old))


def _no_single_place(name: str, text: str, old: str, count: int) -> str:
    if count > 1:
        return f"`old` occurs {count} times in {name}; give more of what stands around it"
    near = difflib.get_close_matches(
        old.strip().splitlines()[0], text.splitlines(), n=_NEAREST_LINES, cutoff=0.5
    )
    like = "\n".join(near)
    return f"`old` does not occur in {name}." + (f" Lines like it:\n{like}" if near else "")
