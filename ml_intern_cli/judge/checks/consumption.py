"""Data consumption: did the training see what was planned, and do its records agree on it."""

from __future__ import annotations

from ml_intern_cli.documents.verify import Judgement
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.checks.criterion import Criterion, judgement
from ml_intern_cli.judge.records import Records

_LEAST_SHARE = 0.7
"""Of the planned tokens. Source: the seed's fourth check."""


def judge_consumption(artifact: Artifact, records: Records, *, planned_tokens: int) -> Judgement:
    """Compares the data cursor with the plan, the step count and the log."""
    share = records.tokens / planned_tokens
    criteria = [Criterion(False, problem) for problem in records.problems]
    criteria += [
        Criterion(
            share >= _LEAST_SHARE,
            f"consumed {records.tokens:,} of {planned_tokens:,} planned tokens = {share:.1%}, "
            f"allowed ≥ {_LEAST_SHARE:.0%}",
        ),
        *_cursor_agrees(artifact, records),
        _log_agrees(records),
    ]
    return judgement(criteria)


def _cursor_agrees(artifact: Artifact, records: Records) -> list[Criterion]:
    """The cursor with the tokens claimed, and with the steps made."""
    try:
        sizes = [artifact.train_config.get(key) for key in ("micro_batch", "accumulation", "seq_len")]
    except Unusable as error:
        return [Criterion(False, str(error))]
    micro_batch, accumulation, seq_len = (size if isinstance(size, int) else 0 for size in sizes)
    cursor_tokens = records.cursor * seq_len
    by_steps = records.step * micro_batch * accumulation * seq_len
    # An update that is skipped, its loss not being finite, reads data too; more than a few fail the training.
    most = int(1.05 * by_steps) + 5 * micro_batch * accumulation * seq_len
    return [
        Criterion(
            records.tokens == cursor_tokens,
            f"last.json says {records.tokens:,} tokens, the data cursor {cursor_tokens:,}",
        ),
        Criterion(
            by_steps <= cursor_tokens <= most,
            f"{records.step:,} steps of {micro_batch} x {accumulation} x {seq_len} make {by_steps:,} tokens, "
            f"the data cursor stands at {cursor_tokens:,}",
        ),
    ]


def _log_agrees(records: Records) -> Criterion:
    """One line of train.log per step."""
    steps = [step for step, _ in records.losses]
    text = f"train.log has {len(steps):,} lines for {records.step:,} steps"
    if len(steps) == records.step and steps != list(range(1, records.step + 1)):
        text = f"train.log's steps are not 1 to {records.step:,} in order"
    return Criterion(steps == list(range(1, records.step + 1)), text)
