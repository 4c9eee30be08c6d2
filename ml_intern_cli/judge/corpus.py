"""The judge's own view of ``data/``: shards as token ids, the tokenizer, the manifest's promises."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ml_intern_cli.documents.manifest import Manifest, Split
from ml_intern_cli.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    Tokens = npt.NDArray[np.int64]

_REBUILD = "delete data/ and run again"


@dataclass(frozen=True, slots=True)
class Corpus:
    """One run's data.

    Raises (from ``open``):
        InvalidInput: the manifest or the tokenizer cannot be read.
    """

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def open(cls, directory: Path) -> Corpus:
        """Reads the manifest and the tokenizer; shards are mapped when they are used."""
        from tokenizers import Tokenizer

        try:
            manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise InvalidInput(f"{directory / 'manifest.json'}: {error}", hint=_REBUILD) from error
        try:
            text = (directory / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises plain Exception for a file that it cannot read
            raise InvalidInput(f"{directory / 'tokenizer'}: {error}", hint=_REBUILD) from error
        for split in Split:
            if split not in manifest.splits or manifest.splits[split].tokens < 2:
                raise InvalidInput(f"{directory}: the {split} split is empty", hint=_REBUILD)
        return cls(directory=directory, manifest=manifest, tokenizer=tokenizer)

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer."""
        return self.manifest.tokenizer.vocab_size

    @property
    def eos(self) -> int:
        """The token that ends every document."""
        return self.manifest.tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Token ids, nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Text, end-of-document markers included."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def damaged_files(self, *splits: Split) -> list[str]:
        """Names of shards whose content is not what the manifest recorded."""
        shards = [shard for split in splits for shard in self.manifest.splits[split].shards]
        return [shard.name for shard in shards if file_sha256(self.directory / shard.name) != shard.sha256]

    def stream(self, split: Split) -> TokenStream:
        """The tokens of a split, in order.

        Raises:
            InvalidInput: a shard is missing or no whole number of tokens.
        """
        import numpy as np

        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        try:
            return TokenStream(
                tuple(
                    np.memmap(self.directory / shard.name, dtype=dtype, mode="r")
                    for shard in self.manifest.splits[split].shards
                    if shard.tokens
                )
            )
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{self.directory}: the {split} shards: {error}", hint=_REBUILD) from error


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Shards read as one sequence."""

    shards: tuple[npt.NDArray[np.integer], ...]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def read(self, start: int, count: int) -> Tokens:
        """``(count,)`` tokens from ``start`` on; fewer at the end."""
        import numpy as np

        parts = []
        for shard in self.shards:
            if count > 0 and start < len(shard):
                parts.append(np.asarray(shard[start : start + count], dtype=np.int64))
                count -= len(parts[-1])
            start = max(0, start - len(shard))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def windows(self, length: int, *, limit: int, spread: bool) -> Tokens:
        """At most ``limit`` windows ``(N, length)`` that overlap in one token, as training cuts them.

        Args:
            length: Tokens per window, inputs and the last target.
            limit: Upper bound of N.
            spread: Over the whole stream at equal distances; else the first ones.
        """
        import numpy as np

        available = (len(self) - 1) // (length - 1)
        count = min(limit, available)
        if count < 1:
            return np.zeros((0, length), dtype=np.int64)
        chosen = np.linspace(0, available - 1, count).astype(int) if spread else range(count)
        return np.stack([self.read(int(index) * (length - 1), length) for index in chosen])


def file_sha256(file: Path) -> str:
    """The hash of a file's bytes; ``unreadable`` where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "unreadable"
