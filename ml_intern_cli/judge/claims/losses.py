"""The losses that training reports: recomputed on the same tokens, and as noisy as such losses are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_SIGMAS = 4.0
_EVAL_SLACK = 0.001  # nats


def _eval_claim(bench: ClaimBench) -> Measurement:
    records, val = bench.records, bench.measured.val
    claimed, row = records.best_eval_loss, _row_of(records.metrics, records.best_step)
    allowed = f"claimed within {_EVAL_SLACK} on the same tokens"
    if claimed is None or row is None:
        where = "ckpts/best.json" if claimed is None else "metrics.jsonl"
        return _failed(
            "no eval loss", allowed, where, f"{where} has no eval_loss for step {records.best_step}"
        )
    tokens = records.eval_tokens or 0
    if row["eval_loss"] != claimed:
        told = f"best.json says {claimed}, metrics.jsonl {row['eval_loss']} for step {records.best_step}"
        return _failed("two claims", allowed, "ckpts/best.json", told)
    available = len(bench.corpus.stream(Split.VAL)) - 1
    if not 0 < tokens <= available:
        told = f"claimed on {tokens:,} tokens, the val split has {available:,} to predict"
        return _failed(f"{tokens:,} tokens", allowed, "metrics.jsonl", told)
    # Of a claim on more than the judge can afford it measured a part, which strays from the whole.
    unmeasured = max(0.0, 1 - val.tokens / tokens)
    slack = _EVAL_SLACK + _SIGMAS * val.standard_error * math.sqrt(unmeasured)
    off = abs(claimed - val.mean)
    return Measurement(
        passed=off <= slack and val.tokens <= tokens,
        measured=f"claimed {claimed:.4f} on {tokens:,} tokens, found {val.mean:.4f} on {val.tokens:,}",
        allowed=f"± {slack:.4f}",
        component="" if off <= slack else "ckpts/best.json",
    )


EVAL_CLAIM = Probe(
    name="eval-claim",
    category=Category.REPORTING,
    meaning="the eval loss claimed for the checkpoint is its loss on the tokens it names",
    threshold=f"within {_EVAL_SLACK} nats on the same tokens of val",
    threshold_source=(
        "measured: fp32 on the same machine repeats to 5e-8; under bf16 autocast means over 5,120 tokens"
        " moved by 7e-5 to 2.5e-4"
    ),
    usual_causes=(
        "the loss was measured on a subset, on the training split or on other weights",
        "the number was written by hand or copied from the training loss",
        "config.json, model.py or the checkpoint changed after it was measured",
        "evaluation in train mode, or padding counted in",
    ),
    run=_eval_claim,
)


def _best_is_best(bench: ClaimBench) -> Measurement:
    records = bench.records
    rows = [row for row in records.metrics if _is_number(row.get("eval_loss"))]
    best = _row_of(rows, records.best_step)
    allowed = "the lowest of the comparable evaluations, none left out"
    if best is None:
        told = f"best.json names step {records.best_step}, which metrics.jsonl has no evaluation of"
        return _failed("no such evaluation", allowed, "ckpts/best.json", told)
    comparable = [row for row in rows if row.get("eval_tokens") == best.get("eval_tokens")]
    lowest = min(comparable, key=lambda row: float(row["eval_loss"]))
    measured = f"{best['eval_loss']:.4f} at step {best['step']}, {len(comparable)} evaluations compared"
    if lowest["eval_loss"] < best["eval_loss"]:
        told = f"step {lowest['step']} has {lowest['eval_loss']:.4f}, best.json names step {best['step']}"
        return _failed(measured, allowed, "ckpts/best.json", told)
    every, last = bench.setting("eval_every"), records.step
    evaluated = {row.get("step") for row in rows}
    missing = [step for step in range(every, last, every) if step not in evaluated] if every else []
    if missing:
        told = f"no evaluation of step {missing[0]}, due every {every}"
        return _failed(measured, allowed, "metrics.jsonl", told)
    return Measurement(passed=True, measured=measured, allowed=allowed)


BEST_IS_BEST = Probe(
    name="best-is-best",
    category=Category.REPORTING,
    meaning="best.json names the evaluation with the lowest loss, and no evaluation is left out",
    threshold="no lower eval loss over the same tokens; every evaluation that was due",
    threshold_source="the rule by which train.py chooses",
    usual_causes=("a checkpoint chosen by another number", "evaluations removed from the log"),
    run=_best_is_best,
)

_LEAST_STEPS = 24  # logged losses below which their noise says nothing
_MOST_STEPS = 256
_LEAST_NOISE, _MOST_NOISE = 0.65, 4.0  # of the noise that the windows explain
_UNSTEADY = 0.02  # nats: what high learning rates add to it
_ROUNDING = 0.5e-4  # half of the last decimal in train.log: honest values within it repeat
_LEVEL_SLACK = 0.06
_START_SLACK = 0.1
_MOST_REPEATED = 0.1


def _train_claim(bench: ClaimBench) -> Measurement:
    import numpy as np

    allowed = "the level and the noise of losses on that many windows"
    steps, logged = _logged(bench)
    if not len(logged):
        return _failed("no losses", allowed, "train.log", "no training loss is logged for the checkpoint")
    by_window = bench.train_losses
    per_step = bench.windows_per_step or 1
    noise = float(by_window.std(ddof=1)) / math.sqrt(per_step)
    tail = logged[-max(1, min(_MOST_STEPS, len(logged) // 4)) :]
    if len(logged) >= 2 * _LEAST_STEPS:
        tail = logged[-min(_MOST_STEPS, max(_LEAST_STEPS, len(logged) // 4)) :]
    level, trend = _line_through(tail)
    error = _SIGMAS * math.hypot(
        noise / math.sqrt(len(tail)) * 2, float(by_window.std(ddof=1)) / math.sqrt(len(by_window))
    )
    slack = _LEVEL_SLACK + error + abs(trend) * len(tail) / 2
    mean = float(by_window.mean())
    found = f"{level:.3f} at step {int(steps[-1])}, recomputed {mean:.3f}"
    if abs(level - mean) > slack:
        return _failed(
            found, f"± {slack:.3f}", "train.log", f"logged losses end at {found}, allowed ± {slack:.3f}"
        )
    start = bench.initial_losses
    spread = float(start.std(ddof=1)) * (1 / math.sqrt(per_step) + 1 / math.sqrt(len(start)))
    is_seeded = bench.setting("seed") is not None
    allowed_start = _SIGMAS * spread + (_START_SLACK if is_seeded else 3 * _START_SLACK)
    if steps[0] == 1 and abs(logged[0] - start.mean()) > allowed_start:
        told = f"step 1 is logged with {logged[0]:.3f}, the initial weights have {start.mean():.3f}"
        return _failed(found, f"± {allowed_start:.3f}", "train.log", f"{told}, allowed ± {allowed_start:.3f}")
    if len(tail) < _LEAST_STEPS:
        return Measurement(
            passed=True, measured=f"{found}; too few steps to judge the noise", allowed=allowed
        )
    strayed = float(np.diff(tail).std() / math.sqrt(2))
    # Relative errors: of a deviation from differences of neighbours, and of one from a sample of windows.
    error = math.sqrt(0.75 / len(tail) + 0.5 / len(by_window))
    least = noise * min(_LEAST_NOISE, max(_LEAST_NOISE / 2, 1 - _SIGMAS * error))
    most = _MOST_NOISE * noise + _UNSTEADY
    repeated = 1 - len(np.unique(tail)) / len(tail) - _ROUNDING * len(tail) / max(strayed, 1e-12)
    found = f"{found}; strays by {strayed:.4f} from step to step, expected {noise:.4f}"
    passed = least <= strayed <= most and repeated <= _MOST_REPEATED
    return Measurement(
        passed=passed,
        measured=found,
        allowed=f"± {slack:.3f}; {least:.4f} to {most:.4f}",
        component="" if passed else "train.log",
        detail="" if passed else found + (f"; {repeated:.0%} of the values repeat" if repeated > 0 else ""),
    )


def _logged(bench: ClaimBench) -> tuple[Floats, Floats]:
    """Steps and losses up to the judged checkpoint, as precisely as they are logged."""
    import numpy as np

    rows = [
        (row["step"], row["loss"])
        for row in bench.records.metrics
        if _is_number(row.get("loss")) and isinstance(row.get("step"), int)
    ]
    rows = rows or list(bench.records.losses)
    chosen = [(step, loss) for step, loss in rows if step <= bench.records.best_step and math.isfinite(loss)]
    found = np.array(chosen, dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _line_through(values: Floats) -> tuple[float, float]:
    """The value of a straight line at its end, and its slope."""
    import numpy as np

    if len(values) < 3:
        return float(values.mean()), 0.0
    slope, start = np.polyfit(np.arange(len(values)), values, 1)
    return float(start + slope * (len(values) - 1)), float(slope)


TRAIN_CLAIM = Probe(
    name="train-claim",
    category=Category.REPORTING,
    meaning=(
        "the logged training losses have the level and the noise of losses on batches of the training text"
    ),
    threshold=(
        f"the first loss within {_START_SLACK} of the initial weights', the end of the curve within"
        f" {_LEVEL_SLACK} and four standard errors of the recomputed loss; from step to"
        f" step it strays by {_LEAST_NOISE} to {_MOST_NOISE} times what means over as many windows do (and"
        f" {_UNSTEADY} more)"
    ),
    threshold_source=(
        "windows are drawn at random, so a step's loss strays by the spread between windows over the"
        " root of their"
        " number; the spread is measured on the checkpoint"
    ),
    usual_causes=(
        "losses were invented, smoothed or averaged before they were logged",
        "the logged loss is that of other weights, other data or another batch size",
        "the same batch is trained on again and again",
    ),
    run=_train_claim,
)


def _row_of(rows: Any, step: int) -> dict[str, Any] | None:
    found = [row for row in rows if row.get("step") == step and _is_number(row.get("eval_loss"))]
    return found[-1] if found else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _failed(measured: str, allowed: str, component: str, detail: str) -> Measurement:
    return Measurement(passed=False, measured=measured, allowed=allowed, component=component, detail=detail)
