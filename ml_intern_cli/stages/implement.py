"""implement: PLAN.md → the path's programs and configurations; every program compiles.

Files that the user edited are kept; a configuration is merged field by field. Spends nothing.
"""

from __future__ import annotations

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import (
    BUDGET,
    CONFIG,
    EVAL_PY,
    MANIFEST,
    MODEL_PY,
    PLAN,
    TRAIN_CONFIG,
    TRAIN_PY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.errors import Blocked, InvalidInput, MlInternError
from ml_intern_cli.stages.base import Ref, Stage, StageContext, StageResult

FILES = (MODEL_PY, CONFIG, TRAIN_CONFIG, TRAIN_PY, EVAL_PY)


def run(context: StageContext) -> StageResult:
    """Put complete programs into the path."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    _check_data(plan, context.layout)
    _check_cap(plan, path, context.read(Budget, BUDGET))
    files = context.brain.implement(path, plan)
    for name, text in files.items():
        if name.endswith(".py"):
            _compile(name, text, context.brain.name)
    folder = path_folder(path.id)
    return StageResult(
        summary=path.approach,
        files={f"{folder}/{name}": text for name, text in files.items()},
    )


def _check_data(plan: Plan, layout: RunLayout) -> None:
    """A plan that names other data than those that are there would be a false claim."""
    manifest = Manifest.model_validate_json(layout.document(MANIFEST).read_text(encoding="utf-8"))
    there = {
        "dataset": manifest.source,
        "dataset_revision": manifest.revision,
        "tokenizer": manifest.tokenizer.source,
        "vocab_size": manifest.tokenizer.vocab_size,
    }
    for name, value in there.items():
        if getattr(plan, name) != value:
            raise InvalidInput(
                f"PLAN.md: {name}: is {getattr(plan, name)}, but data/ holds {value}",
                hint=f"set the dataset in TASK.md and run: ml-intern run {layout.slug}",
            )


def _check_cap(plan: Plan, path: PathPlan, budget: Budget) -> None:
    """A path that was added by hand counts like any other."""
    originals = [one.id for one in plan.paths if one.retry_of is None]
    if path.id in originals[budget.max_paths :]:
        raise Blocked(
            f"path {path.id} is one more than the budget allows",
            why=f"PLAN.md has {len(originals)} paths, max_paths in BUDGET.md is {budget.max_paths}",
            ways_on=("raise max_paths in BUDGET.md", f"take path {path.id} out of PLAN.md"),
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
