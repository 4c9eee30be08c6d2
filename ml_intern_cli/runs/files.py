"""Writing to disk so that a reader sees the old content or the new, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_intern_cli.errors import MlInternError, StorageFailed

_LOGS = threading.Lock()  # threads of this process append to them; no other process does


def write_atomic(path: Path, text: str) -> None:
    """Write aside, fsync, rename, fsync the folder.

    Raises:
        StorageFailed: the disk is full, read-only, or something is in the way.
    """
    # Nobody can have put a link under that name; programs write to some of these folders too.
    aside = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(aside)
        raise storage_failed(error, path) from error


def append_line(path: Path, text: str) -> None:
    """Append one line and fsync. A torn last line of a killed writer is ended first.

    Raises:
        StorageFailed: as for ``write_atomic``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _LOGS, path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_failed(error, path) from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON rows of a log; torn or foreign lines are passed over."""
    try:
        with _LOGS:
            text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An append-only file of JSON rows."""

    path: Path

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows; torn or foreign lines are passed over."""
        return read_rows(self.path)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Raises as ``append_line``."""
        append_line(self.path, json.dumps(row, ensure_ascii=False))


def storage_failed(error: OSError, path: Path | str) -> MlInternError:
    """The error for the user, with what to do about it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFailed(
            f"the disk is full: {path} could not be written",
            hint="free some space and run the same command again; nothing that was complete is lost",
        )
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return StorageFailed(
            f"{path} cannot be written ({error.strerror})",
            hint="choose another place: --runs-dir DIR or ML_INTERN_RUNS_DIR",
        )
    return StorageFailed(f"{path}: {error.strerror or error}", hint="choose another place: --runs-dir DIR")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the failure that led here is the one to report
