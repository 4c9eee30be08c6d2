"""clarify: TASK.md → TASK.md with every high-impact unknown answered or assumed, and BUDGET.md.

Asks at most four bundled questions when somebody is there; otherwise takes defaults, writes each as
an assumption with its reason, and notifies ``approval_required``. Spends nothing.
"""

from __future__ import annotations

from typing import Any

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import BUDGET, TASK
from ml_intern_cli.documents.model import PublishTarget
from ml_intern_cli.documents.task import Assumption, Impact, Task
from ml_intern_cli.quantities import format_duration, parse_duration, parse_params
from ml_intern_cli.stages.base import Caps, Ref, Stage, StageContext, StageResult

_DEFAULT_TIME_BUDGET_S = 2 * 3600.0
_DEFAULT_RETRIES = 2

_KEPT = {
    "paths_launched",
    "gpu_min_used",
    "retries_used",
    "usd_used",
    "model_use",
    "max_usd",
    "max_model_tokens",
    "max_model_calls",
}
_SCALE_HEADROOM = 1.15  # the drift that verification allows


def run(context: StageContext) -> StageResult:
    """Settle what is open."""
    task = context.read(Task, TASK)
    questions = context.brain.questions(task)
    answers = context.ask(questions) if questions and context.ask else {}
    assumed: list[Assumption] = []
    changes: dict[str, Any] = {}
    for question in questions:
        answer, why = answers.get(question.name), "you said so"
        if answer is None:
            answer, why = question.default, question.why_default
            if question.name == "dataset":
                answer, why = _default_dataset(context)
            assumed.append(Assumption(name=question.name, value=answer, why=why))
        changes |= _field(question.name, answer)
    settled = task.model_copy(
        update={
            **changes,
            "unknowns": tuple(one for one in task.unknowns if one.impact is not Impact.HIGH),
            "assumptions": (*_others(task, assumed), *assumed),
        }
    )
    settled = Task.model_validate(settled.model_dump())
    before = context.read(Budget, BUDGET) if context.layout.document(BUDGET).is_file() else None
    budget = _budget(settled, context.caps, before)
    events = [
        ("budget_set", f"{format_duration(budget.compute_cap * 3600)} of compute, {budget.max_paths} paths")
    ]
    if assumed and context.ask is None:
        line = "; ".join(f"{one.name} = {one.value} ({one.why})" for one in assumed)
        events.append(("approval_required", f"{context.layout.slug}: {line}"))
    return StageResult(
        summary=_summary(assumed, budget),
        documents={TASK: settled, BUDGET: budget},
        details=_warnings(context, settled),
        notify=tuple(events),
    )


def _others(task: Task, assumed: list[Assumption]) -> tuple[Assumption, ...]:
    names = {one.name for one in assumed}
    return tuple(one for one in task.assumptions if one.name not in names)


def _default_dataset(context: StageContext) -> tuple[str, str]:
    from ml_intern_cli.data.sources import default_dataset

    return default_dataset(context.hub)


def _field(name: str, answer: str) -> dict[str, Any]:
    """The field of Task that an answer sets; a success metric or the like has no typed field."""
    match name:
        case "params":
            return {"params": parse_params(answer)}
        case "time_budget_s":
            return {"time_budget_s": parse_duration(answer)}
        case "dataset" | "metric" | "method":
            return {name: answer}
        case _:
            return {}


def _budget(task: Task, caps: Caps, before: Budget | None) -> Budget:
    """The caps: what options say, else what BUDGET.md says already, else what follows from the task."""
    params = task.params or 0
    max_paths = caps.max_paths or (before.max_paths if before else 2 if task.several_paths else 1)
    max_retries = caps.max_retries
    if max_retries is None:
        max_retries = before.max_retries_per_path if before else _DEFAULT_RETRIES
    # A sentence's tokens are what one model is trained on; the cap is over the whole run, retries too.
    tokens = task.tokens * max_paths * (1 + max_retries) if task.tokens else None
    spent = before.model_dump(include=_KEPT) if before else {}
    usd = caps.max_usd if caps.max_usd is not None else task.max_usd
    if usd is not None:
        spent["max_usd"] = usd
    return Budget(
        max_paths=max_paths,
        max_retries_per_path=max_retries,
        compute_cap=(task.time_budget_s or _DEFAULT_TIME_BUDGET_S) / 3600,
        scale_ceiling=round(params * _SCALE_HEADROOM),
        token_budget=caps.token_budget or tokens or (before.token_budget if before else None),
        **spent,
    )


def _summary(assumed: list[Assumption], budget: Budget) -> str:
    cap = f"{format_duration(budget.compute_cap * 3600)} of compute"
    if not assumed:
        return f"nothing assumed · {cap}"
    listed = ", ".join(f"{one.name} = {one.value}" for one in assumed)
    return f"{len(assumed)} assumption{'s' * (len(assumed) > 1)}: {listed} · {cap}"


def _warnings(context: StageContext, task: Task) -> tuple[str, ...]:
    if task.publish is not PublishTarget.HUB or (context.hub.token and not context.hub.offline):
        return ()
    why = "HF_HUB_OFFLINE is set" if context.hub.offline else "no HF_TOKEN"
    return (f"{why}: the run will stop before publishing; --publish folder finishes here",)


STAGE = Stage(
    name="clarify",
    title="settle what the sentence leaves open, and the budget",
    reads=(Ref(TASK, "work"),),
    writes=(TASK, BUDGET),
    run=run,
)
