"""Audit: every probe on one checkpoint, and what it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ml_intern_cli.documents.audit import Audit, AuditKind, Writing
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit import PROBES
from ml_intern_cli.judge.audit.bench import AuditBench, Question
from ml_intern_cli.judge.audit.files import Files
from ml_intern_cli.judge.audit.sampling import writings
from ml_intern_cli.judge.probe import run_probe

T = TypeVar("T")

_MOST_WRITINGS = 3


def audit(directory: Path, question: Question, *, text_name: str, progress: Callable[[str], None]) -> Audit:
    """Runs all probes. A checkpoint that cannot be loaded fails them; it does not stop the judge.

    Args:
        directory: A transformers checkpoint.
        question: The text, and what is claimed.
        text_name: What the answer calls the text.
        progress: Gets a line before each probe, ``4/26 weights-fit``.

    Raises:
        InvalidInput: the text is too short, which no checkpoint is to blame for.
    """
    _silence()
    started = time.monotonic()
    bench = AuditBench(Files(directory.resolve()), question)
    _require_text(bench)
    results = []
    for number, probe in enumerate(PROBES, start=1):
        progress(f"{number}/{len(PROBES)} {probe.name}")
        results.append(run_probe(probe, bench, describe=bench.describe))
    return Audit(
        subject=str(directory),
        kind=AuditKind.CAUSAL_LM,
        architecture=bench.files.architecture or "not named",
        params=_or_none(lambda: bench.params or None),
        text=text_name,
        scored=_or_none(lambda: _scored(bench)) or "",
        loss=_finite(_or_none(lambda: bench.text_losses.mean)),
        unigram_loss=_or_none(lambda: bench.text.unigram_loss),
        seconds=round(time.monotonic() - started, 2),
        probes=tuple(results),
        writings=_or_none(lambda: _writings(bench)) or (),
    )


def _silence() -> None:
    """Stderr is for progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _require_text(bench: AuditBench) -> None:
    """Raises InvalidInput before anything is judged by a text that is too short."""
    try:
        _ = bench.text
    except InvalidInput:
        raise
    except Unusable:
        return  # the probes say why there are no tokens


def _scored(bench: AuditBench) -> str:
    windows, tokens = bench.windows, bench.text_losses.tokens
    return (
        f"{tokens:,} of {len(bench.text):,} tokens, in {len(windows):,} windows of {bench.context} "
        "that do not overlap"
    )


def _writings(bench: AuditBench) -> tuple[Writing, ...]:
    samples = writings(bench)
    rows = zip(samples.prompts.tolist(), samples.written.tolist(), strict=True)
    decoded = [(bench.tokenizer.decode(prompt), bench.tokenizer.decode(row)) for prompt, row in rows]
    return tuple(Writing(prompt=prompt, output=output) for prompt, output in decoded[:_MOST_WRITINGS])


def _or_none(make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception:  # noqa: BLE001, a probe has said already what the judged code raised
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
