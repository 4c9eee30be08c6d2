"""The brain that asks a language model where fixed rules do not suffice.

What a blueprint is exactly, is read, planned and built as the offline brain does it: that is tested, costs
nothing and cannot be misread. The model is asked for the rest: what a sentence means, what is known of
something new, how to build it, and what to change in code that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.agent.loop import Agent, ServiceFailed
from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.language_model.diagnosing import diagnose_with
from ml_intern_cli.brains.language_model.implementing import implement_with
from ml_intern_cli.brains.language_model.planning import paths_with
from ml_intern_cli.brains.language_model.researching import research_with
from ml_intern_cli.brains.language_model.restating import restate_with
from ml_intern_cli.brains.protocol import (
    Diagnosis,
    Evidence,
    Implementation,
    Overrides,
    PathIdea,
    Question,
    Workbench,
)
from ml_intern_cli.brains.reader import Field, read
from ml_intern_cli.brains.restatement import require_clear
from ml_intern_cli.brains.tools.tool import Tool
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.task import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelBrain:
    """Asks a model, inside the walls and the budget.

    Attributes:
        name: As ``--brain`` takes it.
        agent: Who plans, writes and diagnoses.
        researcher: Who reads and looks things up; a cheaper model will do.
        rules: The offline brain.
        lookups: Tools of research; empty where there is no network.
        missed: What these could not reach, a line each.
        why_no_lookups: What is then said in RESEARCH.md.
        further: The user's own tools (MCP), for research and writing.
        falls_back: When the model's service fails for good, go on with the rules.
        note: Tells the user something that belongs to no stage.
        root: The folder of blueprints; ``None`` is the shipped one.
    """

    name: str
    agent: Agent
    researcher: Agent
    rules: BlueprintBrain
    lookups: tuple[Tool, ...]
    missed: Callable[[], Sequence[str]]
    why_no_lookups: str
    further: tuple[Tool, ...]
    falls_back: bool
    note: Callable[[str], None]
    root: Path | None = None

    def restate(self, request: str, *, overrides: Overrides) -> Task:
        """What the sentence asks for. See Brain.restate."""
        reading = read(
            request,
            spellings=blueprints.spellings(root=self.root),
            arxiv_ids=blueprints.arxiv_ids(root=self.root),
        )
        is_clear = reading.text(Field.ARCHITECTURE) is not None and not reading.not_understood
        if is_clear:
            return self.rules.restate(request, overrides=overrides)
        require_clear(reading, overrides)
        return self._ask(
            lambda: restate_with(self.agent, reading, overrides, root=self.root),
            instead=lambda: self.rules.restate(request, overrides=overrides),
        )

    def questions(self, task: Task) -> tuple[Question, ...]:
        """One for each high-impact unknown."""
        return self.rules.questions(task)

    def research(self, task: Task) -> Research:
        """What is known of the blueprint, and what was found of anything new."""
        known = self.rules.research(task)
        if task.starts_from is None:
            return known
        if not self.lookups:
            return known.model_copy(update={"not_reached": (*known.not_reached, self.why_no_lookups)})
        return self._ask(
            lambda: research_with(
                self.researcher, task, known, (*self.lookups, *self.further), missed=self.missed
            ),
            instead=lambda: known,
        )

    def paths(self, task: Task, research: Research, *, max_paths: int) -> tuple[PathIdea, ...]:
        """The blueprint's variants, or ways to build something new."""
        if task.starts_from is None:
            return self.rules.paths(task, research, max_paths=max_paths)
        variants = blueprints.load(task.blueprint, root=self.root).VARIANTS
        return self._ask(
            lambda: paths_with(self.agent, task, research, variants=variants, max_paths=max_paths),
            instead=lambda: self.rules.paths(task, research, max_paths=max_paths),
        )

    def start(self, path: PathPlan, plan: Plan) -> dict[str, str]:
        """The blueprint's code, in the variant of that name or else the preferred one."""
        variants = blueprints.load(plan.blueprint, root=self.root).VARIANTS
        variant = path.variant if path.variant in variants else next(iter(variants))
        return self.rules.start(path.model_copy(update={"variant": variant}), plan)

    def implement(
        self, path: PathPlan, plan: Plan, task: Task, research: Research, bench: Workbench
    ) -> Implementation:
        """The blueprint's code where that is the path, else what the model writes."""
        is_written = path.variant not in blueprints.load(plan.blueprint, root=self.root).VARIANTS
        needs_writing = bench.postmortem.rewrite if bench.postmortem is not None else is_written
        if not needs_writing or bench.written is not None:
            return self.rules.implement(path, plan, task, research, bench)
        return self._ask(
            lambda: implement_with(self.agent, path, plan, task, research, bench, self.further),
            instead=lambda: self.rules.implement(path, plan, task, research, bench),
        )

    def diagnose(self, evidence: Evidence) -> Diagnosis:
        """What the rules can mend by numbers, else what the model finds in code and logs."""
        by_rules = self.rules.diagnose(evidence)
        if by_rules.changes:
            return by_rules
        return self._ask(
            lambda: diagnose_with(self.agent, evidence, by_rules),
            instead=lambda: by_rules,
        )

    def settle(self, stage: str, path_id: str | None) -> None:
        """What was answered to that stage is written down."""
        self.agent.session.settle(stage if path_id is None else f"{stage} {path_id}")

    def _ask(self, ask: Callable[[], T], *, instead: Callable[[], T]) -> T:
        """The model's answer, or that of the rules where the model cannot be had and the user said so."""
        try:
            return ask()
        except ServiceFailed as error:
            if not self.falls_back:
                raise
            self.note(f"{error.what} ({error.why}); going on with the blueprint brain")
            return instead()
