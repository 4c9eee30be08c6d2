"""What a program left in its folder, read without believing what it is.

A program may put anything in place of a file that is read after it, or while it runs: a link to one
of the user's files, a pipe that never answers, a hole of a terabyte, control characters. So nothing
here follows a link, waits, or reads more than was allowed for. The folder itself is the caller's word;
what is below it is not.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

MOST_TEXT_BYTES = 256 << 20
"""Of a log: a row for each of a million steps."""
MOST_RECORD_BYTES = 16 << 20
"""Of one JSON object or document."""
_TAIL_BYTES = 16_384
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\t\n"}


class Refused(OSError):
    """There is something of that name, and it is not a plain file of a bearable size."""


@contextmanager
def opened(folder: Path, name: str, *, may_link: bool = False) -> Iterator[BinaryIO]:
    """The plain file ``name`` (``ckpts/last.json``) below ``folder``, to read.

    ``may_link``: the last part of the name may be a link, as a user would make one.

    Raises:
        Refused: a part of the name is a link or leads up, or it is no plain file.
        OSError: it is not there, or may not be read.
    """
    descriptor = _descend(folder, name, may_link=may_link)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(errno.EINVAL, "is no plain file", name)
        yield file


def read_bytes(
    folder: Path, name: str, *, most_bytes: int = MOST_RECORD_BYTES, may_link: bool = False
) -> bytes:
    """All of a file. Raises as ``opened``, and Refused when it is larger than ``most_bytes``."""
    with opened(folder, name, may_link=may_link) as file:
        content = b"" if os.fstat(file.fileno()).st_size > most_bytes else file.read(most_bytes + 1)
        if len(content) > most_bytes or os.fstat(file.fileno()).st_size > most_bytes:
            raise Refused(errno.EFBIG, f"is larger than {most_bytes >> 20} MiB", name)
    return content


def read_text(folder: Path, name: str, *, most_bytes: int = MOST_TEXT_BYTES, errors: str = "strict") -> str:
    """All of a text file. Raises as ``read_bytes``, and UnicodeDecodeError."""
    return read_bytes(folder, name, most_bytes=most_bytes).decode("utf-8", errors=errors)


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object; empty when there is none that can be read."""
    try:
        text = read_text(folder, name, most_bytes=MOST_RECORD_BYTES)
    except (OSError, ValueError):
        return {}
    return parse_object(text) or {}


def read_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, a line each; other lines are passed over, as is a log that is refused."""
    try:
        text = read_text(folder, name, errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        row = parse_object(line)
        if row is not None:
            yield row


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text holds, or ``None``, however deep it is nested."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def tail(folder: Path, name: str, *, lines: int) -> str:
    """The last lines of a text file, fit to be printed; empty when there is none."""
    try:
        with opened(folder, name) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(printable(text).splitlines()[-lines:])


def read_end(folder: Path, name: str, *, most_bytes: int) -> str:
    """So many bytes of a log's end, as text; empty when there is none or it may not be read."""
    try:
        with opened(folder, name) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            return printable(file.read(most_bytes).decode("utf-8", errors="replace"))
    except OSError:
        return ""


def copy(folder: Path, name: str, target: Path) -> None:
    """Copy a file's content. Raises as ``opened``, and OSError when ``target`` cannot be written."""
    with opened(folder, name) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def printable(text: str) -> str:
    """A text without what would steer the terminal that it is shown on."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def leads_out(folder: Path, name: str) -> bool:
    """Whether links take ``name`` to somewhere that is not below ``folder``."""
    real = Path(os.path.realpath(folder / name))  # which takes a link to itself for what it is
    return not real.is_relative_to(os.path.realpath(folder))


def _descend(folder: Path, name: str, *, may_link: bool) -> int:
    """Open ``name`` one part at a time, so that no part can become a link in between."""
    *inner, last = PurePosixPath(name).parts
    if ".." in (*inner, last) or PurePosixPath(name).is_absolute():
        raise Refused(errno.EINVAL, "leads out of its folder", name)
    here = os.open(folder, _ENTER & ~os.O_NOFOLLOW)
    try:
        for part in inner:
            below = os.open(part, _ENTER, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, _READ & ~os.O_NOFOLLOW if may_link else _READ, dir_fd=here)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO} or (error.errno == errno.ENOTDIR and inner):
            raise Refused(error.errno, "is a link or a pipe, and no plain file", name) from error
        raise
    finally:
        os.close(here)
