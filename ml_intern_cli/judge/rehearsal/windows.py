"""Where in the corpus the rows that a model was fed come from: found by their content, all in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.corpus import Corpus

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]

_KEY_TOKENS = 4
_CHUNK_TOKENS = 1 << 22
_SHORTEST_PIECE = 8  # tokens of a packed document that are enough to say where it is from


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is from: the split, and the position of its first token in it."""

    split: Split
    start: int


def locate(corpus: Corpus, rows: list[Rows], splits: tuple[Split, ...]) -> list[Place | None]:
    """The place of each row (T,): in the first of ``splits`` that holds it, None where none does.

    A row packed from several documents is where its first piece is, when every piece is in that split.
    One pass over a split for all rows, and one for all pieces.
    """
    places: list[Place | None] = [None] * len(rows)
    for split in splits:
        for find in (_starts, _packed_starts):
            missing = [index for index, place in enumerate(places) if place is None]
            starts = find(corpus, split, [rows[index] for index in missing])
            for index, start in zip(missing, starts, strict=True):
                if start is not None:
                    places[index] = Place(split, start)
    return places


def _packed_starts(corpus: Corpus, split: Split, rows: list[Rows]) -> list[int | None]:
    """The start of each row's first piece, when the row is made of pieces between ends of documents."""
    pieces = [_pieces(row, corpus.eos) for row in rows]
    starts = iter(_starts(corpus, split, [piece for parts in pieces for piece in parts]))
    found: list[int | None] = []
    for parts in pieces:
        own = [next(starts) for _ in parts]
        found.append(own[0] if own and None not in own else None)
    return found


def _pieces(row: Rows, eos: int) -> list[Rows]:
    """The parts of a row between ends of documents that are long enough to be looked for."""
    import numpy as np

    borders = np.flatnonzero(row == eos)
    if len(borders) == 0:
        return []
    parts = [part[part != eos] for part in np.split(row, borders)]
    return [part for part in parts if len(part) >= _SHORTEST_PIECE]


def _starts(corpus: Corpus, split: Split, rows: list[Rows]) -> list[int | None]:
    """The first position of each row in a split."""
    import numpy as np

    found: list[int | None] = [None] * len(rows)
    if not rows:
        return found
    stream = corpus.stream(split)
    by_key: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if len(row) >= _KEY_TOKENS and row.min() >= 0:
            by_key.setdefault(int(_keys(row[:_KEY_TOKENS])[0]), []).append(index)
    wanted = np.array(sorted(by_key), dtype=np.uint64)
    if not len(wanted):
        return found
    longest = max(len(row) for row in rows)
    for begin in range(0, max(0, len(stream) - _KEY_TOKENS + 1), _CHUNK_TOKENS):
        chunk = stream.read(begin, _CHUNK_TOKENS + longest - 1)
        keys = _keys(chunk)[:_CHUNK_TOKENS]
        candidates = np.flatnonzero(np.isin(keys, wanted))
        for key, indices in by_key.items():
            positions = candidates[keys[candidates] == key]
            for index in indices:
                if found[index] is None:
                    place = _matching(chunk, positions, rows[index])
                    found[index] = None if place is None else begin + place
    return found


def _matching(tokens: Rows, positions: Rows, row: Rows) -> int | None:
    """The first of the positions where the whole row stands."""
    positions = positions[positions + len(row) <= len(tokens)]
    for offset, token in enumerate(row):
        if not len(positions):
            return None
        positions = positions[tokens[positions + offset] == token]
    return int(positions[0]) if len(positions) else None


def _keys(tokens: Rows) -> npt.NDArray[np.uint64]:
    """Four consecutive tokens as one number, of every position. Ids above 2^16 are folded."""
    import numpy as np

    folded = (tokens & 0xFFFF).astype(np.uint64)
    key = folded[:-3].copy()
    for shift, part in ((16, folded[1:-2]), (32, folded[2:-1]), (48, folded[3:])):
        key |= part << np.uint64(shift)
    return key
