"""SMOKE.md: what the judge found before a second of training was spent."""

from __future__ import annotations

from pydantic import Field

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Model, PathId, Seconds
from ml_intern_cli.documents.parts import Bullets, Records
from ml_intern_cli.documents.probe import ProbeResult


class Smoke(Model):
    """All probes of one path."""

    path: PathId
    params: int | None = Field(default=None, gt=0)  # None: the model could not be built
    params_target: int = Field(gt=0)
    seconds: Seconds = Field(ge=0)
    probes: tuple[ProbeResult, ...] = Field(min_length=1)

    @property
    def passed(self) -> bool:
        """Whether every probe passed."""
        return not any(probe.failed for probe in self.probes)


_FORM = Form(
    Smoke,
    title="Smoke test of path {document.path}",
    sections={
        None: (Bullets(Smoke, ("path", "params", "params_target", "seconds")),),
        "Probes": (Records("probes", ProbeResult),),
    },
)
parse = _FORM.parse
render = _FORM.render
