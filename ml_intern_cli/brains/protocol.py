"""What every brain can do: restate a sentence, research, name candidate paths, write code, diagnose.

A brain proposes; it never measures, spends, judges or touches the run directory. The stages hand it
documents and evidence and write down what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ml_intern_cli.documents.model import PublishTarget, RunMode, Scalar
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the user said in options. ``None`` is not said; anything else wins over the sentence."""

    dataset: str | None = None
    dataset_column: str | None = None
    params: int | None = None
    seq_len: int | None = None
    tokens: int | None = None
    time_budget_s: float | None = None
    seed: int | None = None
    publish: PublishTarget | None = None
    mode: RunMode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One high-impact unknown, put to the user.

    Attributes:
        name: The field of Task that an answer sets.
        default: What is taken when nobody answers, written as a user would write it (``10M``, ``2 h``).
        why_default: The reason that TASK.md gives for it.
        choices: Answers worth offering; any other text is allowed too.
    """

    name: str
    text: str
    default: str
    why_default: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathIdea:
    """A candidate solution before its numbers are planned; the fields are those of PathPlan."""

    id: str
    variant: str
    approach: str
    hypothesis: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a failed path left behind, read by the diagnose stage.

    Attributes:
        failed_stage: "smoke", "train" or "verify".
        last: ``ckpts/last.json`` (step, status, reason, tokens, elapsed_s).
        exit_code: Of the training process; negative for a signal.
        remaining_s: Compute that the run's budget still has for a retry.
    """

    path: PathPlan
    failed_stage: str
    smoke: Smoke | None = None
    verify: Verify | None = None
    last: Mapping[str, object] | None = None
    exit_code: int | None = None
    stderr_tail: str = ""
    log_tail: str = ""
    remaining_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The cause of a failure and its fix; the fields are those of Postmortem.

    ``changes`` sets fields of PathPlan for the retry. It is empty when nothing can be changed, and
    ``fix`` then says why.
    """

    cause: str
    symptom: str
    root_cause: str
    fix: str
    changes: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program of a brain's ended.

    Attributes:
        exit_code: Negative for the signal that ended it.
        output: What it printed, stdout and stderr in one.
    """

    exit_code: int
    seconds: float
    out_of_time: bool
    output: str


class Workbench(Protocol):
    """Where a brain writes the code of one path and tries it, inside the walls and the budget."""

    @property
    def folder(self) -> Path:
        """The directory of the code: model.py, config.json, train.py, eval.py, train_config.json."""
        ...

    def run(self, argv: tuple[str, ...], *, limit_s: float) -> Ran:
        """Run a program in the folder: no secrets, no network, nothing writable but the folder.

        Raises:
            Blocked: the budget has no time left.
        """
        ...

    def smoke(self) -> Smoke:
        """The judge's verdict on the code as it stands. Raises as ``run``."""
        ...


class Brain(Protocol):
    """Whoever thinks."""

    @property
    def name(self) -> str:
        """As ``--brain`` takes it."""
        ...

    def restate(self, request: str, *, overrides: Overrides) -> Task:
        """What the sentence asks for, what it leaves open, and what of it was not understood.

        Raises:
            Blocked: this brain cannot do the task, or the sentence contradicts itself.
            InvalidInput: a size is negative, zero or absurd.
        """
        ...

    def questions(self, task: Task) -> tuple[Question, ...]:
        """At most four questions, one for each high-impact unknown."""
        ...

    def research(self, task: Task) -> Research:
        """What this brain knows or finds of the task's architecture, with URLs."""
        ...

    def paths(self, task: Task, *, max_paths: int) -> tuple[PathIdea, ...]:
        """Distinct candidate solutions, the most promising first."""
        ...

    def implement(self, path: PathPlan, plan: Plan) -> dict[str, str]:
        """The texts of model.py, train.py, eval.py, config.json and train_config.json, by file name."""
        ...

    def diagnose(self, evidence: Evidence) -> Diagnosis:
        """Why a path failed, and what its retry changes."""
        ...
