"""EXPERIMENTS.md: the ledger, one row per path, in the seed's eight columns."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Loss, Minutes, Model, PathId, refuse_duplicates
from ml_intern_cli.documents.parts import Records


class PathStatus(StrEnum):
    """Where a path stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    DROPPED = "dropped"


class Experiment(Model):
    """One row. Empty cells are ``None``; ``verify`` is "all-pass" or the first failing check."""

    path_id: PathId
    approach: str
    status: PathStatus
    final_loss: Loss | None = None  # recomputed eval loss
    verify: str | None = None
    failure_cause: str | None = None
    retry_of: PathId | None = None
    gpu_min: Minutes = Field(default=0.0, ge=0)


class Experiments(Model):
    """All rows, oldest first."""

    rows: tuple[Experiment, ...] = ()

    @field_validator("rows")
    @classmethod
    def _one_row_per_path(cls, rows: tuple[Experiment, ...]) -> tuple[Experiment, ...]:
        refuse_duplicates(row.path_id for row in rows)
        return rows


_FORM = Form(
    Experiments,
    sections={
        None: (
            Records(
                "rows", Experiment, key="path_id", labels={"approach": "approach (one line)"}, always=True
            ),
        )
    },
)
parse = _FORM.parse
render = _FORM.render
