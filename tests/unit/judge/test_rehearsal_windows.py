"""Rows are found in the corpus by their content, whole or packed from documents, and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.rehearsal.windows import Place, locate

BOTH = (Split.TRAIN, Split.VAL)


@pytest.fixture(scope="module")
def corpus(data: Path) -> Corpus:
    return Corpus.open(data)


def test_every_window_is_found_where_it_was_cut(corpus: Corpus) -> None:
    train, val = corpus.stream(Split.TRAIN), corpus.stream(Split.VAL)
    starts = [0, 777, len(train) - 40]

    places = locate(corpus, [*(train.read(start, 40) for start in starts), val.read(123, 32)], BOTH)

    for place, start in zip(places, starts, strict=False):
        assert place is not None
        assert place.split is Split.TRAIN
        assert np.array_equal(train.read(place.start, 40), train.read(start, 40))
    assert places[3] == Place(Split.VAL, 123)


def test_documents_packed_side_by_side_are_of_their_split(corpus: Corpus) -> None:
    tokens = corpus.stream(Split.TRAIN).read(0, 5_000)
    ends = np.flatnonzero(tokens == corpus.eos)
    documents = [tokens[a + 1 : b + 1] for a, b in pairwise(ends)]

    (place,) = locate(corpus, [np.concatenate([documents[5], documents[1], documents[9][:20]])], BOTH)

    assert place is not None
    assert place.split is Split.TRAIN


def test_what_is_not_in_the_corpus_has_no_place(corpus: Corpus) -> None:
    row = corpus.stream(Split.TRAIN).read(500, 40)
    shifted = (row + 1) % corpus.vocab_size
    changed = row.copy()
    changed[20] = (changed[20] + 1) % corpus.vocab_size

    assert locate(corpus, [shifted, changed, row[::-1].copy()], BOTH) == [None, None, None]
    assert locate(corpus, [], BOTH) == []
