"""What every brain can do: restate a sentence, research, name candidate paths, write code, diagnose.

A brain proposes; it never measures, spends, judges or touches the run directory. The stages hand it
documents and evidence and write down what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ml_intern_cli.brains.models.message import LanguageModel, Usage
from ml_intern_cli.documents.code import Code
from ml_intern_cli.documents.model import PublishTarget, RunMode, Scalar
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.postmortem import Postmortem
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
class Implementation:
    """The programs of a path, by file name, and what their author says of them where one wrote them."""

    files: Mapping[str, str]
    code: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a failed path left behind, read by the diagnose stage.

    Attributes:
        failed_stage: "smoke", "train" or "verify".
        folder: The path's directory, to be read.
        before: Why the path failed that this one retries; ``None`` when it is the first.
        last: ``ckpts/last.json`` (step, status, reason, tokens, elapsed_s).
        exit_code: Of the training process; negative for a signal.
        remaining_s: Compute that the run's budget still has for a retry.
    """

    path: PathPlan
    folder: Path
    failed_stage: str
    before: Postmortem | None = None
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

    ``changes`` sets fields of PathPlan for the retry, ``rewrite`` says that it needs other code. Without
    either there is no retry, and ``fix`` says why.
    """

    cause: str
    symptom: str
    root_cause: str
    fix: str
    changes: Mapping[str, Scalar]
    probe: str | None = None
    rewrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Leave to call a language model once, set aside until it is settled."""

    id: str
    max_tokens: int  # of the reply; may be fewer than were wished


class Purse(Protocol):
    """The only door to spending money: asked before every call of a language model, told after it."""

    def allow(
        self, stage: str, model: LanguageModel, *, tokens_in: int, max_tokens: int, calls: int
    ) -> Allowance:
        """Set aside what the call can cost at most.

        Args:
            stage: Who asks, such as ``implement a``.
            model: What is called; its price must be known.
            tokens_in: At most, of the request.
            max_tokens: Wished for, of the reply.
            calls: Made in this conversation before.

        Raises:
            Blocked: a cap does not admit the call, the price is unknown, or the user said no.
        """
        ...

    def settle(self, allowance_id: str, usage: Usage, *, model: LanguageModel) -> None:
        """Replace what was set aside by what the service counted; twice is as good as once."""
        ...


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

    @property
    def start(self) -> Mapping[str, str]:
        """The programs that the work starts from: a blueprint's, or those of the failed path."""
        ...

    @property
    def written(self) -> Implementation | None:
        """The path's code, where it was written to this very order already: only numbers changed since."""
        ...

    @property
    def postmortem(self) -> Postmortem | None:
        """Why the path failed that this one retries; ``None`` when it is no retry."""
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

    def paths(self, task: Task, research: Research, *, max_paths: int) -> tuple[PathIdea, ...]:
        """Distinct candidate solutions, the most promising first."""
        ...

    def start(self, path: PathPlan, plan: Plan) -> dict[str, str]:
        """What a path starts from, without thinking: model.py, train.py, eval.py and two configurations.

        They run, so that this machine can be measured with them before any code is written.
        """
        ...

    def implement(
        self, path: PathPlan, plan: Plan, task: Task, research: Research, bench: Workbench
    ) -> Implementation:
        """The path's programs: model.py, train.py, eval.py, config.json and train_config.json."""
        ...

    def diagnose(self, evidence: Evidence) -> Diagnosis:
        """Why a path failed, and what its retry changes."""
        ...

    def settle(self, stage: str, path_id: str | None) -> None:
        """What was answered to that stage is written down."""
        ...
