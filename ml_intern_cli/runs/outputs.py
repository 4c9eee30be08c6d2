"""Writing what a stage gave back, without losing what the user wrote in its place."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.canonical import canonical, merge
from ml_intern_cli.documents.layout import BUDGET, PLAN, RESEARCH, TASK, RunLayout
from ml_intern_cli.documents.model import Model
from ml_intern_cli.documents.registry import load, render
from ml_intern_cli.errors import InvalidDocument
from ml_intern_cli.runs.files import storage_failed, write_atomic
from ml_intern_cli.runs.receipts import Receipt, text_sha256
from ml_intern_cli.stages.base import D, Stage, StageResult, read_document

_DOCUMENTS = threading.RLock()
"""Paths that are worked on side by side write the same documents."""

# In these a person has a say; field by field, what the user changed survives a new version.
_SHARED_WITH_USER = frozenset({TASK, BUDGET, RESEARCH, PLAN})


@dataclass
class Written:
    """What was written, for the receipt, and what of the user's was kept."""

    outputs: dict[str, str] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


def write_outputs(
    layout: RunLayout, stage: Stage, result: StageResult, before: Receipt | None, *, ours: frozenset[str]
) -> Written:
    """Write a stage's files and documents atomically, documents last.

    Args:
        layout: The run.
        stage: Whose outputs these are.
        result: What it gave back.
        before: Its last receipt, which tells the user's edits from what the stage itself wrote.
        ours: Hashes of all texts that any stage wrote; the rest is somebody's own.
    """
    writer = _Writer(layout, stage, before, ours)
    with _DOCUMENTS:
        for name, text in result.files.items():
            writer.file(name, text)
        for name, revise in result.revisions.items():
            writer.revision(name, revise(load(layout.document(name), source=name)))
        for name, document in result.documents.items():
            writer.document(name, document)
    return writer.written


def archive(layout: RunLayout, name: str) -> None:
    """Move a file or folder of the run to .history/; nothing that a person may have touched is deleted."""
    source = layout.root / name
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    target = layout.history / stamp / name
    with _DOCUMENTS:
        if not os.path.lexists(source):
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
        except OSError as error:
            raise storage_failed(error, source) from error


def update(layout: RunLayout, kind: type[D], name: str, change: Callable[[D], D]) -> None:
    """Change a document, if that changes anything, whoever else of this process writes to it.

    Raises:
        InvalidDocument: it does not parse.
    """
    with _DOCUMENTS:
        before = read_document(layout, kind, name)
        after = change(before)
        if after != before:
            rewrite(layout, name, after)


def rewrite(layout: RunLayout, name: str, document: Model) -> None:
    """Write a document that the program changed, and keep what a person wrote around its values."""
    path = layout.document(name)
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text != render(load(path, source=name)):
            _keep(layout, name, text)
    write_atomic(path, render(document))


def _keep(layout: RunLayout, name: str, text: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    write_atomic(layout.history / stamp / name, text)


class _Writer:
    def __init__(self, layout: RunLayout, stage: Stage, before: Receipt | None, ours: frozenset[str]) -> None:
        self.written = Written()
        self._layout = layout
        self._stage = stage
        self._base = before.base if before else {}
        self._ours = ours

    def file(self, name: str, text: str) -> None:
        """Write a program or a configuration; one that the user edited is kept, if the stage says so."""
        path = self._layout.root / name
        _clear_the_way(self._layout, name)
        base = json.loads(text) if name.endswith(".json") else None
        if base is not None:
            self.written.base[name] = base
        self.written.outputs[name] = text_sha256(text)
        current = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        if current is not None and self._stage.keeps_edits and self._is_users(current, text):
            self.written.kept.append(name)
            old_base = self._base.get(name)
            if base is None or old_base is None:
                return
            text = _merged_json(old_base, current, base) or current
        if current != text:
            self._keep(name, current)
            write_atomic(path, text)

    def document(self, name: str, document: Model) -> None:
        """Write a document; in those that are shared with the user, what was edited survives."""
        path = self._layout.document(name)
        _clear_the_way(self._layout, name)
        self.written.base[name] = canonical(document, None)
        if path.is_file():
            edited, old_base = self._edited(name), _without_retries(name, self._base.get(name))
            if (
                edited is not None
                and old_base is not None
                and name in _SHARED_WITH_USER
                and edited != old_base
            ):
                document = type(document).model_validate(merge(old_base, edited, canonical(document, None)))
                self.written.kept.append(name)
            self._keep(name, path.read_text(encoding="utf-8", errors="replace"))
        text = render(document)
        write_atomic(path, text)
        self.written.outputs[name] = text_sha256(text)

    def revision(self, name: str, document: Model) -> None:
        """Write what became of a document; it was made of what stood there, edits included."""
        rewrite(self._layout, name, document)
        self.written.outputs[name] = text_sha256(render(document))

    def _edited(self, name: str) -> dict[str, Any] | None:
        """What a document says now; retries that the program planned are no edit of the user's."""
        try:
            content = canonical(load(self._layout.document(name), source=name), None)
        except InvalidDocument:
            return None
        edited: dict[str, Any] = _without_retries(name, content)
        return edited

    def _is_users(self, current: str, new: str) -> bool:
        """Whether what stands on disk is neither what a stage wrote nor what it would write now."""
        return text_sha256(current) not in self._ours | {text_sha256(new)}

    def _keep(self, name: str, current: str | None) -> None:
        """Copy to .history/ what is about to be overwritten, unless a stage wrote it."""
        if current is None or text_sha256(current) in self._ours:
            return
        _keep(self._layout, name, current)


def _clear_the_way(layout: RunLayout, name: str) -> None:
    """Set aside what a program of a path put where a file is written: a pipe, or a link out of the run."""
    *folders, _ = parts = name.split("/")
    for end in range(1, len(parts) + 1 if folders else 1):
        place = "/".join(parts[:end])
        try:
            mode = (layout.root / place).lstat().st_mode
        except FileNotFoundError:
            return
        expected = stat.S_ISDIR(mode) if end < len(parts) else stat.S_ISREG(mode)
        is_users_link = stat.S_ISLNK(mode) and not leavings.leads_out(layout.root, place)
        if not expected and not is_users_link:
            archive(layout, place)
            return


def _without_retries(name: str, content: Any) -> Any:
    """A plan's content without the paths that only the program adds."""
    if name != PLAN or content is None:
        return content
    return content | {"paths": [path for path in content["paths"] if path["retry_of"] is None]}


def _merged_json(base: Any, current: str, new: Any) -> str | None:
    try:
        edited = json.loads(current)
    except ValueError:
        return None
    return json.dumps(merge(base, edited, new), indent=2) + "\n"
