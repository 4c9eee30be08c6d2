"""data/manifest.json: what the data is. Written last, so its presence means the data is complete."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ml_intern_cli.documents.model import Model


class Split(StrEnum):
    """Parts of the data; no document is in two of them.

    ``train`` and ``val`` are for the author's programs, ``heldout`` is for the judge alone.
    """

    TRAIN = "train"
    VAL = "val"
    HELDOUT = "heldout"


class Shard(Model):
    """One file of token ids, little-endian, no header, in the manifest's dtype."""

    name: str  # relative to data/
    tokens: int = Field(ge=0)
    sha256: str


class SplitInfo(Model):
    """One split: its shards in order, and its size."""

    shards: tuple[Shard, ...]
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    text_bytes: int = Field(ge=0)


class TokenizerInfo(Model):
    """The tokenizer in data/tokenizer/ (tokenizer.json, tokenizer_config.json)."""

    source: str  # "byte-level BPE trained on the training part", or a Hub id
    revision: str | None
    vocab_size: int = Field(gt=1)
    eos_token_id: int = Field(ge=0)  # ends every document; also the prompt for an unconditional sample
    sha256: str  # of tokenizer.json


class Manifest(Model):
    """Where the data comes from, what it holds, and the baselines that can be known of it."""

    source: str  # builtin:stories, a Hub id, or a local path
    revision: str  # commit of the Hub dataset, sha256 of local files, or version and seed of the grammar
    column: str | None
    license: str
    url: str | None
    tokenizer: TokenizerInfo
    dtype: str = Field(pattern="^(uint16|uint32)$")
    splits: dict[Split, SplitInfo]
    unigram_loss: float  # nats per token on val of the unigram model fitted on train
    loss_floor: float | None  # nats per token: exact entropy of the generator on val; None when unknown
