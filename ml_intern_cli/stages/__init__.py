"""The pipeline, in the order it runs. Each stage has a module of its own."""

from __future__ import annotations

from ml_intern_cli.stages import (
    clarify,
    diagnose,
    implement,
    plan,
    publish,
    report,
    research,
    restate,
    smoke,
    train,
    verify,
)
from ml_intern_cli.stages.base import Stage

PLANNING: tuple[Stage, ...] = (restate.STAGE, clarify.STAGE, research.STAGE, plan.STAGE)
PATH_STAGES: tuple[Stage, ...] = (implement.STAGE, smoke.STAGE, train.STAGE, verify.STAGE)
DIAGNOSE: Stage = diagnose.STAGE
WRAPPING_UP: tuple[Stage, ...] = (report.STAGE, publish.STAGE)

STAGES: dict[str, Stage] = {stage.name: stage for stage in (*PLANNING, *PATH_STAGES, DIAGNOSE, *WRAPPING_UP)}
