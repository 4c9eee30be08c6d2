"""AUDIT.md: what the judge found in a model that this program did not make."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Loss, Model, Seconds
from ml_intern_cli.documents.parts import Bullets, Records
from ml_intern_cli.documents.probe import ProbeResult


class AuditKind(StrEnum):
    """What was judged."""

    CAUSAL_LM = "causal-lm"  # a transformers checkpoint that continues text
    PATH = "path"  # path-<id>/ of a run: what smoke and verify say of it


class Writing(Model):
    """What the model wrote after a prompt, verbatim; nobody's eye is part of the verdict."""

    prompt: str
    output: str


class Audit(Model):
    """All probes of one model. Losses are in nats per token. ``None``: could not be computed."""

    subject: str  # the directory
    kind: AuditKind
    architecture: str  # the class that config.json names
    params: int | None = Field(default=None, gt=0)  # tied ones once
    text: str  # the file, and how much of it was read
    scored: str = ""  # on which tokens, in which windows, the loss was computed
    loss: Loss | None = Field(default=None, ge=0)
    unigram_loss: Loss | None = Field(default=None, ge=0)  # of token frequencies alone, on the same text
    seconds: Seconds = Field(ge=0)
    probes: tuple[ProbeResult, ...] = Field(min_length=1)
    writings: tuple[Writing, ...] = ()

    @property
    def failed(self) -> tuple[ProbeResult, ...]:
        """The probes that did not pass."""
        return tuple(probe for probe in self.probes if probe.failed)

    @property
    def passed(self) -> bool:
        """Whether every probe passed."""
        return not self.failed


_FORM = Form(
    Audit,
    title="Audit",
    sections={
        None: (
            Bullets(
                Audit,
                (
                    "subject",
                    "kind",
                    "architecture",
                    "params",
                    "text",
                    "scored",
                    "loss",
                    "unigram_loss",
                    "seconds",
                ),
            ),
        ),
        "Probes": (Records("probes", ProbeResult),),
        "Writings": (Records("writings", Writing),),
    },
)
parse = _FORM.parse
render = _FORM.render
