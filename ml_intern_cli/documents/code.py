"""CODE.md: what a language model says it wrote for a path. A claim that no stage takes for a measurement."""

from __future__ import annotations

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Model, PathId
from ml_intern_cli.documents.parts import Bullets, Items, Text


class Code(Model):
    """Who wrote the code, to which order, and what the author says of it."""

    path: PathId
    author: str  # the model's name
    variant: str  # of the path, when it was written
    approach: str
    fix: str | None = None  # that it carries, for a retry
    summary: str
    left_open: tuple[str, ...] = ()  # what of the task it does not do


_FORM = Form(
    Code,
    title="Code of path {document.path}",
    about="The author's own account. What the code really does, SMOKE.md and VERIFY.md say.",
    sections={
        None: (Bullets(Code, ("path", "author", "variant", "approach", "fix")),),
        "Summary": (Text("summary"),),
        "Left open": (Items("left_open"),),
    },
)
parse = _FORM.parse
render = _FORM.render
