"""The logs hold together: with each other, with train_config.json, with the clock, with the checkpoints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeGuard

from ml_intern_cli.judge.claims.bench import ClaimBench, place_in, short
from ml_intern_cli.judge.probe import Category, Measurement, Probe

_ROUNDING = 5.1e-5  # train.log has four decimals
_RATE_TOLERANCE = 1e-5
_LEAST_STEP_S = 0.02  # shorter steps drown in the rounding of the clock
_CLOCK_SLACK_S = 30.0  # a killed program's last seconds are not written down
_CLOCK_SLACK = 1.1
_LEAST_SHARE_OF_STEP, _MOST_SHARE_OF_STEP = 0.5, 1.1
_LEAST_DISTINCT = 0.5
_LOG, _METRICS, _LAST = "train.log", "metrics.jsonl", "ckpts/last.json"


class _Wrong(Exception):
    """The first thing that does not hold: where, and what."""

    def __init__(self, component: str, told: str) -> None:
        super().__init__(told)
        self.component = component


def _measure(checks: Iterator[str], allowed: str) -> Measurement:
    """Runs checks, each of which yields what it found to hold, or raises."""
    held: list[str] = []
    try:
        held.extend(checks)
    except _Wrong as wrong:
        return Measurement(
            passed=False,
            measured="do not hold together",
            allowed=allowed,
            component=wrong.component,
            detail=str(wrong),
        )
    return Measurement(passed=True, measured=", ".join(held) or "nothing to compare", allowed=allowed)


def _step_records(bench: ClaimBench) -> Measurement:
    return _measure(_records_hold(bench), "equal, step by step")


def _records_hold(bench: ClaimBench) -> Iterator[str]:
    rows = [
        (number, row)
        for number, row in enumerate(bench.records.metrics, start=1)
        if "loss" in row and "step" in row
    ]
    if not rows and bench.records.losses:
        raise _Wrong(_METRICS, f"no loss in it, {len(bench.records.losses)} in train.log")
    yield _logs_agree(bench, rows)
    for check in (_rates_hold, _norms_hold, _tokens_hold, _clock_holds):
        if found := check(bench, rows):
            yield found


_Rows = list[tuple[int, dict[str, Any]]]


def _logs_agree(bench: ClaimBench, rows: _Rows) -> str:
    logged = bench.records.losses
    for index, ((step, loss), (number, row)) in enumerate(zip(logged, rows, strict=False), start=1):
        if row["step"] != step:
            raise _Wrong(
                place_in(_METRICS, number), f"step {short(row['step'])}, train.log:{index} has {step}"
            )
        if not (_is_number(row["loss"]) and abs(row["loss"] - loss) <= _ROUNDING):
            raise _Wrong(
                place_in(_METRICS, number), f"loss {short(row['loss'])}, train.log:{index} has {loss:.4f}"
            )
    if len(logged) != len(rows):
        raise _Wrong(_METRICS, f"{len(rows)} steps, train.log has {len(logged)}")
    return f"{len(rows)} steps in both logs"


def _rates_hold(bench: ClaimBench, rows: _Rows) -> str:
    """Each rate is the schedule's, halved once per update that was skipped so far."""
    halvings = 0
    names = ("learning_rate", "min_learning_rate", "warmup_steps", "steps")
    values = [bench.number(name) for name in names]
    schedule = bench.settings.get("schedule")
    if any(value is None for value in values) or schedule not in {"cosine", "linear", "constant"}:
        return ""
    peak, lowest, warmup, steps = (float(value or 0.0) for value in values)
    compared = 0
    for number, row in rows:
        rate = row.get("lr")
        if rate is None:
            continue
        scheduled = scheduled_rate(
            row["step"] - 1, schedule=str(schedule), peak=peak, lowest=lowest, warmup=warmup, steps=steps
        )
        while rate < 0.75 * scheduled * 0.5**halvings and halvings < _most_halvings(bench):
            halvings += 1
        if not math.isclose(rate, scheduled * 0.5**halvings, rel_tol=_RATE_TOLERANCE, abs_tol=1e-12):
            raise _Wrong(
                place_in(_METRICS, number),
                f"learning rate {short(rate)} at step {row['step']}, the {schedule} schedule of"
                f" train_config.json"
                f" gives {scheduled * 0.5**halvings:.6g}",
            )
        compared += 1
    return f"{compared} learning rates on schedule" if compared else ""


def _most_halvings(bench: ClaimBench) -> int:
    skipped = bench.records.last.get("skipped")
    return skipped if isinstance(skipped, int) else 0


def scheduled_rate(
    step: int, *, schedule: str, peak: float, lowest: float, warmup: float, steps: float
) -> float:
    """The learning rate of the step after ``step`` steps: linear warm-up, then decay, as train.py has it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shapes = {"constant": 0.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return peak - shapes[schedule] * (peak - lowest)


def _norms_hold(_: ClaimBench, rows: _Rows) -> str:
    norms = []
    for number, row in rows:
        if "grad_norm" not in row:
            continue
        if not (_is_number(row["grad_norm"]) and row["grad_norm"] > 0):
            raise _Wrong(place_in(_METRICS, number), f"gradient norm {short(row['grad_norm'])}")
        norms.append(row["grad_norm"])
    if len(norms) >= 8 and len(set(norms)) < _LEAST_DISTINCT * len(norms):
        raise _Wrong(_METRICS, f"{len(set(norms))} different gradient norms in {len(norms)} steps")
    return f"{len(norms)} gradient norms" if norms else ""


def _tokens_hold(bench: ClaimBench, rows: _Rows) -> str:
    """The cursor moves by one effective batch per step, and per skipped update."""
    per_step, before = (bench.windows_per_step or 0) * bench.artifact.seq_len, 0
    if not per_step:
        return ""
    for number, row in rows:
        tokens = row.get("tokens")
        if tokens is None:
            return ""
        extra = tokens - row["step"] * per_step if isinstance(tokens, int) else -1
        if extra < before or extra % per_step:
            raise _Wrong(
                place_in(_METRICS, number),
                f"{short(tokens)} tokens at step {row['step']}, each step takes {per_step:,}",
            )
        before = extra
    return "tokens"


def _clock_holds(bench: ClaimBench, rows: _Rows) -> str:
    """Speeds, the time between two steps, and the time that the training really took."""
    per_step = (bench.windows_per_step or 0) * bench.artifact.seq_len
    timed = [
        (number, float(row["elapsed_s"]), per_step / row["tokens_per_s"])
        for number, row in rows
        if _is_number(row.get("elapsed_s"))
        and _is_number(row.get("tokens_per_s"))
        and row["tokens_per_s"] > 0
    ]
    if len(timed) < 2 or not per_step:
        return ""
    for (_, before, _), (number, after, _) in pairwise(timed):
        if after < before:
            raise _Wrong(place_in(_METRICS, number), f"elapsed_s falls from {before} to {after}")
    shares = [
        step_s / (after - before)
        for (_, before, _), (_, after, step_s) in pairwise(timed)
        if after - before >= _LEAST_STEP_S
    ]
    if len(shares) >= 8 and not _LEAST_SHARE_OF_STEP <= statistics.median(shares) <= _MOST_SHARE_OF_STEP:
        raise _Wrong(
            _METRICS,
            f"tokens_per_s makes a step {statistics.median(shares):.2f} times as long as elapsed_s does",
        )
    claimed_s = timed[-1][1]
    if bench.train_s is not None and claimed_s > _CLOCK_SLACK * bench.train_s + _CLOCK_SLACK_S:
        raise _Wrong(
            place_in(_METRICS, timed[-1][0]),
            f"elapsed_s {claimed_s:.0f}, the program ran for {bench.train_s:.0f} s",
        )
    return f"{claimed_s:.0f} s"


STEP_RECORDS = Probe(
    name="step-records",
    category=Category.REPORTING,
    meaning="train.log, metrics.jsonl, train_config.json and the clock tell the same story, step by step",
    threshold=(
        "same steps and losses in both logs; learning rates on schedule; gradient norms positive and"
        " varying; tokens"
        " in whole batches; speeds that fit the time between steps and the measured time of training"
    ),
    threshold_source="train.py writes both logs from the same numbers; exact up to their rounding",
    usual_causes=(
        "a log was edited or written by another program",
        "the learning rate does not follow the schedule in train_config.json",
        "speeds were invented or measured on part of a step",
    ),
    run=_step_records,
)


def _finished_honestly(bench: ClaimBench) -> Measurement:
    return _measure(_ending_holds(bench), "checkpoint, pointers and logs agree on where training stands")


def _ending_holds(bench: ClaimBench) -> Iterator[str]:
    records = bench.records
    last, state, step = records.last, records.state, records.step
    if not last or not records.best:
        raise _Wrong("ckpts", next(iter(records.problems), "last.json or best.json is missing"))
    if state.get("step") != step:
        raise _Wrong(
            "ckpts", f"last.json stands at step {step}, its state.json at {short(state.get('step'))}"
        )
    planned = bench.setting("steps")
    if planned and (step > planned or (last.get("status") == "done" and step != planned)):
        raise _Wrong(_LAST, f"{last.get('status')} at step {step} of {planned}")
    if records.best_step > step:
        raise _Wrong("ckpts/best.json", f"step {records.best_step}, training stands at {step}")
    if isinstance(last.get("best"), dict) and last["best"] != records.best:
        raise _Wrong("ckpts/best.json", f"{short(records.best)}, last.json has {short(last['best'])}")
    yield f"{step} steps"
    windows, skipped = bench.windows_per_step, last.get("skipped")
    if windows and isinstance(skipped, int) and records.cursor != (step + skipped) * windows:
        raise _Wrong(
            _LAST,
            f"{step} steps and {skipped} skipped updates make {(step + skipped) * windows:,} windows,"
            f" the cursor"
            f" says {records.cursor:,}",
        )
    times = [row["elapsed_s"] for row in records.metrics if _is_number(row.get("elapsed_s"))]
    elapsed = last.get("elapsed_s")
    if times and _is_number(elapsed) and elapsed < max(times) - 0.01:
        raise _Wrong(_LAST, f"elapsed_s {elapsed}, metrics.jsonl goes to {max(times)}")
    if (
        _is_number(elapsed)
        and bench.train_s is not None
        and elapsed > _CLOCK_SLACK * bench.train_s + _CLOCK_SLACK_S
    ):
        raise _Wrong(_LAST, f"elapsed_s {elapsed:.0f}, the program ran for {bench.train_s:.0f} s")
    yield f"{records.tokens:,} tokens"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


FINISHED_HONESTLY = Probe(
    name="finished-honestly",
    category=Category.REPORTING,
    meaning="training ended where last.json says it did",
    threshold=(
        "steps, skipped updates, cursor and time agree between last.json, state.json, best.json and the log"
    ),
    threshold_source="train.py writes them from the same numbers; exact",
    usual_causes=("a pointer was edited", "checkpoints of two trainings were mixed"),
    run=_finished_honestly,
)
