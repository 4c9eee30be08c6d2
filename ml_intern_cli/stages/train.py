"""train: the path's train.py under the watchdog → checkpoints and logs.

Resumes from the last checkpoint; the pipeline sets aside what was made from other inputs. Spends up
to the path's compute slice, and stops there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import (
    BEST_CHECKPOINT,
    CONFIG,
    EVAL_PY,
    LAST_CHECKPOINT,
    MANIFEST,
    METRICS,
    MODEL_PY,
    PLAN,
    TRAIN_CONFIG,
    TRAIN_PY,
    TRAIN_STDERR,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.stages.base import (
    Check,
    Outcome,
    Progress,
    Ref,
    Stage,
    StageContext,
    StageResult,
)
from ml_intern_cli.stages.programs import (
    CRASH_LINES,
    crash_details,
    explained,
    heldout_shards,
    how_it_crashed,
    lacked_memory,
    raise_if_disk_full,
    tail_of,
)

if TYPE_CHECKING:
    from ml_intern_cli.executors.process import Finished

ENDED = "ckpts/ended.json"
_LEAST_S = 10.0  # a training that was interrupted with its slice used up has to start in order to close
LOGS = ("train.log", TRAIN_STDERR, "eval.log", "gen_samples.log", METRICS)
_TIME_LIMIT = "time limit"  # the reason in ckpts/last.json when the slice is spent
_MOST_REASON = 500  # characters of what a program gives as its reason
_MOST_COUNTED = 1 << 62  # steps or tokens; a float holds as many
_BY_WATCHDOG = "by the watchdog"  # the program would not close by itself; its last checkpoint counts


def run(context: StageContext) -> StageResult:
    """Train the path, or go on with it."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    folder = context.layout.path(path.id)
    before = last_checkpoint(context.layout, path.id)
    watch = _Watch(context, plan, path, folder / METRICS)
    finished = context.compute.run(
        explained(TRAIN_PY),
        what="training",
        cwd=folder,
        limit_s=max(_LEAST_S, path.slice_s - float(before.get("elapsed_s", 0.0))),
        stderr=folder / TRAIN_STDERR,
        on_tick=watch.tick,
        writable=(folder,),
        hidden=heldout_shards(context.layout),
    )
    last = last_checkpoint(context.layout, path.id)
    has_best = context.layout.path(path.id, BEST_CHECKPOINT).is_file()
    if finished.out_of_time and has_best and last.get("status") in {"running", "stopped"}:
        ended = _ended(path.id, reason=None, exit_code=finished.exit_code)
    elif _is_over(last):
        ended = {}
    else:
        return _failure(context, path, last, finished)
    loss = f"loss {watch.loss:.3f} · " if watch.loss is not None else ""
    reason = last.get("reason") or _BY_WATCHDOG
    early = "" if last["status"] == "done" else f" · stopped early: {reason}"
    return StageResult(
        summary=f"{last['step']:,} of {path.steps:,} steps · {loss}{last['tokens'] / 1e6:.2f}M tokens{early}",
        files=ended,
    )


def _announces(context: StageContext) -> tuple[str, str] | None:
    """That training starts; going on with it is no news."""
    if last_checkpoint(context.layout, context.path):
        return None
    plan = context.read(Plan, PLAN)
    steps = plan.path(context.path).steps
    return "train_started", f"{context.layout.slug}: path {context.path}: {steps:,} steps on {plan.dataset}"


def last_checkpoint(layout: RunLayout, path_id: str) -> dict[str, Any]:
    """ckpts/last.json; empty when there is none or it cannot be read."""
    last = leavings.read_object(layout.path(path_id), LAST_CHECKPOINT)
    if not last:
        return {}
    reason = last.get("reason")
    return last | {
        "step": _whole(last.get("step")),
        "tokens": _whole(last.get("tokens")),
        "elapsed_s": max(0.0, _finite(last.get("elapsed_s")) or 0.0),
        "reason": None if reason is None else leavings.printable(str(reason))[:_MOST_REASON],
    }


def early_stop(layout: RunLayout, path_id: str) -> str | None:
    """Why training ended before its last step; ``None`` when it did not, or when it failed."""
    last, ended = last_checkpoint(layout, path_id), ending(layout, path_id)
    if last.get("status") == "stopped":
        return str(last.get("reason"))
    return _BY_WATCHDOG if last.get("status") == "running" and ended and not ended.get("failed") else None


def ending(layout: RunLayout, path_id: str) -> dict[str, Any]:
    """ckpts/ended.json; empty when there is none or it cannot be read."""
    return leavings.read_object(layout.path(path_id), ENDED)


def training_left_s(layout: RunLayout, path: PathPlan) -> float:
    """Seconds of its slice that a path may still train for."""
    last = last_checkpoint(layout, path.id)
    if ending(layout, path.id) or (last and _is_over(last)):
        return 0.0
    return max(0.0, path.slice_s - float(last.get("elapsed_s", 0.0)))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MOST_COUNTED else 0


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and -_MOST_COUNTED < value < _MOST_COUNTED
    return float(value) if is_number else None  # NaN is not between them either


class _Watch:
    """Follows metrics.jsonl while the program runs."""

    def __init__(self, context: StageContext, plan: Plan, path: PathPlan, metrics: Path) -> None:
        self._context = context
        self._plan = plan
        self._path = path
        self._metrics = metrics
        self.loss: float | None = None

    def tick(self, _elapsed_s: float) -> None:
        """Report where training stands."""
        row = _last_step(self._metrics)
        if row is None:
            return
        self.loss = row["loss"]
        left = self._path.steps - row["step"]
        tokens_per_s = _finite(row.get("tokens_per_s"))
        rate = tokens_per_s if tokens_per_s and tokens_per_s > 0 else self._path.measured_tokens_per_s
        self._context.report(
            Progress(
                stage="train",
                what="steps",
                path_id=self._path.id,
                done=row["step"],
                total=self._path.steps,
                loss=row["loss"],
                tokens_per_s=tokens_per_s,
                left_s=left * self._plan.tokens_per_step(self._path) / rate,
                budget_left_s=max(0.0, self._context.compute.remaining_s()),
            )
        )


def _last_step(metrics: Path) -> dict[str, Any] | None:
    for line in reversed(tail_of(metrics, lines=20).splitlines()):
        row = leavings.parse_object(line)  # None: the line being written now
        if row and isinstance(row.get("loss"), float) and _whole(row.get("step")) == row.get("step"):
            return row
    return None


def _failure(context: StageContext, path: PathPlan, last: dict[str, Any], finished: Finished) -> StageResult:
    """A failed path; its cause is in ckpts/last.json, or only in how the program ended."""
    tail = tail_of(context.layout.path(path.id, TRAIN_STDERR), lines=CRASH_LINES)
    raise_if_disk_full(context.layout, tail)
    reason = (
        str(last.get("reason"))
        if last.get("status") == "failed"
        else how_it_crashed(finished.exit_code, tail)
    )
    return StageResult(
        outcome=Outcome.FAILED,
        summary=f"failed at step {last.get('step', 0)}: {reason}",
        files=_ended(path.id, reason=reason, exit_code=finished.exit_code),
        details=(*crash_details(tail), f"{path_folder(path.id)}/{TRAIN_STDERR}"),
        notify=(("path_failed", f"{context.layout.slug}: path {path.id}: {reason}"),),
        out_of_memory=not finished.out_of_time and lacked_memory(reason),
    )


def _ended(path_id: str, *, reason: str | None, exit_code: int) -> dict[str, str]:
    """ckpts/ended.json: how training ended when ckpts/last.json alone does not say."""
    text = json.dumps({"failed": reason, "exit_code": exit_code})
    return {f"{path_folder(path_id)}/{ENDED}": text + "\n"}


def _is_over(last: dict[str, Any]) -> bool:
    status = last.get("status")
    return status == "done" or (status == "stopped" and last.get("reason") == _TIME_LIMIT)


def _check(layout: RunLayout, path_id: str | None) -> Check:
    assert path_id is not None  # noqa: S101, a stage per path
    last = last_checkpoint(layout, path_id)
    ended = ending(layout, path_id)
    if ended.get("failed"):
        return Check(failed=str(ended["failed"]))
    if (_is_over(last) or ended) and layout.path(path_id, BEST_CHECKPOINT).is_file():
        return Check()
    return Check(missing=f"training is at step {last.get('step', 0)}")


STAGE = Stage(
    name="train",
    title="train under the watchdog",
    reads=(
        Ref(f"{{path}}/{MODEL_PY}"),
        Ref(f"{{path}}/{CONFIG}"),
        Ref(f"{{path}}/{TRAIN_CONFIG}"),
        Ref(f"{{path}}/{TRAIN_PY}"),
        Ref(f"{{path}}/{EVAL_PY}"),
        Ref(MANIFEST),
    ),
    writes=(),
    run=run,
    per_path=True,
    partial=tuple(f"{{path}}/{name}" for name in (*LOGS, "ckpts")),
    announces=_announces,
    check=_check,
)
