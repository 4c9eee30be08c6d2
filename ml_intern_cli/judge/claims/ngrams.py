"""Which runs of tokens occur in a text: hashes of runs whose length doubles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_intern_cli.judge.corpus import Tokens

    Hashes = npt.NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, 64 bits (the golden ratio)


def hashes(tokens: Tokens, length: int) -> Hashes:
    """One hash ``(N - length + 1,)`` per run of ``length`` tokens, a power of two; empty when too short."""
    import numpy as np

    if len(tokens) < length:
        return np.zeros(0, dtype=np.uint64)
    found = _mix(tokens.astype(np.uint64) + np.uint64(1))
    factor, size = _BASE, 1
    while size < length:
        found = _mix(found[:-size] + np.uint64(factor) * found[size:])
        factor = factor * factor % (1 << 64)
        size *= 2
    return found


def longest_run(tokens: Tokens, known: dict[int, Hashes]) -> int:
    """The longest run of ``tokens`` that the known hashes (length → sorted) hold, to within its half."""
    import numpy as np

    longest = 0
    for length, keys in sorted(known.items()):
        mine = hashes(tokens, length)
        if not len(mine):
            break
        # A longer run is a row of overlapping ones, each of which occurs; they need not occur together.
        hits = np.flatnonzero(is_in(mine, keys))
        if not len(hits):
            break
        longest = length
        breaks = np.flatnonzero(np.diff(hits) > 1)
        rows = np.diff(np.concatenate([[-1], breaks, [len(hits) - 1]]))
        if length == max(known):
            longest = int(rows.max()) + length - 1
    return longest


def is_in(keys: Hashes, sorted_keys: Hashes) -> npt.NDArray[np.bool_]:
    """Which keys are among the sorted ones."""
    import numpy as np

    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    index = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    found: npt.NDArray[np.bool_] = sorted_keys[index] == keys
    return found


def _mix(keys: Hashes) -> Hashes:
    """Spreads the bits (the finaliser of splitmix64)."""
    import numpy as np

    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
