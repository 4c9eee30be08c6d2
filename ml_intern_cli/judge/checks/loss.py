"""Loss sanity and eval-tracks-train: every loss is recomputed from the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.verify import Judgement
from ml_intern_cli.judge.artifact import Artifact, count_parameters
from ml_intern_cli.judge.checks.criterion import Criterion, judgement
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.evaluation import LossEstimate, evaluate
from ml_intern_cli.judge.records import Records
from ml_intern_cli.judge.reference import NGramReference

if TYPE_CHECKING:
    from ml_intern_cli.judge.confinement.hosted import HostedModel

_WORK = 4e11  # parameters x tokens per split: seconds at 1M, under a minute at 100M on two CPU cores
_LEAST_TOKENS = 8_000
_MOST_TOKENS = 100_000

_LARGEST_GAP = 0.5
"""Nats between eval and train. Source: the seed's third check."""

_SIGMAS = 4.0  # standard errors within which two honest estimates of one number differ
_EVAL_SLACK = 0.02  # nats: bf16 evaluation against the judge's fp32 differs by less than 0.01
_TRAIN_SLACK = 0.2  # nats: logged losses come from slightly earlier weights, with dropout where there is any
_LOGGED_STEPS = 20


@dataclass(frozen=True, slots=True)
class Losses:
    """What the judge measured, in nats per token, and the range an honest model can be in."""

    heldout: LossEstimate
    val: LossEstimate
    train: LossEstimate
    plausible_low: float
    plausible_high: float

    @property
    def gap(self) -> float:
        """|eval - train|."""
        return abs(self.heldout.mean - self.train.mean)


def plausible_range(
    corpus: Corpus, reference: NGramReference, heldout: LossEstimate | None
) -> tuple[float, float]:
    """From what cannot be beaten honestly to what must be beaten, in nats per token.

    Below: the exact entropy of the source where it is known, less the sampling error; else a tenth of
    a uniform guess (the seed's second check). Above: the unigram model of the training text, measured
    on the held-out text, and never more than a uniform guess.
    """
    uniform = math.log(corpus.vocab_size)
    tokens = corpus.stream(Split.HELDOUT).read(0, _MOST_TOKENS)
    unigram = -float(reference.log_probs(tokens, history=[corpus.eos], order=1).mean())
    low, floor = 0.1 * uniform, corpus.manifest.loss_floor
    if floor is not None:
        # The floor was measured on val, the loss on heldout: two samples, each with its own error.
        error = _SIGMAS * math.sqrt(2) * heldout.standard_error if heldout is not None else 0.0
        low = max(low, floor - error)
    return low, min(uniform, unigram)


def measure_losses(
    artifact: Artifact,
    model: HostedModel,
    corpus: Corpus,
    reference: NGramReference,
    records: Records,
    *,
    progress: Callable[[str], None],
) -> Losses:
    """Evaluates the checkpoint on all three splits. Raises Unusable."""
    budget = int(max(_LEAST_TOKENS, min(_MOST_TOKENS, _WORK / max(1, count_parameters(model)))))

    def loss_on(split: Split, tokens: int, *, spread: bool) -> LossEstimate:
        stream = corpus.stream(split)
        length = min(artifact.seq_len, max(1, len(stream) - 1))
        windows = stream.windows(length + 1, limit=max(1, tokens // length), spread=spread)
        return evaluate(
            artifact,
            model,
            windows,
            vocab_size=corpus.vocab_size,
            progress=lambda done: progress(f"{done}/{len(windows)} windows of {split}"),
        )

    heldout = loss_on(Split.HELDOUT, budget, spread=True)
    claimed_on = min(budget, records.eval_tokens or budget)
    low, high = plausible_range(corpus, reference, heldout)
    return Losses(
        heldout=heldout,
        val=loss_on(Split.VAL, claimed_on, spread=False),  # train.py evaluates on the first windows too
        train=loss_on(Split.TRAIN, budget // 2, spread=True),
        plausible_low=low,
        plausible_high=high,
    )


def judge_loss(losses: Losses, corpus: Corpus, records: Records) -> Judgement:
    """The held-out loss against its range, and the log's claims against the recomputation."""
    criteria = [
        Criterion(False, f"{name} is not what the manifest recorded")
        for name in corpus.damaged_files(Split.VAL, Split.HELDOUT)
    ]
    measured, low, high = losses.heldout.mean, losses.plausible_low, losses.plausible_high
    criteria += [
        Criterion(
            low <= measured < high,  # false for NaN
            f"held-out loss measured {measured:.3f} on {losses.heldout.tokens:,} tokens, "
            f"allowed [{low:.3f}, {high:.3f}] (above: the unigram baseline)",
        ),
        _claim("eval loss", records.best_eval_loss, losses.val, _EVAL_SLACK),
        _train_claim(records, losses.train),
    ]
    return judgement(criteria)


def judge_tracking(losses: Losses) -> Judgement:
    """Whether eval tracks train."""
    return judgement(
        [Criterion(losses.gap < _LARGEST_GAP, f"measured {losses.gap:.3f}, allowed < {_LARGEST_GAP}")]
    )


def _claim(name: str, claimed: float | None, recomputed: LossEstimate, slack: float) -> Criterion:
    if claimed is None:
        return Criterion(False, f"no {name} is claimed for the checkpoint")
    allowed = slack + _SIGMAS * recomputed.standard_error
    return Criterion(
        abs(claimed - recomputed.mean) <= allowed,
        f"{name} claimed {claimed:.3f}, recomputed {recomputed.mean:.3f}, allowed ±{allowed:.3f}",
    )


def _train_claim(records: Records, recomputed: LossEstimate) -> Criterion:
    """The last logged losses before the checkpoint, against the loss on training windows."""
    logged = [loss for step, loss in records.losses if step <= records.best_step and math.isfinite(loss)]
    recent = logged[-min(_LOGGED_STEPS, max(1, len(logged) // 10)) :]
    if not recent:
        return Criterion(False, "train.log has no loss for the checkpoint")
    mean = sum(recent) / len(recent)
    spread = math.sqrt(sum((loss - mean) ** 2 for loss in recent) / max(1, len(recent) - 1))
    return _claim("train loss", mean, recomputed, _TRAIN_SLACK + _SIGMAS * spread / math.sqrt(len(recent)))
