"""BLOCKER.md: what stopped, why, and the commands that go on. It exists only while the user is needed."""

from __future__ import annotations

from pydantic import Field

from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.model import Model
from ml_intern_cli.documents.parts import Bullets, Items, Text


class Blocker(Model):
    """Why the run waits for its user."""

    stage: str
    what: str
    why: str
    ways_on: tuple[str, ...] = Field(min_length=1)


_FORM = Form(
    Blocker,
    title="Blocked",
    about="The run waits for you. Any one of the ways on is enough; this file goes away by itself.",
    sections={
        None: (Bullets(Blocker, ("stage",)),),
        "What": (Text("what"),),
        "Why": (Text("why"),),
        "Ways on": (Items("ways_on"),),
    },
)
parse = _FORM.parse
render = _FORM.render
