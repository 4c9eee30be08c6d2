"""The text of a paper: arXiv's HTML, or that of ar5iv, or the abstract alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.arxiv_ids import ArxivId, arxiv_id
from ml_intern_cli.research.failures import LookupFailed, NotReached, Unusable
from ml_intern_cli.research.fetch import Fetcher
from ml_intern_cli.research.papers import arxiv_entry
from ml_intern_cli.research.readable import Block, join, read_html

Source = Literal["arXiv HTML", "ar5iv HTML", "abstract"]

_NUMBER = re.compile(r"(?:\d+(?:\.\d+)*|[a-z](?:\.\d+)*|[ivx]+)\.?\s+")  # in lower case


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a paper. ``level`` is that of its heading, from 1; subsections are sections of their own."""

    title: str
    level: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperText:
    """What could be read of a paper.

    Attributes:
        url: Where this text stands.
        source: "abstract": the paper itself could not be read.
        notes: What was tried before and did not work, a line each.
        is_cut: The text was longer than what is read of one.
    """

    id: str
    url: str
    title: str
    source: Source
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    is_cut: bool = False

    def section(self, wanted: str) -> Section:
        """A section with what is under it, by its title, a part of that, or its number.

        The number is the one that the paper gives it or, where it gives none, its place in the list, from 1.

        Raises:
            InvalidInput: there is none such.
        """
        index = self._index(" ".join(wanted.split()).lower())
        if index is None:
            raise InvalidInput(
                f"{self.id} has no section {wanted!r}", hint="without a section, the list of them is shown"
            )
        first = self.sections[index]
        parts = [first.text]
        for section in self.sections[index + 1 :]:
            if section.level <= first.level:
                break
            parts.append(f"{'#' * section.level} {section.title}\n\n{section.text}".rstrip())
        return Section(first.title, first.level, "\n\n".join(filter(None, parts)))

    def _index(self, wanted: str) -> int | None:
        titles = [section.title.lower() for section in self.sections]
        for fits in (
            lambda title: title == wanted,
            lambda title: _NUMBER.sub("", title) == wanted,
            lambda title: bool(_NUMBER.match(title)) and title.split()[0].rstrip(".") == wanted,
        ):
            found = next((index for index, title in enumerate(titles) if fits(title)), None)
            if found is not None:
                return found
        if wanted.isdecimal() and 1 <= int(wanted) <= len(titles):
            return int(wanted) - 1
        return next((index for index, title in enumerate(titles) if wanted and wanted in title), None)


def read_paper(fetcher: Fetcher, paper: str, *, arxiv: str, ar5iv: str, arxiv_api: str) -> PaperText:
    """The best text of a paper that can be had, by its id on arXiv as people write it.

    Raises:
        InvalidInput: that is no arXiv id.
        LookupFailed: there is no such paper, or nobody could be asked.
    """
    identifier = arxiv_id(paper)
    notes: list[str] = []
    errors: list[LookupFailed] = []
    places: tuple[tuple[Source, str], ...] = (("arXiv HTML", arxiv), ("ar5iv HTML", ar5iv))
    for source, base in places:
        try:
            text = _read_html(fetcher, identifier, source=source, base=base, notes=notes)
        except LookupFailed as error:
            errors.append(error)
            notes.append(error.message)
            continue
        fetcher.record.reach(f"https://arxiv.org/abs/{identifier}")
        return text
    try:
        entry = arxiv_entry(fetcher, str(identifier), api=arxiv_api)
    except LookupFailed as error:
        # An id that nobody has is the user's to know of; a network that is down is behind all the rest.
        missed = next((one for one in [*errors, error] if isinstance(one, NotReached)), None)
        raise (error if missed is None else missed) from error
    fetcher.record.reach(entry.url)
    return PaperText(
        id=str(identifier),
        url=entry.url,
        title=entry.title,
        source="abstract",
        sections=(Section("Abstract", 2, entry.abstract),),
        notes=tuple(notes),
    )


def _read_html(
    fetcher: Fetcher, identifier: ArxivId, *, source: Source, base: str, notes: Sequence[str]
) -> PaperText:
    answer = fetcher.get(f"{base}/html/{identifier}")
    page = read_html(answer.text(), url=answer.url)
    title = re.sub(r"^\[[^\]]*\]\s*", "", page.title)
    sections = tuple(_sections(page.blocks, title=title))
    # Where there is no HTML, ar5iv sends the reader on to the page of the abstract.
    if not answer.is_html or "/abs/" in answer.url or len(sections) < 2:
        raise Unusable(f"{base}/html/{identifier}: no HTML of this paper")
    return PaperText(
        id=str(identifier),
        url=answer.url,
        title=title,
        source=source,
        sections=sections,
        notes=tuple(notes),
        is_cut=answer.is_cut,
    )


def _sections(blocks: Sequence[Block], *, title: str) -> Iterator[Section]:
    """The page cut at its headings; what stands before the first belongs to the title."""
    heading = Block("heading", title, 1)
    body: list[Block] = []
    for block in blocks:
        if block.kind != "heading":
            body.append(block)
            continue
        if body:
            yield Section(heading.text, heading.level, join(body))
        elif heading.text != title:
            yield Section(heading.text, heading.level, "")
        heading, body = block, []
    if body or heading.text != title:
        yield Section(heading.text, heading.level, join(body))
