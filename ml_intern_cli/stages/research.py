"""research: TASK.md → RESEARCH.md, bullets with URLs. Spends nothing."""

from __future__ import annotations

from ml_intern_cli.documents.layout import RESEARCH, TASK
from ml_intern_cli.documents.task import Task
from ml_intern_cli.stages.base import Ref, Stage, StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Collect what is known."""
    research = context.brain.research(context.read(Task, TASK))
    missed = f" · {len(research.not_reached)} not reached" if research.not_reached else ""
    return StageResult(
        summary=f"{len(research.findings)} sources{missed}",
        documents={RESEARCH: research},
        details=tuple(f"not reached: {one}" for one in research.not_reached),
    )


STAGE = Stage(
    name="research",
    title="collect what is known, with its sources",
    reads=(Ref(TASK, "work"),),
    writes=(RESEARCH,),
    run=run,
)
