"""PUBLISHED.md: where the model went, written only after the load test passed."""

from __future__ import annotations

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Model, PathId, PublishTarget
from ml_intern_cli.documents.parts import Bullets, Text


class Published(Model):
    """One publication."""

    target: PublishTarget
    name: str  # ml-intern-<slug>-<YYYYMMDD-HHMM>
    location: str  # URL, or folder relative to the run
    revision: str | None  # the Hub's commit; None for a folder
    path: PathId
    load_test: str  # what the load test printed last
    published_at: str  # ISO 8601, UTC


_FORM = Form(
    Published,
    title="Published",
    sections={
        None: (Bullets(Published, ("target", "name", "location", "revision", "path", "published_at")),),
        "Load test": (Text("load_test"),),
    },
)
parse = _FORM.parse
render = _FORM.render
