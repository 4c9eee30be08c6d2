"""implement: PLAN.md → the path's programs and configurations; every program compiles.

Files that the user edited are kept; a configuration is merged field by field. Spends nothing.
"""

from __future__ import annotations

from ml_intern_cli.documents.layout import (
    CONFIG,
    EVAL_PY,
    MODEL_PY,
    PLAN,
    TRAIN_CONFIG,
    TRAIN_PY,
    path_folder,
)
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.stages.base import Ref, Stage, StageContext, StageResult

FILES = (MODEL_PY, CONFIG, TRAIN_CONFIG, TRAIN_PY, EVAL_PY)


def run(context: StageContext) -> StageResult:
    """Put complete programs into the path."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    files = context.brain.implement(path, plan)
    for name, text in files.items():
        if name.endswith(".py"):
            _compile(name, text, context.brain.name)
    folder = path_folder(path.id)
    return StageResult(
        summary=path.approach,
        files={f"{folder}/{name}": text for name, text in files.items()},
    )


def _compile(name: str, text: str, brain: str) -> None:
    try:
        compile(text, name, "exec")
    except SyntaxError as error:
        raise MlInternError(
            f"the {brain} brain wrote a {name} that does not compile: line {error.lineno}: {error.msg}"
        ) from error


STAGE = Stage(
    name="implement",
    title="write the path's programs",
    reads=(Ref(PLAN, "path:{id}"),),
    writes=tuple(f"{{path}}/{name}" for name in FILES),
    run=run,
    per_path=True,
    keeps_edits=True,
)
