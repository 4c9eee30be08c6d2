"""Reading and rewriting the token shards of a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_ids(data_dir: Path, split: str) -> NDArray[np.int64]:
    """The ids of a split, (tokens,)."""
    shards = _manifest(data_dir)["splits"][split]["shards"]
    return np.concatenate([np.fromfile(data_dir / shard["name"], "<u2") for shard in shards]).astype(np.int64)


def write_ids(data_dir: Path, split: str, ids: NDArray[Any], *, told: bool = True) -> None:
    """Replaces a split by one shard; ``told``: the manifest agrees, as if it had always been so."""
    content = ids.astype("<u2").tobytes()
    manifest = _manifest(data_dir)
    info = manifest["splits"][split]
    (data_dir / info["shards"][0]["name"]).write_bytes(content)
    if told:
        sha256 = hashlib.sha256(content).hexdigest()
        info["shards"] = [{"name": info["shards"][0]["name"], "tokens": len(ids), "sha256": sha256}]
        info |= {"tokens": len(ids), "documents": max(1, int((ids == 0).sum()))}
        (data_dir / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def replace_tokenizer(data_dir: Path, *, told: bool) -> None:
    """Puts a tokenizer with other ids in place: the same pieces, numbered in another order."""
    path = data_dir / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    pieces = [piece for piece, number in sorted(vocabulary.items(), key=lambda item: item[1]) if number]
    numbers = np.random.default_rng(0).permutation(len(pieces)) + 1  # the end of text keeps its own
    moved = dict(zip(pieces, map(int, numbers), strict=True))
    tokenizer["model"]["vocab"] = {piece: moved.get(piece, number) for piece, number in vocabulary.items()}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    if told:
        manifest = _manifest(data_dir)
        manifest["tokenizer"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (data_dir / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _manifest(data_dir: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((data_dir / "manifest.json").read_text(encoding="utf-8"))
    return manifest
