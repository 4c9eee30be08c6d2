"""Every document by its file name, each module imported only when used; and reading a document from disk."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.model import Model
from ml_intern_cli.errors import InvalidDocument, Problem


@dataclass(frozen=True, slots=True)
class DocumentType:
    """One kind of document: the module that holds its model, ``parse`` and ``render``."""

    module_name: str
    model_name: str

    @property
    def model(self) -> type[Model]:
        """The class of its values."""
        return cast("type[Model]", getattr(self._module, self.model_name))

    def parse(self, text: str, *, source: str) -> Model:
        """The document that a text says. Raises InvalidDocument with everything that is wrong."""
        return cast("Model", self._module.parse(text, source=source))

    def render(self, document: Model) -> str:
        """The text that says this document; ``parse`` gives the same document back."""
        return cast("str", self._module.render(document))

    @property
    def _module(self) -> ModuleType:
        return import_module(f"ml_intern_cli.documents.{self.module_name}")


DOCUMENTS = {
    f"{name.upper()}.md": DocumentType(name, name.capitalize())
    for name in (
        "task",
        "budget",
        "research",
        "plan",
        "code",
        "experiments",
        "smoke",
        "verify",
        "postmortem",
        "results",
        "published",
        "blocker",
        "audit",
    )
}


def parse(text: str, *, source: str) -> Model:
    """The document that a text says; which one it is, the file name in ``source`` tells.

    Raises:
        InvalidDocument: with everything that is wrong.
    """
    if not text.strip():
        raise InvalidDocument([Problem(source, None, None, "is empty")])
    return DOCUMENTS[Path(source).name].parse(text.removeprefix("\ufeff"), source=source)


def render(document: Model) -> str:
    """The text that says this document."""
    return DOCUMENTS[f"{type(document).__name__.upper()}.md"].render(document)


def load(path: Path, *, source: str | None = None) -> Model:
    """A document from disk.

    Args:
        path: The file; its name tells which document it is.
        source: What messages call it; the file's name unless given.

    Raises:
        InvalidDocument: it is missing, is not UTF-8 text, or does not parse.
    """
    source = source or path.name
    try:
        # Below the run's own folder lies what programs can write.
        data = leavings.read_bytes(path.parent, path.name, may_link="/" not in source)
    except FileNotFoundError as error:
        raise InvalidDocument([Problem(source, None, None, "is missing")]) from error
    except leavings.Refused as error:
        raise InvalidDocument(
            [Problem(source, None, None, str(error.strerror))],
            hint="put the document itself there, or remove it, and run the same command again",
        ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(source, line, None, "is not UTF-8 text")
        raise InvalidDocument(
            [problem], hint="save the file as UTF-8 and run the same command again"
        ) from error
    return parse(text, source=source)
