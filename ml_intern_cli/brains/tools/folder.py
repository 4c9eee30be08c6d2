"""A folder that a model works in, and no way out of it.

Every part of a name is opened on its own, from the folder's descriptor down and without following links
(openat(2), O_NOFOLLOW), so that a link swapped in between a check and its use leads nowhere.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ml_intern_cli.brains.tools.tool import ToolFailed
from ml_intern_cli.errors import StorageFailed

MOST_READ = 1 << 20  # bytes
MOST_WRITTEN = 256 << 10
_MOST_PARTS = 16
_LONGEST_NAME = 200
_MOST_LISTED = 500
_LOOKS = 6  # at the name of an opened file: a link may have been taken away just then
_LOOK_WITHIN_S = 0.0005  # between two of them
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not keep anyone waiting


@dataclass(frozen=True, slots=True)
class Folder:
    """One directory, by names relative to it."""

    root: Path

    def read(self, name: str, *, most: int = MOST_READ) -> str:
        """The text of a file. Raises ToolFailed."""
        data, size = self._read(name, most=most)
        if size > most:
            raise ToolFailed(
                f"{name} has {size:,} bytes; at most {most:,} can be read: use read_log for a part"
            )
        return _text(name, data)

    def read_part(self, name: str, *, most: int, from_end: bool) -> str:
        """The text of a file, or of so many bytes of its head or its end. Raises ToolFailed."""
        data, _ = self._read(name, most=most, from_end=from_end)
        return data.decode("utf-8", errors="replace")

    def exists(self, name: str) -> bool:
        """Whether there is such a file, and it can be read."""
        try:
            self._read(name, most=0)
        except ToolFailed:
            return False
        return True

    def write(self, name: str, text: str, *, most: int = MOST_WRITTEN) -> None:
        """Replace or make a file, whole or not at all.

        Raises:
            ToolFailed: the name or the text is none that can be written.
            StorageFailed: the disk is full.
        """
        data = _encoded(name, text)
        if len(data) > most:
            raise ToolFailed(f"{name} would have {len(data):,} bytes; at most {most:,} are written")
        *folders, last = _parts(name)
        with self._opened(folders, name, make=True) as where:
            with suppress(FileNotFoundError):
                found = os.stat(last, dir_fd=where, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise ToolFailed(f"{name} is {_kind(found.st_mode)}; only plain files are written")
            aside = f".{uuid.uuid4().hex}.tmp"
            try:
                # What stands there is replaced, never written through: it may be a link to something else.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(aside, flags, 0o644, dir_fd=where), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(aside, last, src_dir_fd=where, dst_dir_fd=where)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(aside, dir_fd=where)
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise StorageFailed(
                        f"the disk is full: {name} could not be written",
                        hint="free some space and run the same command again",
                    ) from error
                raise ToolFailed(f"{name} cannot be written: {error.strerror}") from error

    def names(self) -> list[str]:
        """Files with their sizes, the links and other things marked as such; at most 500."""
        with self._opened([], ".") as where:
            return list(_listed(where, ""))[:_MOST_LISTED]

    def _read(self, name: str, *, most: int, from_end: bool = False) -> tuple[bytes, int]:
        *folders, last = _parts(name)
        with self._opened(folders, name) as where:
            try:
                descriptor = os.open(last, _FILE, dir_fd=where)
            except OSError as error:
                raise _refused(name, error) from error
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                os.close(descriptor)
                raise ToolFailed(f"{name} is {_kind(found.st_mode)}, not a file")
            with os.fdopen(descriptor, "rb") as file:
                if not _is_only_here(file.fileno(), last, where):
                    raise ToolFailed(f"{name} is also a file elsewhere (a hard link); it is not read")
                if from_end:
                    file.seek(max(0, found.st_size - most))
                return file.read(most), found.st_size

    @contextmanager
    def _opened(self, folders: list[str], name: str, *, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder below the root."""
        try:
            where = os.open(self.root, _FOLDER)
        except OSError as error:
            raise _refused("the folder", error) from error
        try:
            for part in folders:
                try:
                    if make:
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=where)
                    below = os.open(part, _FOLDER, dir_fd=where)
                except OSError as error:
                    raise _refused(name, error) from error
                os.close(where)
                where = below
            yield where
        finally:
            os.close(where)


def _parts(name: str) -> list[str]:
    """The parts of a name that stays below. Raises ToolFailed."""
    parts = [part for part in name.split("/") if part != "."]
    if name.startswith(("/", "~")) or ".." in parts:
        raise ToolFailed(f"{name!r} leads out of the folder; name files relative to it, such as model.py")
    strange = any(not part or len(part.encode(errors="replace")) > _LONGEST_NAME for part in parts)
    if strange or not parts or len(parts) > _MOST_PARTS or not name.isprintable():
        raise ToolFailed(f"{name[:100]!r} is no name of a file here")
    return parts


def _is_only_here(descriptor: int, name: str, where: int) -> bool:
    """Whether an opened file has this one name and no other, now and at a few more looks.

    A link can be taken away between finding the name and counting it. The looks are at odd moments, so that
    whoever makes and removes links all the time cannot keep step with them.
    """
    for look in range(_LOOKS):
        if look:
            time.sleep(random.uniform(0, _LOOK_WITHIN_S))  # noqa: S311, odd, not secret
        opened = os.fstat(descriptor)
        try:
            named = os.stat(name, dir_fd=where, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            return False
        if not named.st_nlink == opened.st_nlink == 1:
            return False
    return True


def _listed(where: int, prefix: str, depth: int = 0) -> Iterator[str]:
    for entry in sorted(os.listdir(where)):
        if entry.startswith("."):
            continue
        try:
            found = os.stat(entry, dir_fd=where, follow_symlinks=False)
        except FileNotFoundError:  # gone meanwhile
            continue
        if stat.S_ISREG(found.st_mode):
            yield f"{prefix}{entry}  {found.st_size:,} bytes"
        elif stat.S_ISDIR(found.st_mode) and depth < 3:
            try:
                below = os.open(entry, _FOLDER, dir_fd=where)
            except OSError:  # gone, or another thing by now
                continue
            try:
                yield from _listed(below, f"{prefix}{entry}/", depth + 1)
            finally:
                os.close(below)
        else:
            yield f"{prefix}{entry}  ({_kind(found.st_mode)}; not readable)"


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolFailed(f"{name}: the text holds half a character (a lone surrogate)") from error


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolFailed(f"{name} is not UTF-8 text") from error


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
    return next((words for test, words in kinds if test(mode)), "something else")


def _refused(name: str, error: OSError) -> ToolFailed:
    if isinstance(error, FileNotFoundError):
        return ToolFailed(f"{name} is not there; list_files shows what is")
    # ELOOP and ENOTDIR are what O_NOFOLLOW makes of a link.
    return ToolFailed(f"{name} cannot be opened: {error.strerror}; links are not followed")
