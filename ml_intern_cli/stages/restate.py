"""restate: sentence → TASK.md.

Reads the sentence and the options. Spends nothing. Stops (Blocked) when the task is one that the
brain cannot do.
"""

from __future__ import annotations

from ml_intern_cli.documents.layout import TASK
from ml_intern_cli.quantities import format_params
from ml_intern_cli.stages.base import Stage, StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Restate the request as a typed task."""
    task = context.brain.restate(context.request, overrides=context.overrides)
    if task.dataset is not None:
        from ml_intern_cli.data.sources import pinned

        task = task.model_copy(update={"dataset": pinned(task.dataset, cwd=context.cwd)})
    size = f"{format_params(task.params)} parameters" if task.params else "size not named"
    data = f"dataset {task.dataset}" if task.dataset else "dataset not named"
    not_understood = tuple(f"not understood: {fragment}" for fragment in task.not_understood)
    return StageResult(
        summary=f"{task.architecture} · {task.kind} · {size} · {data}",
        documents={TASK: task},
        details=not_understood,
    )


STAGE = Stage(name="restate", title="read the sentence", reads=(), writes=(TASK,), run=run)
