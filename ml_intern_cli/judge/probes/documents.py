"""Does every document of the training text end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from ml_intern_cli.judge.probes.bench import Bench

_LOOKED_AT_TOKENS = 20_000_000
_LEAST_EXPECTED = 20
_OF_ALL = 0.99  # of the documents in the manifest
_OF_VAL = 0.5  # of the frequency in val: documents may be longer at the beginning of the training text


def _document_ends(bench: Bench) -> Measurement:
    train, val = (bench.corpus.stream(split).read(0, _LOOKED_AT_TOKENS) for split in (Split.TRAIN, Split.VAL))
    found, in_val = (int((tokens == bench.corpus.eos).sum()) for tokens in (train, val))
    is_whole = len(train) == len(bench.corpus.stream(Split.TRAIN))
    documents = bench.corpus.manifest.splits[Split.TRAIN].documents if is_whole else 0
    as_in_val = in_val / max(1, len(val)) * len(train) if in_val >= _LEAST_EXPECTED else 0.0
    least = max(_OF_ALL * documents, _OF_VAL * as_in_val)
    passed = found >= least or least < _LEAST_EXPECTED
    return Measurement(
        passed=passed,
        measured=f"{found:,} end-of-text tokens in {len(train):,}, {in_val:,} in {len(val):,} of val",
        allowed=f"≥ {least:,.0f}",
        component="" if passed else "data/train",
        detail="" if passed else "documents of the training text run into each other",
    )


DOCUMENT_ENDS = Probe(
    name="document-ends",
    category=Category.DATA,
    meaning="every document of the training text ends with the end-of-text token",
    threshold=(
        f"as many as the manifest has documents, to {1 - _OF_ALL:.0%}, and {_OF_VAL} times as often as in"
        f" val; of a longer text the first {_LOOKED_AT_TOKENS // 1_000_000}M tokens are held against val"
    ),
    threshold_source="counted; a model that never sees the token cannot learn to stop",
    usual_causes=("documents joined without a separator", "special tokens stripped from the ids"),
    run=_document_ends,
)
