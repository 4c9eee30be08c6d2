"""report: verdicts and logs of every path → RESULTS.md.

The winner is the path with the lowest recomputed eval loss among those whose VERIFY.md is all-pass.
Spends nothing.
"""

from __future__ import annotations

import math
from typing import Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.code import Code
from ml_intern_cli.documents.experiments import Experiment, Experiments, PathStatus
from ml_intern_cli.documents.layout import (
    BEST_CHECKPOINT,
    CODE,
    EXPERIMENTS,
    METRICS,
    PLAN,
    RESULTS,
    SMOKE,
    TASK,
    VERIFY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.model import PublishTarget
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.results import ResultRow, Results
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.stages.base import Outcome, Ref, Stage, StageContext, StageResult, read_document
from ml_intern_cli.stages.train import ENDED, early_stop, last_checkpoint


def run(context: StageContext) -> StageResult:
    """Put every path side by side and name the winner."""
    plan = context.read(Plan, PLAN)
    ledger = {row.path_id: row for row in context.read(Experiments, EXPERIMENTS).rows}
    rows = tuple(_row(context.layout, path, ledger[path.id]) for path in plan.paths if path.id in ledger)
    passed = sorted(
        (row for row in rows if row.status is PathStatus.PASSED and row.final_loss is not None),
        key=lambda row: row.final_loss or 0.0,
    )
    deviations = tuple(line for path in plan.paths for line in _deviations(context.layout, plan, path))
    if not passed:
        causes = "; ".join(f"{row.path_id}: {ledger[row.path_id].failure_cause}" for row in rows)
        summary = f"no path passed verification ({causes})"
        return StageResult(
            outcome=Outcome.DONE,
            summary=summary,
            documents={RESULTS: Results(winner=None, summary=summary, rows=rows, deviations=deviations)},
            notify=(("error", f"{context.layout.slug}: {summary}"),),
        )
    winner = passed[0]
    summary = f"winner {winner.path_id}, eval {winner.final_loss:.3f}{_lead(passed)}"
    unpublished = context.read(Task, TASK).publish is PublishTarget.NONE
    return StageResult(
        summary=summary,
        documents={
            RESULTS: Results(winner=winner.path_id, summary=summary, rows=rows, deviations=deviations)
        },
        # With a publication to come, training is done only when that has been loaded back.
        notify=(("train_done", f"{winner.final_loss:.4f} (not published)"),) if unpublished else (),
    )


def _lead(passed: list[ResultRow]) -> str:
    if len(passed) < 2:
        return ""
    lead = (passed[1].final_loss or 0.0) - (passed[0].final_loss or 0.0)
    return f", ahead by {lead:.3f} (rerun noise not measured)"


def _row(layout: RunLayout, path: PathPlan, experiment: Experiment) -> ResultRow:
    folder = path_folder(path.id)
    verify = layout.path(path.id, VERIFY)
    judged = experiment.verify is not None and verify.is_file()
    smoke = (
        read_document(layout, Smoke, f"{folder}/{SMOKE}") if layout.path(path.id, SMOKE).is_file() else None
    )
    steps = _steps(layout, path.id)
    return ResultRow(
        path_id=path.id,
        approach=path.approach,
        status=experiment.status,
        params=smoke.params if smoke else None,
        init_loss=steps[0]["loss"] if steps else None,
        final_loss=experiment.final_loss,
        verify=experiment.verify,
        tokens=read_document(layout, Verify, f"{folder}/{VERIFY}").consumed_tokens if judged else None,
        tokens_per_s=_median_rate(steps),
        gpu_min=experiment.gpu_min,
        source=f"{folder}/{VERIFY}" if judged else f"{folder}/{SMOKE}",
    )


def _steps(layout: RunLayout, path_id: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that hold a training step."""
    rows = leavings.read_rows(layout.path(path_id), METRICS)
    return [row for row in rows if isinstance(row.get("loss"), float)]


def _median_rate(steps: list[dict[str, Any]]) -> float | None:
    said = (row.get("tokens_per_s") for row in steps)
    rates = sorted(rate for rate in said if isinstance(rate, int | float) and 0 < rate < math.inf)
    return round(rates[len(rates) // 2], 1) if rates else None


def _deviations(layout: RunLayout, plan: Plan, path: PathPlan) -> list[str]:
    """What happened otherwise than planned, one line each."""
    lines = []
    reason = early_stop(layout, path.id)
    if reason is not None:
        last = last_checkpoint(layout, path.id)
        done = last.get("tokens", 0) / plan.tokens(path)
        where = f"step {last['step']} of {path.steps} ({done:.0%} of its tokens)"
        lines.append(f"path {path.id} stopped at {where}: {reason}")
    if path.retry_of is not None:
        lines.append(
            f"path {path.id} was not planned: it retries {path.retry_of} (path-{path.retry_of}/POSTMORTEM.md)"
        )
    if layout.path(path.id, CODE).is_file():
        code = read_document(layout, Code, f"{path_folder(path.id)}/{CODE}")
        lines += [f"path {path.id} leaves open, says its author: {one}" for one in code.left_open]
    return lines


STAGE = Stage(
    name="report",
    title="compare the paths and name the winner",
    reads=(
        Ref(PLAN),
        Ref(f"path-*/{CODE}"),
        Ref(f"path-*/{SMOKE}"),
        Ref(f"path-*/{ENDED}"),
        Ref(f"path-*/{BEST_CHECKPOINT}"),
        Ref(f"path-*/{VERIFY}"),
    ),
    writes=(RESULTS,),
    run=run,
)
