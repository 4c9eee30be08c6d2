"""POSTMORTEM.md: symptom, root cause, fix; and what the retry changes."""

from __future__ import annotations

from ml_intern_cli.documents.draft import Draft
from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.markdown import Section
from ml_intern_cli.documents.model import FieldName, Model, PathId, Scalar
from ml_intern_cli.documents.parts import NOTHING, Bullets, OneField, Text, bullets, split_bullet
from ml_intern_cli.documents.values import SCALAR


class Postmortem(Model):
    """Why one path failed and what is done about it."""

    path: PathId
    failed_stage: str  # "smoke", "train", "verify"
    cause: str  # "not-finite", "out-of-memory", "smoke:causality", "verify:Data consumption", "crash", …
    symptom: str  # what the files show
    root_cause: str  # hypothesis
    fix: str  # the concrete change, or why there is none
    changes: dict[FieldName, Scalar]  # of PathPlan, for the retry
    probe: str | None = None  # the probe or check that failed, which the retry has to move
    rewrite: bool = False  # the retry needs other code, not other numbers
    retry: PathId | None  # the path that carries the fix; None: dropped


class _Changes(OneField):
    """``- field: value``, one line per change."""

    def read(self, section: Section, draft: Draft) -> None:
        draft.put(self.names, {}, section.line)
        for block in bullets(section):
            name, value = split_bullet(block.text)
            if value is None:
                draft.problem(block.line, None, f"expected '- name: value', not {block.text!r}")
            else:
                draft.put((self.name, name), SCALAR.read(value), block.line)

    def write(self, document: Model) -> str:
        changes = getattr(document, self.name)
        return "\n".join(f"- {name}: {SCALAR.write(value)}" for name, value in changes.items()) or NOTHING


_FORM = Form(
    Postmortem,
    title="Postmortem of path {document.path}",
    sections={
        None: (Bullets(Postmortem, ("path", "failed_stage", "cause", "probe", "rewrite", "retry")),),
        "Symptom": (Text("symptom"),),
        "Root cause": (Text("root_cause"),),
        "Fix": (Text("fix"),),
        "Changes": (_Changes("changes"),),
    },
)
parse = _FORM.parse
render = _FORM.render
