"""One process per run. The lock's file names its holder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import RunLocked
from ml_intern_cli.runs.files import storage_failed


@contextmanager
def locked(layout: RunLayout, *, command: str) -> Iterator[None]:
    """Hold the run for the length of the block; the kernel releases it when the process dies.

    Raises:
        RunLocked: another process holds it.
        StorageFailed: the lock cannot be written.
    """
    lock = FileLock(layout.lock)
    holder = layout.lock.with_name(".lock-holder.json")
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLocked(layout.slug, _describe(holder)) from error
    except OSError as error:
        raise storage_failed(error, layout.lock) from error
    try:
        # Advice for a second process, not state: no atomic write needed.
        holder.write_text(json.dumps({"pid": os.getpid(), "command": command}), encoding="utf-8")
        yield
    except OSError as error:
        raise storage_failed(error, getattr(error, "filename", None) or layout.root) from error
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: os.PathLike[str]) -> str:
    try:
        with open(holder, encoding="utf-8") as file:  # noqa: PTH123, a path-like
            facts = json.load(file)
        return f"process {facts['pid']} ({facts['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
