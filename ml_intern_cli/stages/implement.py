"""implement: PLAN.md → the path's programs and configurations; every program compiles.

Files that the user edited are kept; a configuration is merged field by field. Code that a brain wrote is
timed on this machine, and the path's numbers in PLAN.md are fitted to that; for this and for trying
things it spends compute, from the path's own slice.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_intern_cli.brains import blueprints
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.canonical import merge
from ml_intern_cli.documents.layout import (
    BUDGET,
    CODE,
    CONFIG,
    EVAL_PY,
    MANIFEST,
    MODEL_PY,
    PLAN,
    RESEARCH,
    TASK,
    TRAIN_CONFIG,
    TRAIN_PY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.plan import PathPlan, Plan, Source
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.task import Task
from ml_intern_cli.errors import Blocked, InvalidInput, MlInternError
from ml_intern_cli.quantities import format_count
from ml_intern_cli.stages.base import Ref, Stage, StageContext, StageResult
from ml_intern_cli.stages.calibration import CannotTrain, measure
from ml_intern_cli.stages.fitting import refit
from ml_intern_cli.stages.plan import calibration_s, for_data, wish_of
from ml_intern_cli.stages.programs import lacked_memory
from ml_intern_cli.stages.workbench import PathBench, unpromised_s

FILES = (MODEL_PY, CONFIG, TRAIN_CONFIG, TRAIN_PY, EVAL_PY)


def run(context: StageContext) -> StageResult:
    """Put complete programs into the path."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    _check_data(plan, context.layout)
    _check_cap(plan, path, context.read(Budget, BUDGET))
    bench = PathBench(context, plan, path)
    task, research = context.read(Task, TASK), context.read(Research, RESEARCH)
    made = context.brain.implement(path, plan, task, research, bench)
    for name, text in made.files.items():
        if name.endswith(".py"):
            _compile(name, text, context.brain.name)
    folder = path_folder(path.id)
    files = {f"{folder}/{name}": text for name, text in made.files.items()}
    if made.code is None or made is bench.written:
        return StageResult(summary=path.approach, files=files)
    left_open = tuple(f"left open: {one}" for one in made.code.left_open)
    code = {f"{folder}/{CODE}": made.code}
    try:
        fitted = _fit_to(context, plan, path, made.files)
    except CannotTrain as error:  # for the judge to say what is wrong with it
        return StageResult(
            summary=f"{path.approach} · {made.code.author} · not timed: {error.why}",
            files=files,
            documents=code,
            details=left_open,
            out_of_memory=lacked_memory(error.why),
        )
    numbers = context.brain.start(fitted, _with(plan, fitted))[TRAIN_CONFIG]
    speed = format_count(round(fitted.measured_tokens_per_s))
    return StageResult(
        summary=f"{path.approach} · {made.code.author} · {speed} tokens/s",
        files=files | {f"{folder}/{TRAIN_CONFIG}": numbers},
        documents=code,
        revisions={PLAN: lambda now: _with(now, _as_edited(now, path, fitted))},
        details=left_open,
    )


def _fit_to(context: StageContext, plan: Plan, path: PathPlan, files: Mapping[str, str]) -> PathPlan:
    """The path with its numbers fitted to how fast its own code is."""
    task, budget = context.read(Task, TASK), context.read(Budget, BUDGET)
    blueprint = blueprints.load(plan.blueprint)
    sizing = blueprint.solve(plan.params_target, vocab_size=plan.vocab_size, seq_len=task.seq_len)
    manifest = Manifest.model_validate_json(context.layout.document(MANIFEST).read_text(encoding="utf-8"))
    speed = measure(context, path, plan, files=files, seconds=calibration_s(budget))
    return refit(
        plan,
        path,
        speed,
        for_data(wish_of(task, budget, blueprint, sizing), manifest),
        slice_s=min(path.slice_s, unpromised_s(context, plan)),
        slug=context.layout.slug,
    )


def _as_edited(now: Plan, before: PathPlan, fitted: PathPlan) -> PathPlan:
    """The fitted path with what the user changed in it while its code was written."""
    edited = next((one for one in now.paths if one.id == before.id), before)
    base, theirs, ours = (one.model_dump(mode="json") for one in (before, edited, fitted))
    return PathPlan.model_validate(merge(base, theirs, ours))


def _with(plan: Plan, fitted: PathPlan) -> Plan:
    """The plan with this path's new numbers."""
    paths = tuple(fitted if one.id == fitted.id else one for one in plan.paths)
    timed = Source(
        number="measured_tokens_per_s",
        source="with each path's own code; its micro_batch, precision and steps follow from that",
    )
    others = tuple(one for one in plan.sources if one.number != timed.number)
    return plan.model_copy(
        update={
            "paths": paths,
            "tokens_per_path": max(plan.tokens(one) for one in paths),
            "sources": (*others, timed),
        }
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
