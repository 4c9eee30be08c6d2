"""An n-gram model of the training text: a yardstick for language that owes nothing to the model judged.

Interpolated Witten-Bell smoothing, which has no constant to tune: the weight of an order is the share
of its context's occurrences that were not new continuations.

Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
Computer Speech and Language 13 (1999), section 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_intern_cli.judge.corpus import Tokens

    Keys = npt.NDArray[np.uint64]
    Floats = npt.NDArray[np.float64]

_ORDER = 5  # beyond five tokens the counts of a million tokens are nearly all one
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 64 bits (the golden ratio), from Knuth's multiplicative hashing


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counts of one order; keys are sorted 64-bit hashes of the tokens."""

    grams: Keys
    gram_counts: Floats
    contexts: Keys
    context_counts: Floats
    continuations: Floats  # distinct tokens seen after the context


@dataclass(frozen=True, slots=True)
class NGramReference:
    """P(token | up to four tokens before it), fitted on a stream of tokens."""

    vocab_size: int
    eos: int
    orders: tuple[_Counts, ...]

    @classmethod
    def fit(cls, tokens: Tokens, *, vocab_size: int, eos: int) -> NGramReference:
        """Counts ``tokens`` ``(N,)``, whole documents with their end markers."""
        orders = tuple(_count(*keys) for keys in _keys(tokens, history=[eos]))
        return cls(vocab_size=vocab_size, eos=eos, orders=orders)

    def log_probs(self, tokens: Tokens, *, history: list[int], order: int = _ORDER) -> Floats:
        """Log-probability ``(N,)`` in nats of each token, after ``history`` and the tokens before it."""
        import numpy as np

        probability = np.full(len(tokens), 1 / self.vocab_size)
        for counts, (contexts, grams) in zip(
            self.orders[:order], _keys(tokens, history=history), strict=False
        ):
            seen = _lookup(counts.contexts, counts.context_counts, contexts)
            distinct = _lookup(counts.contexts, counts.continuations, contexts)
            hits = _lookup(counts.grams, counts.gram_counts, grams)
            mixed = (hits + distinct * probability) / np.maximum(seen + distinct, 1)
            probability = np.where(seen > 0, mixed, probability)
        result: Floats = np.log(probability)
        return result


def _keys(tokens: Tokens, *, history: list[int]) -> list[tuple[Keys, Keys]]:
    """For orders 1, 2, …: hashes of the context and of the context with its token, one per token."""
    import numpy as np

    multiplier = np.uint64(_MULTIPLIER)
    before = [history[0]] * (_ORDER - 1 - len(history)) + history[-(_ORDER - 1) :]
    padded = np.concatenate([np.array(before, dtype=np.int64), tokens]).astype(np.uint64) + np.uint64(1)
    target = padded[_ORDER - 1 :]
    context = np.zeros(len(tokens), dtype=np.uint64)
    keys = []
    for order in range(1, _ORDER + 1):
        keys.append((context, _mix(context * multiplier + target)))
        start = _ORDER - 1 - order
        if start >= 0:
            context = _mix(context * multiplier + padded[start : start + len(tokens)])
    return keys


def _mix(keys: Keys) -> Keys:
    """Spreads the bits (the finaliser of splitmix64), so that sums of products rarely collide."""
    import numpy as np

    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _count(contexts: Keys, grams: Keys) -> _Counts:
    import numpy as np

    unique_grams, first, gram_counts = np.unique(grams, return_index=True, return_counts=True)
    unique_contexts, context_counts = np.unique(contexts, return_counts=True)
    _, continuations = np.unique(contexts[first], return_counts=True)
    return _Counts(
        grams=unique_grams,
        gram_counts=gram_counts.astype(np.float64),
        contexts=unique_contexts,
        context_counts=context_counts.astype(np.float64),
        continuations=continuations.astype(np.float64),
    )


def _lookup(sorted_keys: Keys, values: Floats, keys: Keys) -> Floats:
    """The value of each key, 0 where it was never seen."""
    import numpy as np

    index = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    found: Floats = np.where(sorted_keys[index] == keys, values[index], 0.0)
    return found
