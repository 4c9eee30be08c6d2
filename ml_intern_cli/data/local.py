"""Corpora in local files: plain text is cut into documents, a table's row is a document."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ml_intern_cli.data.columns import Row, text_column
from ml_intern_cli.data.corpus import EVALUATION_SHARE, digest, split_of
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import InvalidInput

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SUFFIXES = (".txt", *_READERS)
_BLOCK_BYTES = 1 << 20
_DOCUMENT_CHARS = 2_000
_DOCUMENTS_AT_LEAST = 60
"""A short text is cut finer, so that its evaluation splits are not a single document."""
_FEW_DOCUMENTS = 1_000
_OTHER = "name another one with --dataset ID|FILE"


class LocalSource:
    """A file, or all files of a directory that have a known suffix.

    With many documents the hash of a text decides its split. With few, that would leave a split empty by
    chance; there the documents are ranked by hash and the first ones go to ``val`` and ``heldout``.
    """

    license = "unknown (local files)"
    url = None

    def __init__(self, path: Path, *, column: str | None) -> None:
        self.id = str(path)
        self._files = _files(path)
        self.revision = f"sha256:{_checksum(self._files)}"
        tables = [file for file in self._files if file.suffix.lower() != ".txt"]
        self.column = _column(tables, column) if tables else None
        self._split_of_digest = self._ranked_splits()

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, in the order of the files."""
        for text in self._texts():
            few = self._split_of_digest
            if (few[digest(text)] if few else split_of(text)) is split:
                yield text

    def log_prob(self, text: str) -> None:
        """Nobody knows the probability of found text."""

    def _texts(self) -> Iterator[str]:
        for file in self._files:
            if file.suffix.lower() == ".txt":
                yield from _cut(file)
            else:
                column = str(self.column)
                yield from (str(row[column]) for row in _rows(file) if row.get(column))

    def _ranked_splits(self) -> dict[int, Split]:
        """The split of each document where they are few; empty where they are many.

        Raises:
            InvalidInput: there are not even three different documents.
        """
        digests: set[int] = set()
        for text in self._texts():
            digests.add(digest(text))
            if len(digests) > _FEW_DOCUMENTS:
                return {}
        if not digests:
            raise InvalidInput(f"{self.id} holds no text", hint=_OTHER)
        if len(digests) < len(Split):
            raise InvalidInput(
                f"{self.id} holds {len(digests)} different document(s); training, validation and held-out "
                f"data need {len(Split)}",
                hint=_OTHER,
            )
        share = max(1, int(len(digests) * EVALUATION_SHARE))
        splits = [Split.VAL] * share + [Split.HELDOUT] * share
        splits += [Split.TRAIN] * (len(digests) - len(splits))
        return dict(zip(sorted(digests), splits, strict=True))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
        if not files:
            raise InvalidInput(f"{path} has no {', '.join(SUFFIXES)} file", hint=_OTHER)
        return files
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}", hint=_OTHER)
    return [path]


def _checksum(files: Sequence[Path]) -> str:
    """The SHA-256 of all contents, of the files in order; also the place where unreadable text is noticed.

    Raises:
        InvalidInput: a file is empty, binary, not UTF-8 or not readable.
    """
    total = hashlib.sha256()
    for file in files:
        decoder = None if file.suffix.lower() == ".parquet" else codecs.getincrementaldecoder("utf-8")()
        blank = True
        try:
            for offset, block in _blocks(file):
                total.update(block)
                blank = blank and not block.strip()
                if decoder is not None:
                    _check_text(file, block, offset=offset, decoder=decoder)
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}", hint=_OTHER) from error
        if decoder is not None:
            _check_text(file, b"", offset=file.stat().st_size, decoder=decoder)
        if blank:
            raise InvalidInput(f"{file} is empty", hint=_OTHER)
    return total.hexdigest()


def _blocks(file: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, block) pairs of a file."""
    with file.open("rb") as stream:
        offset = 0
        while block := stream.read(_BLOCK_BYTES):
            yield offset, block
            offset += len(block)


def _check_text(file: Path, block: bytes, *, offset: int, decoder: codecs.IncrementalDecoder) -> None:
    if b"\0" in block:
        raise InvalidInput(f"{file} is binary (a zero at byte {offset + block.index(0)})", hint=_OTHER)
    carried = len(decoder.getstate()[0])  # bytes of a character that began in the block before
    try:
        decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{file} is not UTF-8: {error.reason} at byte {offset - carried + error.start}",
            hint=f"convert it: iconv -f LATIN1 -t UTF-8 {file} > converted{file.suffix}",
        ) from error


def _cut(file: Path) -> Iterator[str]:
    """Documents of a plain text: cut at blank lines, where there are none at line ends, else at spaces."""
    shortest = min(_DOCUMENT_CHARS, max(1, file.stat().st_size // _DOCUMENTS_AT_LEAST))
    longest = 10 * shortest
    pending = ""
    start = 0
    with file.open(encoding="utf-8-sig") as stream:
        while block := stream.read(_BLOCK_BYTES):
            pending = pending[start:] + block
            start = 0
            while len(pending) - start > longest:
                end = _end(pending, start + shortest, start + longest)
                yield from _unless_blank(pending[start:end])
                start = end
    while start < len(pending):
        end = _end(pending, start + shortest, start + longest)
        yield from _unless_blank(pending[start:end])
        start = end


def _end(text: str, earliest: int, latest: int) -> int:
    """Where a document ends that is not shorter than ``earliest`` and not longer than ``latest``."""
    blank_line = text.find("\n\n", earliest, latest)
    if blank_line >= 0:
        return blank_line + 2
    if len(text) <= latest:
        return len(text)
    for separator in ("\n", " "):
        found = text.find(separator, earliest, latest)
        if found >= 0:
            return found + 1
    return latest


def _unless_blank(text: str) -> Iterable[str]:
    stripped = text.strip("\n")
    return (stripped,) if stripped.strip() else ()


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a table, through ``datasets``, without a copy in its cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows: Any = load_dataset(
            _READERS[file.suffix.lower()], data_files=[str(file)], split="train", streaming=True
        )
        yield from rows
    # Each reader (pyarrow, pandas, json) has its own errors for a malformed table.
    except (DatasetsError, ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise InvalidInput(f"{file} cannot be read as a table: {reason[0]}", hint=_OTHER) from error


def _column(tables: Sequence[Path], wanted: str | None) -> str:
    """The text column of the first table; the others must have it too."""
    column = text_column(list(islice(_rows(tables[0]), 100)), wanted=wanted, name=str(tables[0]))
    for table in tables[1:]:
        text_column(list(islice(_rows(table), 1)), wanted=column, name=str(table))
    return column
