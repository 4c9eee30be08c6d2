"""The text that a checkpoint is judged on, as tokens: windows, baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.reference import NGramReference

if TYPE_CHECKING:
    from ml_intern_cli.judge.corpus import Tokens

LEAST_TOKENS = 512
"""Fewer say nothing: half of them is the unigram baseline, and a mean over 256 strays by a tenth of a nat."""


@dataclass(frozen=True)
class TokenText:
    """A text in a checkpoint's own tokens.

    Attributes:
        ids: ``(N,)`` int64.
        prefix: What its tokenizer puts before every text (a beginning-of-text token), usually nothing.
        vocab_size: Of the model's output.
    """

    ids: Tokens
    prefix: tuple[int, ...]
    vocab_size: int

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, text: str, tokenizer: Any, *, vocab_size: int) -> TokenText:
        """Encodes ``text``. Raises InvalidInput: it is too short to judge by."""
        import numpy as np

        ids = np.asarray(encode(tokenizer, text), dtype=np.int64)
        if len(ids) < LEAST_TOKENS:
            raise InvalidInput(
                f"the text is too short: {len(ids):,} tokens, at least {LEAST_TOKENS:,} are needed",
                hint="give a longer text that the model was not trained on: --text FILE",
            )
        opening = tokenizer("", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token_id
        return cls(ids, (bos,) if opening and opening[0] == bos else (), vocab_size)

    def windows(self, length: int, *, limit: int, stride: int | None = None) -> Tokens:
        """At most ``limit`` windows ``(N, length + 1)``: inputs and, one later, targets; over the whole text.

        Each begins with what the tokenizer puts before a text, where it does.
        """
        import numpy as np

        body = length + 1 - len(self.prefix)
        stride = stride or body - 1 + len(self.prefix)
        available = max(0, (len(self) - body) // stride + 1)
        count = min(limit, available)
        if count < 1:
            return np.zeros((0, length + 1), dtype=np.int64)
        chosen = np.linspace(0, available - 1, count).astype(int) * stride
        rows = np.stack([self.ids[start : start + body] for start in chosen])
        return np.concatenate([np.tile(np.array(self.prefix, dtype=np.int64), (count, 1)), rows], axis=1)

    @cached_property
    def unigram_loss(self) -> float:
        """Of token frequencies alone, nats per token."""
        return min(self._counted_loss(1), self.uniform_loss)

    @cached_property
    def least_loss(self) -> float:
        """Below which a loss is no prediction, nats per token.

        A tenth of a uniform guess; on easy text, which five-grams predict well already, half of their loss.
        """
        return min(0.1 * self.uniform_loss, 0.5 * self._counted_loss(5))

    def _counted_loss(self, order: int) -> float:
        """Of n-grams, each half of the text scored by the counts of the other."""
        middle = len(self) // 2
        halves = (self.ids[:middle], self.ids[middle:])
        losses = []
        for fitted, scored in (halves, halves[::-1]):
            counts = NGramReference.fit(fitted, vocab_size=self.vocab_size, eos=0)
            losses.append(-float(counts.log_probs(scored, history=[0], order=order).mean()))
        return sum(losses) / 2

    @property
    def uniform_loss(self) -> float:
        """Of a guess among all tokens, nats per token."""
        return math.log(self.vocab_size)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids, nothing added and nothing cut off."""
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
