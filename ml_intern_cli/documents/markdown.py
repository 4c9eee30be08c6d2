"""Markdown as sections of blocks with line numbers: all that the documents need to know of it.

Level 1 and 2 headings start sections. What stands under a deeper heading belongs to the section's
raw text, but not to its blocks, so that people can add notes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_SECTION_LEVEL = 2


class Kind(StrEnum):
    """What a block is. Items of nested lists are items too."""

    PARAGRAPH = "paragraph"
    ITEM = "item"
    FENCE = "fence"


@dataclass(slots=True)
class Block:
    """A paragraph, the text of one list item, or the content of a fence, as it stands in the source."""

    kind: Kind
    line: int  # of its first line of text; 1-based
    text: str

    @property
    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line of the text with its number."""
        return enumerate(self.text.split("\n"), start=self.line)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; an escaped pipe in a cell is a plain one here."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and the rows below it. A row may have fewer or more cells than the header."""

    header: Row
    rows: tuple[Row, ...]


@dataclass(slots=True)
class Section:
    """A heading and what stands below it; the first section of a text has no heading."""

    title: str
    level: int
    line: int  # of the heading; 1-based
    raw: str = ""
    blocks: list[Block] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line of each block with its number."""
        return (numbered for block in self.blocks for numbered in block.lines)


def outline(text: str) -> list[Section]:
    """The sections of a Markdown text, in order, the one before the first heading included."""
    source = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    sections = [Section(title="", level=0, line=1)]
    tokens = iter(_parser().parse(text))
    is_aside = False
    for token in tokens:
        if token.type == "heading_open" and token.level == 0:
            level = int(token.tag[1:])
            title = next(tokens).content
            is_aside = level > _SECTION_LEVEL
            if not is_aside:
                sections.append(Section(title=title, level=level, line=_line(token)))
        elif not is_aside:
            _collect(token, tokens, sections[-1], source)
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        end = following.line - 1 if following else len(source)
        section.raw = "\n".join(source[section.line if section.level else 0 : end]).strip()
    return sections


def _collect(token: Token, tokens: Iterator[Token], section: Section, source: list[str]) -> None:
    """Add to the section what starts with this token, taking from ``tokens`` what belongs to it."""
    if token.type == "fence":
        section.blocks.append(Block(Kind.FENCE, _line(token) + 1, token.content.removesuffix("\n")))
    elif token.type == "table_open":
        rows = _rows(tokens, source)
        section.tables.append(Table(rows[0], tuple(rows[1:])))
    elif token.type == "list_item_open":
        first = next(tokens)
        if first.type == "paragraph_open":
            section.blocks.append(Block(Kind.ITEM, _line(first), next(tokens).content))
        elif first.type != "list_item_close":
            _collect(first, tokens, section, source)
    elif token.type == "paragraph_open":
        section.blocks.append(Block(Kind.PARAGRAPH, _line(token), next(tokens).content))


def _rows(tokens: Iterator[Token], source: list[str]) -> list[Row]:
    from markdown_it.rules_block.table import escapedSplit

    rows = []
    for token in tokens:
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            # From the source, because the parser drops cells beyond the header's: a forgotten \| would
            # lose text silently.
            line = source[_line(token) - 1].strip()
            cells = escapedSplit(line.removeprefix("|"))
            if cells[-1] == "":
                cells.pop()
            rows.append(Row(_line(token), tuple(cell.strip() for cell in cells)))
    return rows


def _line(token: Token) -> int:
    assert token.map is not None  # noqa: S101, block tokens that open something carry their lines
    return token.map[0] + 1


@cache
def _parser() -> MarkdownIt:
    """Blocks only. Left out is what would surprise in a form: underlined headings, indented code, quotes."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("zero", {"html": True}).enable(
        ["fence", "heading", "hr", "html_block", "list", "table"]
    )
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser
