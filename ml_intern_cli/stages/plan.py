"""plan: TASK.md + BUDGET.md + RESEARCH.md → data/ and PLAN.md, every number fixed.

Opens the dataset, fits the tokenizer, solves the sizing, measures this machine with the path's own
training program, and fills each path's slice of the cap. Spends the calibration. Stops (Blocked)
when the dataset cannot be had, the model does not fit, or what was asked for does not fit the cap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.blueprints import Blueprint, Sizing
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import (
    BUDGET,
    CONFIG,
    EVAL_PY,
    LAST_CHECKPOINT,
    MANIFEST,
    MODEL_PY,
    PLAN,
    RESEARCH,
    TASK,
    TRAIN_CONFIG,
    TRAIN_PY,
    RunLayout,
)
from ml_intern_cli.documents.manifest import Manifest, Split
from ml_intern_cli.documents.plan import PathPlan, Plan, PlannedFile, Precision, Source
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.task import Task
from ml_intern_cli.errors import Blocked, InvalidInput
from ml_intern_cli.quantities import format_count, format_duration, format_params
from ml_intern_cli.stages.base import Check, Progress, Ref, Stage, StageContext, StageResult
from ml_intern_cli.stages.calibration import Speed, measure
from ml_intern_cli.stages.fitting import Wish, fit

if TYPE_CHECKING:
    from ml_intern_cli.data.sources import TextSource
    from ml_intern_cli.documents.manifest import TokenizerInfo

_BYTES_PER_PARAM = 16  # fp32 weights, gradients and two moments of AdamW
_EVAL_SHARE = 0.05  # of the training tokens, for each of val and heldout
_EVAL_TOKENS = (20_000, 200_000)  # at least, at most
_MOST_EPOCHS = 4  # where the user named neither steps nor tokens
_CALIBRATION_SHARE = 0.04  # of the cap, per path
_CALIBRATION_S = (6.0, 60.0)
_FULL = 0.5  # of a slice: less than that of training does not fill it
_NUMBER = {"min_learning_rate_ratio": "min_learning_rate", "warmup_fraction": "warmup_steps"}
"""The number of a plan that a part of a recipe becomes."""
_FILES = (
    PlannedFile(name=MODEL_PY, purpose="the architecture, self-contained"),
    PlannedFile(name=CONFIG, purpose="the architecture's configuration"),
    PlannedFile(name=TRAIN_PY, purpose="the training program, stand-alone"),
    PlannedFile(name=TRAIN_CONFIG, purpose="every training number of this plan"),
    PlannedFile(name=EVAL_PY, purpose="evaluation and samples, stand-alone"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What is fixed before anything is measured."""

    blueprint: Blueprint
    source: TextSource
    tokenizer: TokenizerInfo
    sizing: Sizing
    notes: tuple[str, ...]  # for the user: what could not be had as preferred


def run(context: StageContext) -> StageResult:
    """Fix every number."""
    task, budget = context.read(Task, TASK), context.read(Budget, BUDGET)
    prepared = _prepare(context, task, budget)
    draft = _draft(context, task, budget, prepared)
    seconds = calibration_s(budget)
    brain = context.brain
    speeds = [
        measure(context, path, draft, files=brain.start(path, draft), seconds=seconds) for path in draft.paths
    ]
    wish = wish_of(task, budget, prepared.blueprint, prepared.sizing)

    def plan_with(wish: Wish) -> Plan:
        remaining_s = context.compute.remaining_s()
        paths = fit(draft, speeds, wish, remaining_s=remaining_s, slug=context.layout.slug)
        return _plan(draft, paths, speeds, wish)

    plan = plan_with(wish)
    manifest = _write_data(context, prepared, plan)
    wish = for_data(wish, manifest)
    if wish.worthwhile_tokens is not None and plan.tokens_per_path > wish.worthwhile_tokens:
        plan = plan_with(wish)
    plan = plan.model_copy(update={"dataset_revision": manifest.revision})
    count = f"{len(plan.paths)} path{'s' * (len(plan.paths) > 1)}"
    return StageResult(
        summary=f"{count} · {plan.summary}",
        documents={PLAN: plan},
        details=prepared.notes,
        notify=(("plan_ready", f"{context.layout.slug}: {count}, {plan.summary}"),),
    )


def wish_of(task: Task, budget: Budget, blueprint: Blueprint, sizing: Sizing) -> Wish:
    """What the user limits, before the data are there."""
    return Wish(
        steps=task.steps,
        tokens=task.tokens,
        token_budget=budget.token_budget,
        worthwhile_tokens=None,
        recipe=lambda tokens: blueprint.recipe(sizing, tokens=tokens),
    )


def for_data(wish: Wish, manifest: Manifest) -> Wish:
    """The wish, with what the data are good for where the user did not say how long to train."""
    if wish.steps is not None or wish.tokens is not None:
        return wish
    return replace(wish, worthwhile_tokens=_MOST_EPOCHS * manifest.splits[Split.TRAIN].tokens)


def _prepare(context: StageContext, task: Task, budget: Budget) -> _Prepared:
    from ml_intern_cli.data.sources import open_source

    params = _params(task, budget)
    blueprint = blueprints.load(task.blueprint)
    _check_memory(params)
    source = open_source(
        task.dataset, column=task.dataset_column, hub=context.hub, seed=task.seed, cwd=context.cwd
    )
    tokenizer, notes = _tokenizer(context, blueprint, source, params)
    sizing = blueprint.solve(params, vocab_size=tokenizer.vocab_size, seq_len=task.seq_len)
    return _Prepared(blueprint=blueprint, source=source, tokenizer=tokenizer, sizing=sizing, notes=notes)


def _tokenizer(
    context: StageContext, blueprint: Blueprint, source: TextSource, params: int
) -> tuple[TokenizerInfo, tuple[str, ...]]:
    """The first of the blueprint's tokenizers that can be had, and what is to be said of the others."""
    from ml_intern_cli.data.tokenizers import TokenizerUnavailable, fit_tokenizer

    notes: list[str] = []
    for choice in blueprint.tokenizers(params):
        try:
            tokenizer = fit_tokenizer(
                source,
                context.layout.data,
                vocab_size=choice.vocab_size,
                hub_id=choice.hub_id,
                hub=context.hub,
                progress=_data_progress(context),
            )
        except TokenizerUnavailable as error:
            notes.append(f"{error.message}; one is trained on the data instead")
            continue
        return tokenizer, tuple(notes)
    raise AssertionError(f"{blueprint.NAME} names no tokenizer that needs no network")


def _params(task: Task, budget: Budget) -> int:
    if task.params is None:
        raise InvalidInput("TASK.md: params: not set", hint="write `params: 10M` there, or use --params 10M")
    if task.params > budget.scale_ceiling:
        raise Blocked(
            f"{format_params(task.params)} parameters are above the ceiling",
            why=f"scale_ceiling in BUDGET.md is {format_params(budget.scale_ceiling)}",
            ways_on=(
                "raise scale_ceiling in BUDGET.md and run the same command again",
                "use fewer: --params",
            ),
        )
    return task.params


def _check_memory(params: int) -> None:
    needed, total = params * _BYTES_PER_PARAM, _memory_bytes()
    if needed > total:
        raise Blocked(
            f"training {format_params(params)} parameters does not fit into this machine",
            why=f"AdamW in fp32 needs {needed / 2**30:,.0f} of {total / 2**30:,.0f} GiB",
            ways_on=("use fewer parameters: --params", "use a machine with more memory"),
        )


def _memory_bytes() -> int:
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def _draft(context: StageContext, task: Task, budget: Budget, prepared: _Prepared) -> Plan:
    """The plan with provisional numbers, enough to run the training program for a few steps."""
    sizing, tokenizer = prepared.sizing, prepared.tokenizer
    recipe = prepared.blueprint.recipe(sizing)
    seq_len = task.seq_len or recipe.seq_len
    sequences = max(1, recipe.tokens_per_step // seq_len)
    ideas = context.brain.paths(task, context.read(Research, RESEARCH), max_paths=budget.max_paths)
    paths = tuple(
        PathPlan(
            id=idea.id,
            approach=idea.approach,
            variant=idea.variant,
            hypothesis=idea.hypothesis,
            why=idea.why,
            slice_s=1.0,
            judging_s=0.0,
            steps=1,
            micro_batch=sequences,
            accumulation=1,
            learning_rate=recipe.learning_rate,
            min_learning_rate=recipe.learning_rate * recipe.min_learning_rate_ratio,
            warmup_steps=1,
            schedule=recipe.schedule,
            weight_decay=recipe.weight_decay,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            grad_clip=recipe.grad_clip,
            precision=Precision.FP32,
            num_threads=_num_threads(),
            eval_every=1,
            checkpoint_every=1,
            seed=task.seed,
            measured_tokens_per_s=1.0,
        )
        for idea in ideas
    )
    return Plan(
        summary="provisional",
        architecture=task.architecture,
        starts_from=task.starts_from,
        params_target=_params(task, budget),
        params_planned=sizing.params,
        active_params=sizing.active_params,
        dataset=prepared.source.id,
        dataset_revision=prepared.source.revision,
        tokenizer=tokenizer.source,
        vocab_size=tokenizer.vocab_size,
        seq_len=seq_len,
        tokens_per_path=1,
        success_criterion="all six checks of VERIFY.md pass; the winner has the lowest recomputed eval loss",
        files=_FILES,
        config={**sizing.config, "eos_token_id": tokenizer.eos_token_id},
        sources=(),
        paths=paths,
    )


def _plan(draft: Plan, paths: tuple[PathPlan, ...], speeds: list[Speed], wish: Wish) -> Plan:
    """The draft with its paths fixed, and where every number comes from."""
    first = paths[0]
    tokens = max(draft.tokens(path) for path in paths)
    rates = " and ".join(format_count(round(path.measured_tokens_per_s)) for path in paths)
    measured = "; ".join(
        f"path {path.id}: {speed.listed(path.micro_batch * path.accumulation)}"
        for path, speed in zip(paths, speeds, strict=False)
    )
    sources = {
        "vocab_size": f"tokenizer: {draft.tokenizer}",
        **(
            {"config": f"{draft.starts_from}'s, to start from; each path's own is its config.json"}
            if draft.starts_from
            else {}
        ),
        **{_NUMBER.get(name, name): source for name, source in wish.recipe(tokens).sources.items()},
        "steps": _why_steps(wish),
        "micro_batch": f"the fastest here, in tokens/s: {measured}",
        "precision": f"the fastest here, in tokens/s: {measured}",
    }
    steps = f"{first.steps:,} steps × {draft.tokens_per_step(first):,} tokens each"
    # Steps or tokens that were asked for may need far less than the slice, which is then only a limit.
    training_s = draft.tokens(first) / first.measured_tokens_per_s
    fills_slice = training_s > _FULL * first.slice_s
    took = format_duration(first.slice_s) if fills_slice else f"about {format_duration(training_s)}"
    return draft.model_copy(
        update={
            "summary": f"{steps} · {took} each (measured {rates} tokens/s)",
            "tokens_per_path": tokens,
            "sources": tuple(Source(number=number, source=source) for number, source in sources.items()),
            "paths": paths,
        }
    )


def _why_steps(wish: Wish) -> str:
    if wish.steps is not None or wish.tokens is not None:
        return "as TASK.md asks"
    if wish.worthwhile_tokens is not None:
        return f"{_MOST_EPOCHS} passes over the data; further ones teach little (arXiv 2305.16264)"
    capped = "" if wish.token_budget is None else ", and within token_budget of BUDGET.md"
    return f"fills the path's slice at the measured speed, with a tenth to spare{capped}"


def _write_data(context: StageContext, prepared: _Prepared, plan: Plan) -> Manifest:
    from ml_intern_cli.data.shards import write_shards

    least, most = _EVAL_TOKENS
    # One window more than an epoch needs, because the sampler shifts its windows every epoch.
    train_tokens = plan.tokens_per_path + 2 * plan.seq_len
    manifest = write_shards(
        prepared.source,
        context.layout.data,
        tokenizer=prepared.tokenizer,
        train_tokens=train_tokens,
        eval_tokens=max(least, min(most, int(_EVAL_SHARE * train_tokens))),
        progress=_data_progress(context),
    )
    step = max(path.micro_batch * path.accumulation for path in plan.paths) * (plan.seq_len + 1)
    have = manifest.splits[Split.TRAIN].tokens
    if have < step:
        raise InvalidInput(
            f"the dataset is smaller than one batch: {have:,} training tokens, a step takes {step:,}",
            hint="use more text, or a shorter --seq-len",
        )
    return manifest


def calibration_s(budget: Budget) -> float:
    """How long to time one path's training steps, in seconds."""
    least, most = _CALIBRATION_S
    return max(least, min(most, _CALIBRATION_SHARE * budget.compute_cap * 3600))


def _num_threads() -> int:
    """Physical cores this process may use; hyper-threads slow matrix products down."""
    import psutil

    allowed = len(psutil.Process().cpu_affinity() or [0])
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _data_progress(context: StageContext) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, what: str) -> None:
        context.report(Progress(stage="plan", what=what, done=done, total=total))

    return report


def _check(layout: RunLayout, path_id: str | None) -> Check:
    """Data that are damaged or gone are prepared anew."""
    from ml_intern_cli.data.shards import missing_files

    del path_id
    missing = missing_files(layout.data)
    return Check(missing=f"{missing[0]} is not as data/manifest.json says" if missing else None)


def _outgrown(layout: RunLayout) -> frozenset[str]:
    """More or less time is no reason to plan anew, and lose what was trained, once training has begun."""
    has_trained = any(layout.root.glob(f"path-*/{LAST_CHECKPOINT}"))
    return frozenset({str(Ref(BUDGET, "time"))}) if has_trained else frozenset()


STAGE = Stage(
    name="plan",
    title="prepare the data and fix every number from measurement",
    reads=(Ref(TASK, "work"), Ref(BUDGET, "caps"), Ref(BUDGET, "time"), Ref(RESEARCH)),
    writes=(MANIFEST, PLAN),
    run=run,
    check=_check,
    outgrown=_outgrown,
)
