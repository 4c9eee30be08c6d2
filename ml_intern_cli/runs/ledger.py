"""EXPERIMENTS.md and the spent block of BUDGET.md: counted by the program, from its own records."""

from __future__ import annotations

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.experiments import Experiment, Experiments, PathStatus
from ml_intern_cli.documents.plan import PathPlan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.registry import load
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.runs import money
from ml_intern_cli.runs.events import spent_s
from ml_intern_cli.runs.outputs import rewrite, update
from ml_intern_cli.runs.state import RunState, StageState
from ml_intern_cli.stages.base import D, read_document


def sync(state: RunState) -> None:
    """Bring the ledger and the budget's spent block up to what the files of the paths say.

    Derived anew each time, so it does not matter when a process died. Rows are never removed.
    """
    layout = state.layout
    money.sync(layout)
    if state.plan is None:
        return
    old = _load_experiments(state)
    spent = spent_s(layout)
    rows = {row.path_id: row for row in old.rows}
    for path in state.plan.paths:
        before = rows.get(path.id)
        recorded_min = before.gpu_min if before else 0.0
        rows[path.id] = _row(state, path, gpu_min=max(recorded_min, spent.get(path.id, 0.0) / 60))
    new = Experiments(rows=tuple(rows.values()))
    if new != old:
        rewrite(layout, names.EXPERIMENTS, new)
    _sync_budget(state, new, total_min=sum(spent.values()) / 60)


def _row(state: RunState, path: PathPlan, *, gpu_min: float) -> Experiment:
    verify = _optional(state, Verify, path.id, names.VERIFY)
    status, cause = _status(state, path)
    judged = verify is not None and state.status("verify", path.id).state in {
        StageState.DONE,
        StageState.FAILED,
    }
    return Experiment(
        path_id=path.id,
        approach=path.approach,
        status=status,
        final_loss=verify.final_eval_loss if verify and judged else None,
        verify=(verify.first_failure or "all-pass") if verify and judged else None,
        failure_cause=cause,
        retry_of=path.retry_of,
        gpu_min=round(gpu_min, 3),
    )


def _status(state: RunState, path: PathPlan) -> tuple[PathStatus, str | None]:
    statuses = [one for one in state.stages if one.path_id == path.id and one.stage != "diagnose"]
    failed = next((one for one in statuses if one.state is StageState.FAILED), None)
    if failed:
        postmortem = _optional(state, Postmortem, path.id, names.POSTMORTEM)
        diagnosed = state.status("diagnose", path.id).state is StageState.DONE
        dropped = diagnosed and postmortem is not None and postmortem.retry is None
        cause = postmortem.cause if postmortem and diagnosed else f"{failed.stage}: {failed.reason}"
        return (PathStatus.DROPPED if dropped else PathStatus.FAILED), cause
    if statuses[-1].state is StageState.DONE:
        return PathStatus.PASSED, None
    begun = any(one.state is not StageState.TODO for one in statuses)
    return (PathStatus.RUNNING if begun else PathStatus.QUEUED), None


def _sync_budget(state: RunState, experiments: Experiments, *, total_min: float) -> None:
    if not state.layout.document(names.BUDGET).is_file():
        return  # clarify is due, which writes it
    launched = [row for row in experiments.rows if row.status is not PathStatus.QUEUED]

    def count(budget: Budget) -> Budget:
        counted = {
            "paths_launched": sum(row.retry_of is None for row in launched),
            "retries_used": sum(row.retry_of is not None for row in launched),
            "gpu_min_used": round(max(budget.gpu_min_used, total_min), 3),
        }
        return budget.model_copy(update=counted)

    update(state.layout, Budget, names.BUDGET, count)


def _load_experiments(state: RunState) -> Experiments:
    if not state.layout.document(names.EXPERIMENTS).is_file():
        return Experiments()
    return read_document(state.layout, Experiments, names.EXPERIMENTS)


def _optional(state: RunState, kind: type[D], path_id: str, name: str) -> D | None:
    file = state.layout.path(path_id, name)
    if not file.is_file():
        return None
    document = load(file, source=f"{names.path_folder(path_id)}/{name}")
    return document if isinstance(document, kind) else None
