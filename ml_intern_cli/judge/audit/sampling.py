"""What the model writes, sampled by the judge from the logits, without the model's own generate()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.judge.audit.bench import AuditBench

if TYPE_CHECKING:
    import torch

_NEW_TOKENS = 64
_PROMPT_TOKENS = 8
_MOST_ROWS = 8
_WORK = 1.6e8  # parameters x rows: seconds at 1M, a minute at 100M on two cores
TEMPERATURE, TOP_K = 0.8, 50
"""How small language models are usually sampled, as in verification."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Prompts ``(B, P)`` from the text and what was written after them ``(B, N)``."""

    prompts: torch.Tensor
    written: torch.Tensor
    losses: torch.Tensor  # (B, N): of each written token under the distribution it was drawn from


def writings(bench: AuditBench) -> Samples:
    """Continuations of the text, a little sharper than the model. Raises Unusable."""
    return bench.once("writings", lambda: _sample(bench, temperature=TEMPERATURE, top_k=TOP_K))


def _plain(bench: AuditBench) -> Samples:
    return bench.once("plain", lambda: _sample(bench, temperature=1.0, top_k=None))


def variety(bench: AuditBench) -> float:
    """The share of 3-grams in what it writes that are the first of their kind. Raises Unusable."""
    return distinct_share(_plain(bench).written.tolist())


def distinct_share(rows: list[list[int]]) -> float:
    """The share of 3-grams that are the first of their kind in their row."""
    shares = []
    for row in rows:
        grams = list(zip(row, row[1:], row[2:], strict=False))
        shares.append(len(set(grams)) / max(1, len(grams)))
    return sum(shares) / len(shares)


def own_loss(bench: AuditBench) -> float:
    """Nats per token of the model on what it writes itself: how sure it is. Raises Unusable."""
    plain = _plain(bench)
    return float(plain.losses[:, plain.losses.shape[1] // 2 :].mean())


def _sample(bench: AuditBench, *, temperature: float, top_k: int | None) -> Samples:
    import torch

    rows = int(max(2, min(_MOST_ROWS, _WORK / max(1, bench.params))))
    width = min(_PROMPT_TOKENS, bench.context // 2)
    prompts = torch.from_numpy(bench.text.windows(bench.context, limit=rows))[:, :width]
    generator = torch.Generator().manual_seed(bench.question.seed)
    ids, losses = prompts, []
    for _ in range(_NEW_TOKENS):
        logits = bench.logits(ids[:, -bench.context :])[:, -1].double().cpu() / temperature
        if top_k is not None:
            least = torch.topk(logits, min(top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        with bench.foreign_code("sampling from the logits"):  # NaN logits have no probabilities
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        losses.append(-logits.log_softmax(-1).gather(1, drawn))
        ids = torch.cat([ids, drawn], dim=1)
    return Samples(prompts, ids[:, width:], torch.cat(losses, dim=1))
