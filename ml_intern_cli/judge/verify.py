"""Verify: six checks and the probes of what a trained path claims, recomputed from its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.verify import GenerationSample, Judgement, Verify
from ml_intern_cli.judge.artifact import (
    Artifact,
    Unusable,
    best_checkpoint,
    count_parameters,
    misfit_of,
    read_checkpoint,
)
from ml_intern_cli.judge.checks.consumption import judge_consumption
from ml_intern_cli.judge.checks.criterion import Criterion, failure, judgement
from ml_intern_cli.judge.checks.generation import PROMPTS, judge_generation
from ml_intern_cli.judge.checks.loss import (
    Losses,
    judge_loss,
    judge_tracking,
    measure_losses,
    plausible_range,
)
from ml_intern_cli.judge.checks.stderr import judge_stderr
from ml_intern_cli.judge.checks.yardstick import Text
from ml_intern_cli.judge.claims import CLAIMS
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.confinement.hosted import HostedModel, ModelHost
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.records import Records
from ml_intern_cli.judge.reference import NGramReference

_REFERENCE_TOKENS = 1_000_000  # enough for the n-grams of a small vocabulary, counted in a few seconds
_LARGEST_DRIFT = 0.15
"""Of the parameter count. Source: the seed's sixth check."""


def verify(
    path_dir: Path,
    *,
    data_dir: Path,
    planned_tokens: int,
    target_params: int,
    seed: int,
    progress: Callable[[str], None],
    limit_s: float | None = None,
    num_threads: int | None = None,
    before: Mapping[str, str] | None = None,
    train_s: float | None = None,
) -> Verify:
    """Judges the checkpoint of ``ckpts/best.json``.

    Args:
        path_dir: ``path-<id>/``.
        data_dir: ``data/`` of the same run.
        planned_tokens: Training tokens in PLAN.md.
        target_params: The size that was asked for.
        seed: Of the judge's samples.
        progress: Gets a line before each part of the work, ``20/100 tokens of 19 samples``.
        limit_s: For the path's code, all of its calls together.
        num_threads: CPU threads of the path's code; ``None``: as many as torch has here.
        before: SHA-256 of files before the author's programs ran: ``data/manifest.json``, and programs and
            settings by their names in ``path_dir``. What is not among them is not known.
        train_s: How long the training program ran; ``None``: not known.

    Raises:
        InvalidInput: the data cannot be read, which no path is to blame for.
    """
    artifact, corpus = Artifact(path_dir), Corpus.open(data_dir)
    with ModelHost(artifact, limit_s=limit_s, num_threads=num_threads) as host:
        return _verify(
            artifact,
            corpus,
            host,
            planned_tokens=planned_tokens,
            target_params=target_params,
            seed=seed,
            progress=progress,
            before=before or {},
            train_s=train_s,
        )


def _verify(
    artifact: Artifact,
    corpus: Corpus,
    host: ModelHost,
    *,
    planned_tokens: int,
    target_params: int,
    seed: int,
    progress: Callable[[str], None],
    before: Mapping[str, str],
    train_s: float | None,
) -> Verify:
    records = Records.read(artifact)
    reference = _reference(corpus)
    broken = _load(artifact, host.as_trainer)
    model = None if broken else host.as_trainer
    samples, generation, written = _generation(
        artifact, model, corpus, reference, seed=seed, broken=broken, progress=progress
    )
    losses, unmeasured = _losses(
        artifact, model, corpus, reference, records, broken=broken, progress=progress
    )
    loss = judge_loss(losses, corpus, records) if losses else failure(unmeasured)
    low, high = (
        (losses.plausible_low, losses.plausible_high) if losses else plausible_range(corpus, reference, None)
    )
    findings, stderr = judge_stderr(artifact)
    actual_params = count_parameters(model) if model is not None else 0
    bench = ClaimBench(
        artifact=artifact,
        corpus=corpus,
        records=records,
        trainer=host.as_trainer,
        judged=host.as_judge,
        checkpoint=Path(str(records.best.get("dir"))).name,
        losses=losses,
        broken=broken or unmeasured,
        seed=seed,
        reference=reference,
        written=written,
        before=before,
        train_s=train_s,
    )
    return Verify(
        samples=samples,
        generation=generation,
        final_train_loss=_number(losses.train.mean) if losses else None,
        final_eval_loss=_number(losses.heldout.mean) if losses else None,
        plausible_low=low,
        plausible_high=high,
        loss=loss,
        eval_train_gap=_number(losses.gap) if losses else None,
        tracks=judge_tracking(losses) if losses else failure(unmeasured),
        planned_tokens=planned_tokens,
        consumed_tokens=records.tokens,
        data=judge_consumption(artifact, records, planned_tokens=planned_tokens),
        stderr_findings=findings,
        stderr=stderr,
        target_params=target_params,
        actual_params=actual_params,
        params=_judge_params(actual_params, target_params) if not broken else failure(broken),
        probes=tuple(_probe(bench, progress=progress)),
    )


def _probe(bench: ClaimBench, *, progress: Callable[[str], None]) -> Iterator[ProbeResult]:
    for number, probe in enumerate(CLAIMS, start=1):
        progress(f"{number}/{len(CLAIMS)} {probe.name}")
        yield run_probe(probe, bench, describe=bench.artifact.describe)


def _load(artifact: Artifact, model: HostedModel) -> str:
    """Puts the checkpoint into the model. Returns why that cannot be, or nothing."""
    try:
        model.build(seed=0)
        name, _ = best_checkpoint(artifact)
        with misfit_of(name):
            model.load(read_checkpoint(artifact, name))
    except Unusable as error:
        return f"not run: {error}"
    return ""


def _reference(corpus: Corpus) -> NGramReference:
    """Fitted on documents from all over the training split."""
    stream = corpus.stream(Split.TRAIN)
    length = 1 << 12
    windows = stream.windows(length + 1, limit=_REFERENCE_TOKENS // length, spread=True)
    tokens = windows[:, 1:].reshape(-1) if len(windows) else stream.read(0, length)
    return NGramReference.fit(tokens, vocab_size=corpus.vocab_size, eos=corpus.eos)


def _generation(
    artifact: Artifact,
    model: HostedModel | None,
    corpus: Corpus,
    reference: NGramReference,
    *,
    seed: int,
    broken: str,
    progress: Callable[[str], None],
) -> tuple[tuple[GenerationSample, ...], Judgement, tuple[Text, ...]]:
    reason = broken
    if model is not None:
        try:
            return judge_generation(artifact, model, corpus, reference, seed=seed, progress=progress)
        except Unusable as error:
            reason = f"not run: {error}"
    samples = (GenerationSample(prompt=prompt, output="", judgement=failure(reason)) for prompt in PROMPTS)
    return tuple(samples), failure(reason), ()


def _losses(
    artifact: Artifact,
    model: HostedModel | None,
    corpus: Corpus,
    reference: NGramReference,
    records: Records,
    *,
    broken: str,
    progress: Callable[[str], None],
) -> tuple[Losses | None, str]:
    """The recomputed losses, or why there are none."""
    if model is None:
        return None, broken
    try:
        return measure_losses(artifact, model, corpus, reference, records, progress=progress), ""
    except Unusable as error:
        return None, f"not run: {error}"


def _judge_params(actual: int, target: int) -> Judgement:
    drift = actual / target - 1
    text = f"measured {actual:,}, drift {drift:+.1%}, allowed ±{_LARGEST_DRIFT:.0%}"
    return judgement([Criterion(abs(drift) <= _LARGEST_DRIFT, text)])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
