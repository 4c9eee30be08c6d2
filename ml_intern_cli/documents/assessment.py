"""VERIFY.md of a classifier or regressor: six sections, the first of its own kind, and the probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from ml_intern_cli.documents.draft import Draft, nearest
from ml_intern_cli.documents.form import Form, join_blocks
from ml_intern_cli.documents.markdown import Kind, Section
from ml_intern_cli.documents.model import Loss, Model, Verdict
from ml_intern_cli.documents.parts import Records, fenced, table_rows, write_cell, write_table
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.values import TEXT, field_types, quote
from ml_intern_cli.documents.verify import Judgement

Measured = Annotated[float, AfterValidator(lambda value: float(f"{value:.6g}"))]


class Task(StrEnum):
    """What is learned from labelled rows."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Score(Model):
    """One measure on the held-out rows: the model's, and those of the judge's two baselines."""

    measure: str  # accuracy, macro-f1, … or rmse, mae, r2
    model: Measured
    constant: Measured  # majority class, or mean of the training targets
    simple: Measured  # the better of logistic regression and nearest centroid, or ridge regression


class Assessment(Model):
    """The six checks and the probes. Losses are in units of the training loss. ``None``: not computed."""

    task: Task
    heldout_rows: int = Field(ge=0)
    scores: tuple[Score, ...]
    breakdown: str  # the confusion matrix, or the statistics of the residuals
    predictions: Judgement
    final_train_loss: Loss | None
    final_eval_loss: Loss | None
    plausible_high: Loss  # what a constant prediction costs
    loss: Judgement
    eval_train_gap: Loss | None  # held-out less train, signed
    tracks: Judgement
    planned_rows: int = Field(gt=0)
    consumed_rows: int = Field(ge=0)
    data: Judgement
    stderr_findings: tuple[str, ...]
    stderr: Judgement
    target_params: int | None = Field(default=None, gt=0)
    actual_params: int = Field(ge=0)
    params: Judgement
    probes: tuple[ProbeResult, ...] = ()

    @property
    def judgements(self) -> dict[str, Judgement]:
        """The six, by the name of their section."""
        return {
            "Held-out predictions": self.predictions,
            "Loss sanity": self.loss,
            "Eval tracks train": self.tracks,
            "Data consumption": self.data,
            "Stderr scan": self.stderr,
            "Param count": self.params,
        }

    @property
    def failures(self) -> dict[str, str]:
        """Why it failed, by the name of the check or probe; the checks first."""
        checks = {name: one.reason for name, one in self.judgements.items() if one.verdict is Verdict.FAIL}
        return checks | {probe.name: probe.finding for probe in self.probes if probe.failed}

    @property
    def first_failure(self) -> str | None:
        """The name of the first failing check or probe, or None when all pass."""
        return next(iter(self.failures), None)

    @property
    def passed(self) -> bool:
        """Whether all checks and probes pass."""
        return not self.failures


_SETTING = re.compile(r"([a-z][a-z_]*)\s*=\s*(.+)")
_VERDICT = re.compile(r"[*_]*VERDICT[*_]*:(?:\*\*|__)?\s*(\w*)\s*(?:[—–:-]\s*(.*))?")
_CLEAN = "clean"


@dataclass(frozen=True)
class _Check:
    """``name = value`` lines, one per field, and the verdict on them."""

    judgement: str  # the field that holds it
    fields: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.fields, self.judgement)

    def read(self, section: Section, draft: Draft) -> None:
        """Put the values and the judgement."""
        types = field_types(Assessment)
        for line, words in _plain_lines(section):
            if _put_verdict(self.judgement, line, words, draft):
                continue
            match = _SETTING.fullmatch(words.strip())
            if match and match[1] in self.fields:
                draft.put((match[1],), types[match[1]].read(match[2]), line)
            elif match and nearest(match[1], self.fields):
                draft.unknown(line, match[1], self.fields)

    def write(self, document: Model) -> str:
        """The lines and the verdict."""
        types = field_types(Assessment)
        values = [(name, types[name].write(getattr(document, name))) for name in self.fields]
        lines = [f"{name} = {value}" for name, value in values]
        return "\n".join([*lines, _write_verdict(getattr(document, self.judgement))])


@dataclass(frozen=True)
class _Predictions(_Check):
    """A table of scores and a fenced breakdown between the fields and the verdict."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.fields, "scores", "breakdown", self.judgement)

    def read(self, section: Section, draft: Draft) -> None:
        """Put the scores, the breakdown, the fields and the judgement."""
        types = field_types(Score)
        draft.put(("scores",), [], section.line)
        for line, cells in table_rows(section, draft, types):
            draft.append(("scores",), {name: types[name].read(cell) for name, cell in cells.items()}, line)
        fences = [block for block in section.blocks if block.kind is Kind.FENCE]
        draft.put(("breakdown",), fences[0].text if fences else "", section.line)
        super().read(section, draft)

    def write(self, document: Model) -> str:
        """Fields, table, fence, verdict; blank lines between."""
        assert isinstance(document, Assessment)  # noqa: S101, this part is only in the form of Assessment
        types, top = field_types(Score), field_types(Assessment)
        rows = [[write_cell(types[name], getattr(one, name)) for name in types] for one in document.scores]
        parts = [
            "\n".join(f"{name} = {top[name].write(getattr(document, name))}" for name in self.fields),
            write_table(list(types), rows) if rows else "",
            fenced(document.breakdown) if document.breakdown else "",
            _write_verdict(getattr(document, self.judgement)),
        ]
        return "\n\n".join(part for part in parts if part)


class _Findings:
    """One finding per line in quotes, or the word "clean", and the verdict."""

    names = ("stderr_findings", "stderr")

    def read(self, section: Section, draft: Draft) -> None:
        """Put the findings and the judgement."""
        draft.put(("stderr_findings",), [], section.line)
        for line, words in _plain_lines(section):
            if not _put_verdict("stderr", line, words, draft) and words.strip() != _CLEAN:
                draft.append(("stderr_findings",), TEXT.read(words), line)

    def write(self, document: Model) -> str:
        """The lines."""
        assert isinstance(document, Assessment)  # noqa: S101, this part is only in the form of Assessment
        lines = [quote(finding) for finding in document.stderr_findings]
        return "\n".join([*(lines or [_CLEAN]), _write_verdict(document.stderr)])


_FORM = Form(
    Assessment,
    sections={
        "Held-out predictions": (_Predictions("predictions", ("task", "heldout_rows")),),
        "Loss sanity": (_Check("loss", ("final_train_loss", "final_eval_loss", "plausible_high")),),
        "Eval tracks train": (_Check("tracks", ("eval_train_gap",)),),
        "Data consumption": (_Check("data", ("planned_rows", "consumed_rows")),),
        "Stderr scan": (_Findings(),),
        "Param count": (_Check("params", ("target_params", "actual_params")),),
        "Probes": (Records("probes", ProbeResult),),
    },
)
parse = _FORM.parse


def render(document: Assessment) -> str:
    """The text that says this document: no blank line below a heading."""
    blocks = _FORM.blocks(document)
    return join_blocks(
        [f"{heading}\n{body}" for heading, body in zip(blocks[::2], blocks[1::2], strict=True)]
    )


def _plain_lines(section: Section) -> Iterator[tuple[int, str]]:
    """The lines outside of fences and tables."""
    for block in section.blocks:
        if block.kind is not Kind.FENCE:
            yield from block.lines


def _put_verdict(name: str, line: int, words: str, draft: Draft) -> bool:
    match = _VERDICT.fullmatch(words.strip())
    if match is None:
        return False
    verdict, reason = match.groups()
    draft.put((name,), {"verdict": verdict.casefold(), "reason": TEXT.read(reason or "")}, line)
    return True


def _write_verdict(judgement: Judgement) -> str:
    reason = TEXT.write(judgement.reason)
    return f"VERDICT: {judgement.verdict}" + (f" — {reason}" if reason else "")
