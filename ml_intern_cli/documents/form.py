"""A document as a form: which fields stand in which section. One form both parses and renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ml_intern_cli.documents.draft import Draft, M, nearest
from ml_intern_cli.documents.markdown import Section, outline
from ml_intern_cli.documents.parts import Part

_SURELY_MEANT = 0.8


@dataclass(frozen=True)
class Form(Generic[M]):
    """The layout of a document.

    Args:
        model: What is parsed and rendered.
        sections: Title → parts, in the order they are written; they are read in any order. The title
            ``None`` stands for what comes before the first section.
        title: The first heading, a format string over ``document``.
        about: The words below it.
    """

    model: type[M]
    sections: dict[str | None, tuple[Part, ...]]
    title: str | None = None
    about: str | None = None

    def parse(self, text: str, *, source: str) -> M:
        """The document that a text says.

        Raises:
            InvalidDocument: with everything that is wrong.
        """
        draft = Draft(source)
        self.read(outline(text), draft)
        return draft.finish(self.model)

    def render(self, document: M) -> str:
        """The text that says this document."""
        return join_blocks(self.blocks(document))

    def read(self, sections: Sequence[Section], draft: Draft) -> None:
        """Put what the sections say into the draft. Sections that are not the form's are left alone."""
        titles = {_key(title): title for title in self.sections if title is not None}
        found: dict[str, Section] = {}
        others = []
        for section in sections:
            title = titles.get(_key(section.title)) if section.level else None
            if title is None:
                others.append(section)
            elif title in found:
                draft.problem(section.line, None, f"section {title!r} appears twice")
            else:
                found[title] = section
        _refuse_misspelt(others, [title for title in titles.values() if title not in found], draft)
        opening = _merged([section for section in others if section.level <= 1])
        for title, parts in self.sections.items():
            home = opening if title is None else found.get(title)
            for part in parts:
                below = "the title" if title is None else f"## {title}"
                draft.expect(part.names, below=below, line=home.line if home and title else None)
                if home is not None:
                    part.read(home, draft)

    def blocks(self, document: M) -> list[str]:
        """The text in blocks that blank lines will part."""
        blocks = [f"# {self.title.format(document=document)}"] if self.title else []
        blocks += [self.about] if self.about else []
        for title, parts in self.sections.items():
            blocks += [f"## {title}"] if title else []
            blocks += [part.write(document) for part in parts]
        return blocks


def join_blocks(blocks: Sequence[str]) -> str:
    """A whole text; empty blocks leave no gap."""
    return "\n\n".join(block for block in blocks if block) + "\n"


def _key(title: str) -> str:
    return " ".join(title.casefold().strip("*_:` ").split())


def _refuse_misspelt(sections: Sequence[Section], missing: Sequence[str], draft: Draft) -> None:
    """Refuse a section that is surely one of those missing: what stands in it would be lost otherwise."""
    titles = {_key(title): title for title in missing}
    for section in sections:
        near = nearest(_key(section.title), titles, cutoff=_SURELY_MEANT) if section.level else None
        if near is not None:
            meant = titles[near]
            draft.problem(section.line, None, f"unknown section {section.title!r}; did you mean {meant!r}?")


def _merged(sections: Sequence[Section]) -> Section:
    return Section(
        title="",
        level=0,
        line=sections[0].line if sections else 1,
        blocks=[block for section in sections for block in section.blocks],
        tables=[table for section in sections for table in section.tables],
    )
