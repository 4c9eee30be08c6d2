"""Receipts: what a stage read and wrote, by content hash. A convenience: a run resumes without them.

A receipt makes three things possible that documents alone cannot give: to see that an input was
edited since it was read, to say which field changed, and to tell the user's edit of an output from
what the stage wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ml_intern_cli import __version__
from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import RunLayout, path_folder
from ml_intern_cli.errors import InvalidDocument, NewerRun
from ml_intern_cli.runs.files import write_atomic
from ml_intern_cli.stages.base import Ref

_LARGE_BYTES = 1 << 30
FORMAT = 1  # of a run directory; a program that knows only lower numbers refuses the run


@dataclass(frozen=True, slots=True)
class Digest:
    """The content of one input. For a document, ``canonical`` is what was hashed."""

    sha256: str
    canonical: Any = None
    stat: tuple[int, int] | None = None  # size and mtime in ns: unchanged means unread


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one stage did, last time."""

    stage: str
    path: str | None
    state: str  # "started", then "done" or "failed"
    summary: str = ""
    failed: str | None = None  # what its outputs say of the path
    seconds: float = 0.0
    inputs: dict[str, Digest] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)  # name → sha256 of the text written
    base: dict[str, Any] = field(default_factory=dict)  # name → canonical content written, for merging


def digest(layout: RunLayout, ref: Ref, before: Digest | None = None) -> Digest | None:
    """The digest of one input; ``None`` when it is not there.

    Documents are hashed by meaning (reformatting is no edit), other files by bytes. ``before``
    spares reading what has the same size and time as then.

    Raises:
        InvalidDocument: a document does not parse.
    """
    path = layout.root / ref.name
    if "*" in ref.name:
        return _digest_many(layout, ref)
    if ref.name.startswith(path_folder("")) and leavings.leads_out(layout.root, ref.name):
        # What is there is none of the run's.
        return Digest(text_sha256(f"a link to {os.path.realpath(path)}"))
    try:
        return _digest_file(path, ref, before) if path.is_file() else None
    except KeyError:  # the plan has no such path any more
        return None


def canonical_digest(value: Any) -> Digest:
    """The digest of a document's canonical content."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return Digest(hashlib.sha256(text.encode()).hexdigest(), canonical=value)


def text_sha256(text: str) -> str:
    """The hash of a text as it stands on disk."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes; for a text that a stage wrote, that of the text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_file(path: Path, ref: Ref, before: Digest | None) -> Digest:
    status = path.stat()
    stat = (status.st_size, status.st_mtime_ns)
    if before is not None and before.stat == stat:
        return before
    is_a_hole = status.st_size > _LARGE_BYTES and 512 * status.st_blocks < status.st_size // 2
    if is_a_hole:  # it could take hours to read
        return Digest(text_sha256(f"{stat}"), stat=stat)
    if ref.name.endswith(".md"):
        return replace(_digest_document(path, ref), stat=stat)
    return Digest(file_sha256(path), stat=stat)


def _digest_document(path: Path, ref: Ref) -> Digest:
    from ml_intern_cli.documents.canonical import canonical
    from ml_intern_cli.documents.registry import load

    return canonical_digest(canonical(load(path, source=ref.name), ref.part))


def _digest_many(layout: RunLayout, ref: Ref) -> Digest | None:
    names = sorted(str(match.relative_to(layout.root)) for match in layout.root.glob(ref.name))
    found = {name: digest(layout, Ref(name, ref.part)) for name in names}
    return canonical_digest({name: one.sha256 for name, one in found.items() if one}) if found else None


class Receipts:
    """The receipts of one run, one small JSON file per stage and path."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout

    def check_format(self) -> None:
        """Refuse a run that a newer version made. Raises NewerRun."""
        made = self._read(self._layout.receipts / "run.json")
        number = (made or {}).get("format")
        if made is not None and isinstance(number, int) and number > FORMAT:
            raise NewerRun(self._layout.slug, str(made.get("made_by", "?")), __version__)

    def stamp(self) -> None:
        """Say which version and format made the run, once."""
        target = self._layout.receipts / "run.json"
        if not target.exists():
            write_atomic(target, json.dumps({"format": FORMAT, "made_by": __version__}) + "\n")

    def load(self, stage: str, path_id: str | None) -> Receipt | None:
        """The last receipt of a stage, or ``None``; one that cannot be read counts as none."""
        raw = self._read(self._file(stage, path_id))
        if raw is None:
            return None
        try:
            inputs = {
                name: Digest(
                    one["sha256"], one.get("canonical"), tuple(one["stat"]) if one.get("stat") else None
                )
                for name, one in raw.pop("inputs", {}).items()
            }
            receipt = Receipt(inputs=inputs, **raw)
        except (TypeError, KeyError, AttributeError):
            return None
        is_whole = isinstance(receipt.outputs, dict) and isinstance(receipt.base, dict)
        return receipt if is_whole else None

    def save(self, receipt: Receipt) -> None:
        """Write a receipt."""
        text = json.dumps(asdict(receipt), ensure_ascii=False, indent=1)
        write_atomic(self._file(receipt.stage, receipt.path), text + "\n")

    def written_texts(self) -> frozenset[str]:
        """Hashes of all texts that stages wrote, as far as receipts know."""
        found = (self._read(file) or {} for file in self._layout.receipts.glob("*.json"))
        outputs = (one.get("outputs") for one in found)
        return frozenset(sha for one in outputs if isinstance(one, dict) for sha in one.values())

    def _file(self, stage: str, path_id: str | None) -> Path:
        return self._layout.receipts / (f"{stage}.json" if path_id is None else f"{stage}.{path_id}.json")

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return raw if isinstance(raw, dict) else None


class StageMemory:
    """What must be known again after being killed: one small JSON file beside the receipts."""

    def __init__(self, layout: RunLayout, *, name: str) -> None:
        self._file = layout.receipts / name

    @classmethod
    def of(cls, layout: RunLayout, path_id: str | None) -> StageMemory:
        """What the stages of one path remember, or those that are of no path."""
        return cls(layout, name="memory.json" if path_id is None else f"memory.{path_id}.json")

    def recall(self, key: str) -> str | None:
        """What was remembered, or ``None``."""
        value = self._all().get(key)
        return value if isinstance(value, str) else None

    def remember(self, key: str, value: str) -> None:
        """Write it down now."""
        write_atomic(self._file, json.dumps(self._all() | {key: value}) + "\n")

    def forget(self) -> None:
        """The stage is done."""
        self._file.unlink(missing_ok=True)

    def _all(self) -> dict[str, Any]:
        try:
            raw = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}


def changed_inputs(layout: RunLayout, refs: tuple[Ref, ...], receipt: Receipt) -> list[str]:
    """Why a receipt no longer holds: one line per input that changed since it was read."""
    from ml_intern_cli.documents.canonical import differences

    reasons = []
    for ref in refs:
        before = receipt.inputs.get(str(ref))
        try:
            now = digest(layout, ref, before)
        except InvalidDocument as error:
            reasons.append(error.problems[0].__str__())
            continue
        if (before and before.sha256) == (now and now.sha256):
            continue
        if before is None or now is None:
            reasons.append(f"{ref.name} {'is gone' if now is None else 'is new'}")
        elif before.canonical is not None and now.canonical is not None:
            reasons.extend(f"{ref.name}: {line}" for line in differences(before.canonical, now.canonical)[:3])
        else:
            reasons.append(f"{ref.name} was edited")
    return reasons
