"""TASK.md: what was asked, what was understood, what is unknown, what was assumed."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Dollars, Model, PublishTarget, RunMode, Seconds, SeqLen
from ml_intern_cli.documents.parts import Bullets, Items, Records, Text


class TaskKind(StrEnum):
    """The kind of training that the sentence asks for."""

    PRETRAINING = "pretraining"


class Impact(StrEnum):
    """Whether an unknown can change what the user gets."""

    HIGH = "high"
    LOW = "low"


class Unknown(Model):
    """Something the sentence left open."""

    name: str
    impact: Impact
    question: str


class Assumption(Model):
    """A value nobody gave, with the reason it was taken."""

    name: str
    value: str
    why: str


class Task(Model):
    """The request. ``None`` means: not said."""

    request: str = Field(min_length=1)  # verbatim
    restatement: str  # one paragraph
    kind: TaskKind = TaskKind.PRETRAINING
    architecture: str  # a blueprint's name, such as "deepseek-v3", or the name of something new
    starts_from: str | None = None  # the blueprint that something new is built from
    params: int | None = Field(default=None, gt=0)
    dataset: str | None = None  # Hub id, local path, or builtin:stories
    dataset_column: str | None = None
    seq_len: SeqLen | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    time_budget_s: Seconds | None = Field(default=None, gt=0)
    max_usd: Dollars | None = Field(default=None, ge=0)  # for language models
    method: str = "pretraining from random initialisation"
    metric: str = "held-out cross-entropy in nats per token, recomputed"
    seed: int = Field(default=0, ge=0)
    publish: PublishTarget = PublishTarget.HUB
    mode: RunMode = RunMode.HEADLESS
    several_paths: bool = True
    unknowns: tuple[Unknown, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    not_understood: tuple[str, ...] = ()  # fragments of the sentence

    @property
    def blueprint(self) -> str:
        """The blueprint whose sizing, recipe and code the work starts from."""
        return self.starts_from or self.architecture


_FORM = Form(
    Task,
    title="Task",
    about="What was asked for and how it was understood. A dash means that nothing was said.",
    sections={
        "Request": (Text("request"),),
        "Restatement": (Text("restatement"),),
        "Understood": (
            Bullets(
                Task,
                (
                    "kind",
                    "architecture",
                    "starts_from",
                    "params",
                    "dataset",
                    "dataset_column",
                    "seq_len",
                    "tokens",
                    "steps",
                    "time_budget_s",
                    "max_usd",
                    "method",
                    "metric",
                    "seed",
                    "publish",
                    "mode",
                    "several_paths",
                ),
            ),
        ),
        "Unknowns": (Records("unknowns", Unknown),),
        "Assumptions": (Records("assumptions", Assumption),),
        "Not understood": (Items("not_understood"),),
    },
)
parse = _FORM.parse
render = _FORM.render
