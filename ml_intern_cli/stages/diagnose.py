"""diagnose: a failed path's files → POSTMORTEM.md and, budget allowing, a retry path in PLAN.md.

Symptom → root cause → fix. The brain proposes from evidence that was read here; whether a retry
starts is decided by the caps. Spends nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import (
    BUDGET,
    LAST_CHECKPOINT,
    PLAN,
    POSTMORTEM,
    SMOKE,
    TASK,
    TRAIN_STDERR,
    VERIFY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.model import Scalar
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.quantities import format_duration
from ml_intern_cli.stages.base import D, Ref, Stage, StageContext, StageResult, read_document
from ml_intern_cli.stages.programs import tail_of
from ml_intern_cli.stages.train import ENDED, ending, last_checkpoint
from ml_intern_cli.stages.workbench import unpromised_s

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Diagnosis, Evidence

_LEAST_RETRY_S = 10.0  # under this a retry would fail for want of time


def run(context: StageContext) -> StageResult:
    """Find the cause and, if there is a fix and room for it, plan the retry."""
    plan = _without_leftover(context.layout, context.read(Plan, PLAN), context.path)
    path = plan.path(context.path)
    remaining_s = unpromised_s(context, plan)
    evidence = _evidence(context, path, remaining_s)
    diagnosis = context.brain.diagnose(evidence)
    changes = _within_token_caps(context, path, diagnosis.changes)
    refusal = _refusal(context, plan, path, diagnosis, changes, evidence, remaining_s)
    retry = None if refusal else _retry(plan, path, changes, remaining_s)
    postmortem = Postmortem(
        path=path.id,
        failed_stage=evidence.failed_stage,
        cause=diagnosis.cause,
        symptom=diagnosis.symptom,
        root_cause=diagnosis.root_cause,
        fix=diagnosis.fix if refusal is None else f"{diagnosis.fix} — no retry: {refusal}",
        changes=dict(changes),
        probe=diagnosis.probe,
        rewrite=diagnosis.rewrite,
        retry=retry.id if retry else None,
    )
    if retry is None:
        notify = ("path_failed", f"{context.layout.slug}: path {path.id} dropped: {diagnosis.cause}")
    else:
        notify = ("retry", f"{context.layout.slug}: path {retry.id} retries {path.id}: {diagnosis.fix}")
    what_now = f"retry {retry.id}: {diagnosis.fix}" if retry else f"dropped: {refusal}"
    return StageResult(
        summary=f"{diagnosis.cause} → {what_now}",
        revisions={} if retry is None else {PLAN: lambda now: _with(now, retry)},
        documents={f"{path_folder(path.id)}/{POSTMORTEM}": postmortem},
        notify=(notify,),
    )


def _without_leftover(layout: RunLayout, plan: Plan, path_id: str) -> Plan:
    """The plan without a retry that an interrupted diagnosis of this path left there, and nobody began."""

    def is_leftover(one: PathPlan) -> bool:
        return one.retry_of == path_id and not layout.path(one.id).exists()

    return plan.model_copy(update={"paths": tuple(one for one in plan.paths if not is_leftover(one))})


def _with(plan: Plan, retry: PathPlan) -> Plan:
    """The plan with the retry, in place of one that an interrupted diagnosis left there."""
    return plan.model_copy(update={"paths": (*(one for one in plan.paths if one.id != retry.id), retry)})


def _evidence(context: StageContext, path: PathPlan, remaining_s: float) -> Evidence:
    from ml_intern_cli.brains.protocol import Evidence

    layout = context.layout
    smoke = _optional(layout, Smoke, path.id, SMOKE)
    verify = _optional(layout, Verify, path.id, VERIFY)
    if smoke is not None and not smoke.passed:
        failed_stage = "smoke"
    elif ending(layout, path.id).get("failed"):
        failed_stage = "train"
    else:
        failed_stage = "verify"
    return Evidence(
        path=path,
        folder=layout.path(path.id),
        failed_stage=failed_stage,
        before=_optional(layout, Postmortem, path.retry_of, POSTMORTEM) if path.retry_of else None,
        smoke=smoke,
        verify=verify if failed_stage == "verify" else None,
        last=last_checkpoint(layout, path.id) or None,
        exit_code=ending(layout, path.id).get("exit_code"),
        stderr_tail=tail_of(layout.path(path.id, TRAIN_STDERR), lines=80),
        log_tail=tail_of(layout.path(path.id, "train.log"), lines=20),
        remaining_s=remaining_s,
    )


def _refusal(
    context: StageContext,
    plan: Plan,
    path: PathPlan,
    diagnosis: Diagnosis,
    changes: Mapping[str, Scalar],
    evidence: Evidence,
    remaining_s: float,
) -> str | None:
    """Why there is no retry, or None."""
    unmoved = _unmoved(context.layout, diagnosis.probe, evidence)
    if unmoved is not None:
        return f"the retry did not move {unmoved}"
    if not changes and not diagnosis.rewrite:
        return (
            f"no deterministic fix; edit {path_folder(path.id)}/ and run: ml-intern run {context.layout.slug}"
        )
    return _capped(context, plan, path, changes, remaining_s)


def _capped(
    context: StageContext, plan: Plan, path: PathPlan, changes: Mapping[str, Scalar], remaining_s: float
) -> str | None:
    """The cap that does not admit a retry, or None."""
    budget = context.read(Budget, BUDGET)
    origin = path.retry_of or path.id
    used = sum(
        other.retry_of is not None and _origin(plan, other) == _origin(plan, path) for other in plan.paths
    )
    task = context.read(Task, TASK)
    asked = task.steps is not None or task.tokens is not None
    if asked and int(changes.get("steps", path.steps)) < path.steps:
        return f"TASK.md asks for {path.steps:,} steps, and the fix needs fewer"
    consumed = sum(int(last_checkpoint(context.layout, one.id).get("tokens", 0)) for one in plan.paths)
    retry_tokens = int(changes.get("steps", path.steps)) * plan.tokens_per_step(path)
    if budget.token_budget is not None and consumed + retry_tokens > budget.token_budget:
        return f"{consumed:,} of {budget.token_budget:,} tokens are spent"
    if used >= budget.max_retries_per_path:
        return f"{used} of {budget.max_retries_per_path} retries of path {origin} are used"
    if remaining_s < _LEAST_RETRY_S:
        return f"{format_duration(max(0.0, remaining_s))} of compute is left"
    return None


def _unmoved(layout: RunLayout, probe: str | None, evidence: Evidence) -> str | None:
    """The probe that a retry was to mend and left as it was, or None."""
    before, retried = evidence.before, evidence.path.retry_of
    if probe is None or before is None or retried is None or before.probe != probe:
        return None
    if before.failed_stage != "smoke" or evidence.smoke is None:
        return probe  # verification measures another number each time; the same check twice is enough
    old = _optional(layout, Smoke, retried, SMOKE)
    same = old is not None and _measured(old, probe) == _measured(evidence.smoke, probe)
    return probe if same else None


def _measured(smoke: Smoke, probe: str) -> str | None:
    return next((one.measured for one in smoke.probes if one.name == probe), None)


def _within_token_caps(
    context: StageContext, path: PathPlan, changes: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """The changes without more training than was asked for: a fix never widens the task or the budget."""
    task, budget = context.read(Task, TASK), context.read(Budget, BUDGET)
    is_capped = (task.tokens, task.steps, budget.token_budget) != (None, None, None)
    if is_capped and int(changes.get("steps", path.steps)) > path.steps:
        return {name: value for name, value in changes.items() if name not in {"steps", "warmup_steps"}}
    return dict(changes)


def _origin(plan: Plan, path: PathPlan) -> str:
    """The path that a chain of retries began with, or the last of it that a person left in the plan."""
    known, seen = {one.id: one for one in plan.paths}, {path.id}
    while path.retry_of in known and path.retry_of not in seen:
        path = known[path.retry_of]
        seen.add(path.id)
    return path.id


def _retry(plan: Plan, path: PathPlan, changes: Mapping[str, Scalar], remaining_s: float) -> PathPlan:
    """The failed path with the fix applied, under the next free id."""
    origin = _origin(plan, path)
    number = 2 + sum(other.retry_of is not None and _origin(plan, other) == origin for other in plan.paths)
    fields = path.model_dump() | {"slice_s": min(path.slice_s, remaining_s)} | dict(changes)
    return PathPlan.model_validate(fields | {"id": f"{origin}{number}", "retry_of": path.id})


def _optional(layout: RunLayout, kind: type[D], path_id: str, name: str) -> D | None:
    return (
        read_document(layout, kind, f"{path_folder(path_id)}/{name}")
        if layout.path(path_id, name).is_file()
        else None
    )


STAGE = Stage(
    name="diagnose",
    title="explain a failed path, and retry it with the fix",
    reads=(
        Ref(f"{{path}}/{SMOKE}"),
        Ref(f"{{path}}/{VERIFY}"),
        Ref(f"{{path}}/{LAST_CHECKPOINT}"),
        Ref(f"{{path}}/{ENDED}"),
        Ref(BUDGET, "retries"),
    ),
    writes=(f"{{path}}/{POSTMORTEM}",),
    run=run,
    per_path=True,
)
