"""RESULTS.md: the winner, every path side by side, and what deviates from the plan."""

from __future__ import annotations

from pydantic import field_validator

from ml_intern_cli.documents.experiments import PathStatus
from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Loss, Minutes, Model, PathId, Rate, refuse_duplicates
from ml_intern_cli.documents.parts import Bullets, Items, Records, Text


class ResultRow(Model):
    """One path in the comparison table."""

    path_id: PathId
    approach: str
    status: PathStatus
    params: int | None
    init_loss: Loss | None  # first logged training loss
    final_loss: Loss | None  # recomputed eval loss
    verify: str | None
    tokens: int | None
    tokens_per_s: Rate | None
    gpu_min: Minutes
    source: str  # the file the numbers come from


class Results(Model):
    """What came out of the run."""

    winner: PathId | None
    summary: str
    rows: tuple[ResultRow, ...]
    deviations: tuple[str, ...]  # from the plan, one line each

    @field_validator("rows")
    @classmethod
    def _one_row_per_path(cls, rows: tuple[ResultRow, ...]) -> tuple[ResultRow, ...]:
        refuse_duplicates(row.path_id for row in rows)
        return rows


_FORM = Form(
    Results,
    title="Results",
    sections={
        None: (Bullets(Results, ("winner",)),),
        "Summary": (Text("summary"),),
        "Paths": (Records("rows", ResultRow, key="path_id"),),
        "Deviations from the plan": (Items("deviations"),),
    },
)
parse = _FORM.parse
render = _FORM.render
