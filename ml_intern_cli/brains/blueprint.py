"""The brain that needs no language model: it reads sentences by rules and builds from blueprints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from string import ascii_lowercase

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.diagnosis import diagnose
from ml_intern_cli.brains.protocol import (
    Diagnosis,
    Evidence,
    Implementation,
    Overrides,
    PathIdea,
    Question,
    Workbench,
)
from ml_intern_cli.brains.reader import Field, Reading, read
from ml_intern_cli.brains.restatement import DEFAULT_METRIC, require_clear, restate
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import CONFIG, EVAL_PY, MODEL_PY, TRAIN_CONFIG, TRAIN_PY
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.research import Finding, Research
from ml_intern_cli.documents.task import Impact, Task
from ml_intern_cli.errors import Blocked, InvalidInput
from ml_intern_cli.quantities import format_duration, format_params
from ml_intern_cli.resources import resource

_DEFAULT_PARAMS = 10_000_000
_MOST_QUESTIONS = 4
_ANOTHER_BRAIN = (
    "let a language model build it: --brain anthropic with ANTHROPIC_API_KEY, or --brain openai with "
    "OPENAI_API_KEY or OPENAI_BASE_URL"
)
_TRAIN_FIELDS = (
    "steps", "micro_batch", "accumulation", "learning_rate", "min_learning_rate", "warmup_steps", "schedule",
    "weight_decay", "beta1", "beta2", "grad_clip", "precision", "compile", "num_threads", "eval_every",
    "checkpoint_every", "seed",
)  # fmt: skip
_QUESTIONS = (
    Question(
        name="dataset",
        text="Which data should it learn from?",
        default="roneneldan/TinyStories",
        why_default="simple stories that small models learn; the built-in ones where the Hub does not answer",
        choices=("roneneldan/TinyStories", "builtin:stories", "a Hub id", "a file or directory"),
    ),
    Question(
        name="params",
        text="How many parameters should it have?",
        default=format_params(_DEFAULT_PARAMS),
        why_default="large enough to write sentences, small enough to train on a CPU",
        choices=("1M", "10M", "100M"),
    ),
    Question(
        name="time_budget_s",
        text="How much time may the whole run take?",
        default=format_duration(3600 * float(Budget.model_fields["compute_cap"].default)),
        why_default="the default cap of BUDGET.md",
        choices=("5 min", "30 min", "2 h"),
    ),
    Question(
        name="metric",
        text="What is success measured by?",
        default=DEFAULT_METRIC,
        why_default="every path is verified by it, and the lowest among those that pass wins",
    ),
)


class BlueprintBrain:
    """Deterministic and offline: the same sentence gives the same task, paths, code and diagnosis.

    Args:
        root: The folder of blueprints; ``None`` is the shipped one.
    """

    name = "blueprint"

    def __init__(self, *, root: Path | None = None) -> None:
        self._root = root

    def restate(self, request: str, *, overrides: Overrides) -> Task:
        """What the sentence asks for. See Brain.restate."""
        reading = read(
            request,
            spellings=blueprints.spellings(root=self._root),
            arxiv_ids=blueprints.arxiv_ids(root=self._root),
        )
        architecture = reading.text(Field.ARCHITECTURE)
        if architecture is None:
            raise self._no_blueprint(reading)
        blueprint = blueprints.load(architecture, root=self._root)
        methods = [method for method in reading.values(Field.METHOD) if method != "pretraining"]
        if methods:
            raise _unsupported_methods(methods, blueprint.TITLE)
        require_clear(reading, overrides)
        return restate(reading, overrides, blueprint)

    def questions(self, task: Task) -> tuple[Question, ...]:
        """One for each high-impact unknown."""
        open_names = {unknown.name for unknown in task.unknowns if unknown.impact is Impact.HIGH}
        return tuple(question for question in _QUESTIONS if question.name in open_names)[:_MOST_QUESTIONS]

    def research(self, task: Task) -> Research:
        """What the blueprint's author read, and where its recipe comes from."""
        blueprint = blueprints.load(task.blueprint, root=self._root)
        params = task.params or _DEFAULT_PARAMS
        recipe = blueprint.recipe(blueprint.solve(params, seq_len=task.seq_len), tokens=task.tokens)
        recipe_findings = (
            Finding(text=f"{name}: {source}", url=_url(source, blueprint))
            for name, source in recipe.sources.items()
        )
        return Research(
            question=f"How is {blueprint.TITLE} built and trained at {format_params(params)} parameters?",
            findings=(*(Finding(text=text, url=url) for text, url in blueprint.SOURCES), *recipe_findings),
        )

    def paths(self, task: Task, research: Research, *, max_paths: int) -> tuple[PathIdea, ...]:
        """The blueprint's variants, the preferred one first."""
        del research  # the variants are what the blueprint has
        if task.starts_from is not None:  # the plain blueprint in its place would be another thing
            raise Blocked(
                f"no blueprint for {task.architecture}",
                why=f"it is to be built from {task.starts_from}, and only a language model can do that",
                ways_on=(_ANOTHER_BRAIN,),
            )
        blueprint = blueprints.load(task.blueprint, root=self._root)
        return tuple(
            PathIdea(
                id=letter,
                variant=name,
                approach=variant.approach,
                hypothesis=variant.hypothesis,
                why=variant.why,
            )
            for letter, (name, variant) in zip(ascii_lowercase, blueprint.VARIANTS.items(), strict=False)
        )[:max_paths]

    def start(self, path: PathPlan, plan: Plan) -> dict[str, str]:
        """The shipped programs as they are, and the plan's numbers beside them.

        Raises:
            InvalidInput: PLAN.md names an architecture or a variant that there is not.
        """
        blueprint = blueprints.load(plan.blueprint, root=self._root)
        variant = blueprint.VARIANTS.get(path.variant)
        if variant is None:
            raise InvalidInput(
                f"PLAN.md: path {path.id}: variant: {blueprint.TITLE} has no {path.variant!r}",
                hint=f"write one of: {', '.join(blueprint.VARIANTS)}",
            )
        model = blueprints.folder(plan.blueprint, root=self._root) / variant.file
        return {
            MODEL_PY: model.read_text(encoding="utf-8"),
            TRAIN_PY: resource("templates", TRAIN_PY).read_text(encoding="utf-8"),
            EVAL_PY: resource("templates", EVAL_PY).read_text(encoding="utf-8"),
            CONFIG: _json({**blueprint.CONFIG_EXTRAS, **plan.config}),
            TRAIN_CONFIG: _json(_train_config(path, plan)),
        }

    def implement(
        self, path: PathPlan, plan: Plan, task: Task, research: Research, bench: Workbench
    ) -> Implementation:
        """What the path starts from is what it is.

        Raises:
            Blocked: other code is needed.
        """
        del task, research
        if bench.written is not None:
            return bench.written
        if bench.postmortem is not None and bench.postmortem.rewrite:
            raise self._cannot_write(f"path {path.id} needs other code: {bench.postmortem.fix}")
        if (
            path.variant not in blueprints.load(plan.blueprint, root=self._root).VARIANTS
            and not path.retry_of
        ):
            raise self._cannot_write(f"path {path.id} ({path.approach}) has no code yet")
        return Implementation(files=bench.start)

    def diagnose(self, evidence: Evidence) -> Diagnosis:
        """Why a path failed, and what its retry changes."""
        return diagnose(evidence)

    def settle(self, stage: str, path_id: str | None) -> None:
        """Nothing is kept between two answers."""
        del stage, path_id

    @staticmethod
    def _cannot_write(what: str) -> Blocked:
        return Blocked(
            what,
            why="without a language model code is copied, not written",
            ways_on=(
                _ANOTHER_BRAIN,
                "write it yourself into the path's folder and run the same command again",
            ),
        )

    def _no_blueprint(self, reading: Reading) -> Blocked:
        known = self._titles(blueprints.names(root=self._root))
        unclear = next((one for one in reading.conflicts if one.field is Field.ARCHITECTURE), None)
        subjects = unclear.said if unclear else reading.not_understood
        near = self._titles(
            name for subject in subjects for name in blueprints.suggestions(subject, root=self._root)
        )
        if unclear:
            what, why = "the sentence does not name one known architecture", unclear.message
        else:
            named = ", ".join(map(repr, subjects))
            what = f"no blueprint for {named}" if named else "the sentence names no architecture"
            why = f"without a language model only blueprints can be built: {', '.join(known)}"
        size = format_params(reading.count(Field.PARAMS) or _DEFAULT_PARAMS)
        example = f'ml-intern run "implement {(near or known)[0]} at {size}"'
        return Blocked(
            what,
            why=why,
            ways_on=(
                f"name a known one{f', such as {near[0]}' if near else ''}: {example}",
                "see every known one: ml-intern blueprints",
                _ANOTHER_BRAIN,
            ),
        )

    def _titles(self, names: Iterable[str]) -> list[str]:
        return [blueprints.load(name, root=self._root).TITLE for name in dict.fromkeys(names)]


def _unsupported_methods(methods: list[str | int | float], title: str) -> Blocked:
    return Blocked(
        f"{' and '.join(map(str, methods))} cannot be done from a blueprint",
        why="a blueprint trains a model from random initialisation, and nothing else",
        ways_on=(
            f'pretrain instead, if that is what you want: ml-intern run "pretrain {title} …"',
            _ANOTHER_BRAIN,
        ),
    )


def _url(source: str, blueprint: blueprints.Blueprint) -> str:
    """The paper that a source names, else the blueprint's card, which says how it was measured."""
    paper = re.search(r"[0-9]{4}\.[0-9]{4,5}", source)
    if paper:
        return f"https://arxiv.org/abs/{paper.group()}"
    return f"blueprints/{blueprint.NAME.replace('-', '_')}/card.md"


def _train_config(path: PathPlan, plan: Plan) -> dict[str, object]:
    numbers = path.model_dump(mode="json")
    return {
        "data_dir": "../data",
        "seq_len": plan.seq_len,
        **{name: numbers[name] for name in _TRAIN_FIELDS},
        "time_limit_s": path.slice_s,
    }


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, indent=2) + "\n"
