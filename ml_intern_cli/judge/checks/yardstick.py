"""How much a text is like the data: likelihood, variety and words, each against held-out text.

A likelihood under an n-gram model has no meaning of its own, so it is placed between two texts of the
same data: held-out documents are 1, the same documents with their words shuffled are 0. Word salad
lies near 0, whatever its vocabulary. Text that repeats itself is likely under any n-gram model, so
variety is measured too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.reference import NGramReference

_BASELINE_TEXTS = 64
_VOCABULARY_TOKENS = 500_000  # of the training text, whose words count as known


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens to be measured, and the tokens before them."""

    history: list[int]
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The n-gram reference, the known words, and what the two baselines measure."""

    corpus: Corpus
    reference: NGramReference
    known_words: frozenset[str]
    heldout_log_prob: float  # mean per token, nats
    shuffled_log_prob: float
    heldout_distinct: float
    heldout_known: float

    @classmethod
    def of(cls, corpus: Corpus, reference: NGramReference, *, length: int, seed: int) -> Yardstick:
        """Measures the baselines on the first ``length`` tokens of held-out documents. Raises Unusable."""
        heldout = _openings(corpus, length=length)
        chance = random.Random(seed)  # noqa: S311 - a shuffle, no secret
        shuffled = [_shuffled(corpus, text, chance) for text in heldout]
        train = corpus.stream(Split.TRAIN).read(0, _VOCABULARY_TOKENS)
        known_words = frozenset(_words(corpus.decode(train.tolist())))
        return cls(
            corpus=corpus,
            reference=reference,
            known_words=known_words,
            heldout_log_prob=_log_prob(reference, heldout),
            shuffled_log_prob=_log_prob(reference, shuffled),
            heldout_distinct=_distinct(heldout),
            heldout_known=_known(corpus, known_words, heldout),
        )

    def likeness(self, texts: Sequence[Text]) -> float:
        """Where the texts lie between shuffled words (0) and held-out text (1)."""
        gap = self.heldout_log_prob - self.shuffled_log_prob
        return (_log_prob(self.reference, texts) - self.shuffled_log_prob) / max(gap, 1e-6)

    def distinct(self, texts: Sequence[Text]) -> float:
        """Share of 3-grams that are the first of their kind in their text, held-out text being 1."""
        return _distinct(texts) / max(self.heldout_distinct, 1e-6)

    def known(self, texts: Sequence[Text]) -> float:
        """Share of words that the training text has, held-out text being 1."""
        return _known(self.corpus, self.known_words, texts) / max(self.heldout_known, 1e-6)


def _openings(corpus: Corpus, *, length: int) -> list[Text]:
    """The first tokens of documents, from all over the held-out split."""
    import numpy as np

    stream = corpus.stream(Split.HELDOUT)
    tokens = stream.read(0, len(stream))
    starts = np.concatenate([[0], np.flatnonzero(tokens == corpus.eos) + 1])
    starts = starts[starts + length <= len(tokens)]
    if not len(starts):
        raise Unusable(f"the held-out split has no {length} tokens to compare with")
    chosen = starts[np.linspace(0, len(starts) - 1, min(_BASELINE_TEXTS, len(starts))).astype(int)]
    return [Text([corpus.eos], tokens[start : start + length].tolist()) for start in chosen]


def _shuffled(corpus: Corpus, text: Text, chance: random.Random) -> Text:
    """The same words in random order; characters, in scripts that put no spaces between words."""
    decoded = corpus.decode(text.tokens)
    separator = " "
    pieces = decoded.split(separator)
    if len(pieces) * 20 < len(decoded):
        separator = ""
        pieces = list(decoded)
    chance.shuffle(pieces)
    return Text(text.history, corpus.encode(separator.join(pieces)))


def _log_prob(reference: NGramReference, texts: Sequence[Text]) -> float:
    """Mean log-probability per token, in nats."""
    import numpy as np

    return float(
        np.concatenate(
            [
                reference.log_probs(np.array(text.tokens, dtype=np.int64), history=text.history)
                for text in texts
            ]
        ).mean()
    )


def _distinct(texts: Sequence[Text]) -> float:
    shares = []
    for text in texts:
        grams = list(zip(text.tokens, text.tokens[1:], text.tokens[2:], strict=False))
        shares.append(len(set(grams)) / max(1, len(grams)))
    return sum(shares) / len(shares)


def _known(corpus: Corpus, known_words: frozenset[str], texts: Sequence[Text]) -> float:
    """The first and the last word do not count: they may be halves of words."""
    words = [word for text in texts for word in _words(corpus.decode(text.tokens))[1:-1]]
    return sum(word in known_words for word in words) / max(1, len(words))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
