"""Tokenised data on disk: shards of raw ids, and the manifest that is written last.

A shard is little-endian ``uint16`` or ``uint32`` without a header. Every document is followed by the
end-of-text token, so a split is one long sequence of which any window is a training example.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ml_intern_cli.data.corpus import TextSource
from ml_intern_cli.data.tokenizers import TOKENIZER_DIR, Progress
from ml_intern_cli.documents.manifest import Manifest, Shard, Split, SplitInfo, TokenizerInfo
from ml_intern_cli.errors import InvalidInput, StorageFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
_REQUEST = ".request.json"
"""What the shards are made for; data is made anew when it differs."""
_SHARD_TOKENS = 64_000_000
_BATCH_DOCUMENTS = 64
_START_OVER = "delete the run's data/ and run the same command again"


def write_shards(
    source: TextSource,
    data_dir: Path,
    *,
    tokenizer: TokenizerInfo,
    train_tokens: int,
    eval_tokens: int,
    progress: Progress,
) -> Manifest:
    """Tokenises ``source`` into ``data_dir``. Does nothing if that was done before and is still whole.

    Args:
        source: The corpus.
        data_dir: Has the tokenizer already.
        tokenizer: What :func:`~ml_intern_cli.data.tokenizers.fit_tokenizer` returned for ``data_dir``.
        train_tokens: Training stops with the document that reaches this; a small corpus may have less.
        eval_tokens: The same for ``val`` and for ``heldout``.
        progress: Called with the tokens written so far.

    Raises:
        InvalidInput: a split is empty.
        StorageFailed: the disk is full or read-only.
    """
    limits = {Split.VAL: eval_tokens, Split.HELDOUT: eval_tokens, Split.TRAIN: train_tokens}
    request = _request(source, tokenizer, limits)
    try:
        if _read(data_dir / _REQUEST) == request:
            with suppress(
                InvalidInput
            ):  # damaged: it is made again, from the same source at the same revision
                return check(data_dir)
        shards = (shard for split in Split for shard in data_dir.glob(f"{split}-*.bin"))
        for old in (data_dir / MANIFEST, *shards):
            old.unlink(missing_ok=True)
        _write_aside(data_dir / _REQUEST, request.encode())
        manifest = _write(source, data_dir, tokenizer=tokenizer, limits=limits, progress=progress)
        _write_aside(data_dir / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise StorageFailed(
            f"{data_dir} cannot be written: {error.strerror or error}",
            hint="make room or choose another place with --runs-dir, and run the same command again",
        ) from error
    return manifest


def load_manifest(data_dir: Path) -> Manifest:
    """The manifest of complete data.

    Raises:
        InvalidInput: it is missing or does not parse.
    """
    path = data_dir / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", hint=_START_OVER) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{path} is damaged: {where}: {first['msg']}", hint=_START_OVER) from error


def check(data_dir: Path) -> Manifest:
    """Compares every file with the manifest, and returns that.

    Raises:
        InvalidInput: a file is missing or is not what was written.
    """
    manifest = load_manifest(data_dir)
    shards = [shard for info in manifest.splits.values() for shard in info.shards]
    expected = {shard.name: shard.sha256 for shard in shards}
    expected[f"{TOKENIZER_DIR}/tokenizer.json"] = manifest.tokenizer.sha256
    for name, sha256 in expected.items():
        path = data_dir / name
        if not path.is_file():
            raise InvalidInput(f"{path} is missing", hint=_START_OVER)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise InvalidInput(f"{path} is damaged: its checksum is not the manifest's", hint=_START_OVER)
    return manifest


def missing_files(data_dir: Path) -> list[str]:
    """Names of files that are gone or cut short, by the manifest; that itself when it cannot be read."""
    try:
        manifest = load_manifest(data_dir)
    except InvalidInput:
        return [MANIFEST]
    item_bytes = 2 if manifest.dtype == "uint16" else 4
    shards = [shard for info in manifest.splits.values() for shard in info.shards]
    cut = [shard.name for shard in shards if _size(data_dir / shard.name) != shard.tokens * item_bytes]
    return cut + [name for name in (f"{TOKENIZER_DIR}/tokenizer.json",) if _size(data_dir / name) is None]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def read_split(data_dir: Path, manifest: Manifest, split: Split) -> NDArray[Any]:
    """The token ids of a split, shape (tokens,): mapped from disk, or copied where it has several shards."""
    import numpy as np

    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    parts = [np.memmap(data_dir / shard.name, dtype, mode="r") for shard in manifest.splits[split].shards]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _request(source: TextSource, tokenizer: TokenizerInfo, limits: dict[Split, int]) -> str:
    """Everything that the content of the shards depends on."""
    return json.dumps(
        {
            "source": source.id,
            "revision": source.revision,
            "column": source.column,
            "tokenizer": tokenizer.sha256,
            "tokens": limits,
        },
        indent=2,
    )


def _write(
    source: TextSource,
    data_dir: Path,
    *,
    tokenizer: TokenizerInfo,
    limits: dict[Split, int],
    progress: Progress,
) -> Manifest:
    import numpy as np
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(data_dir / TOKENIZER_DIR / "tokenizer.json"))
    encoder.encode_special_tokens = True  # text that spells the end-of-text token is text
    encoder.no_truncation()
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    counts = {split: np.zeros(tokenizer.vocab_size, np.int64) for split in limits}
    splits: dict[Split, SplitInfo] = {}
    log_probs: list[float | None] = []
    before = 0
    for split, limit in limits.items():
        writer = _ShardWriter(data_dir, split, dtype)
        for texts in _batches(source.documents(split)):
            batch = []
            for text, encoding in zip(
                texts, encoder.encode_batch_fast(texts, add_special_tokens=False), strict=True
            ):
                batch.append(np.array([*encoding.ids, tokenizer.eos_token_id], dtype))
                writer.add(batch[-1], text)
                if split is Split.VAL:
                    log_probs.append(source.log_prob(text))
                if writer.tokens >= limit:
                    break
            counts[split] += np.bincount(np.concatenate(batch), minlength=tokenizer.vocab_size)
            progress(before + min(writer.tokens, limit), sum(limits.values()), f"tokenising {split}")
            if writer.tokens >= limit:
                break
        splits[split] = writer.finish()
        before += limit
        if not splits[split].documents:
            raise InvalidInput(
                f"{source.id} has no document for the {split} part",
                hint="name a larger one with --dataset ID|FILE",
            )
    known = [log_p for log_p in log_probs if log_p is not None]
    return Manifest(
        source=source.id,
        revision=source.revision,
        column=source.column,
        license=source.license,
        url=source.url,
        tokenizer=tokenizer,
        dtype=dtype,
        splits={split: splits[split] for split in Split},
        unigram_loss=_unigram_loss(counts[Split.TRAIN], counts[Split.VAL]),
        loss_floor=-math.fsum(known) / splits[Split.VAL].tokens if len(known) == len(log_probs) else None,
    )


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _write_aside(path: Path, content: bytes) -> None:
    """Writes aside, syncs and renames, so that a file with its name is complete."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH_DOCUMENTS)):
        yield batch


def _unigram_loss(train: NDArray[np.int64], val: NDArray[np.int64]) -> float:
    """Nats per token on ``val`` of token frequencies in ``train``, add-one smoothed; counts are (V,)."""
    import numpy as np

    log_p = np.log((train + 1) / (train.sum() + len(train)))
    return float(-(val * log_p).sum() / val.sum())


@dataclass
class _ShardWriter:
    """Writes one split; a shard gets its name when it is complete."""

    data_dir: Path
    split: Split
    dtype: str
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    _shards: list[Shard] = field(default_factory=list)
    _pending: list[bytes] = field(default_factory=list)
    _pending_tokens: int = 0

    def add(self, ids: NDArray[Any], text: str) -> None:
        """Appends one document."""
        self._pending.append(ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes())
        self._pending_tokens += len(ids)
        self.tokens += len(ids)
        self.documents += 1
        self.text_bytes += len(text.encode())
        if self._pending_tokens >= _SHARD_TOKENS:
            self._flush()

    def finish(self) -> SplitInfo:
        """Writes what is left."""
        if self._pending:
            self._flush()
        return SplitInfo(
            shards=tuple(self._shards),
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self.text_bytes,
        )

    def _flush(self) -> None:
        name = f"{self.split}-{len(self._shards):05d}.bin"
        content = b"".join(self._pending)
        _write_aside(self.data_dir / name, content)
        sha256 = hashlib.sha256(content).hexdigest()
        self._shards.append(Shard(name=name, tokens=self._pending_tokens, sha256=sha256))
        self._pending.clear()
        self._pending_tokens = 0
