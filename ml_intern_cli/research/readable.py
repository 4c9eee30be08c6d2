"""HTML as text to read: headings, paragraphs, lists, code and tables, without what a reader does not see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import urljoin, urlsplit

from ml_intern_cli.research.markup import (
    BLOCKS,
    CELLS,
    CLOSES,
    DROPPED,
    HEADINGS,
    HIDING,
    MARKS,
    VOID,
    well_formed,
)
from ml_intern_cli.research.quoted import plain

Kind = Literal["heading", "text", "item", "row", "code"]
Attributes = list[tuple[str, str | None]]

_MAX_INDENT = 8  # lists deep


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page. ``level`` is a heading's, from 1."""

    kind: Kind
    text: str
    level: int = 0

    def __str__(self) -> str:
        return f"{'#' * self.level} {self.text}" if self.level else self.text


@dataclass(frozen=True, slots=True)
class Readable:
    """A page as text."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """All of it, in Markdown."""
        return join(self.blocks)


def join(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown: items and rows close together, the rest with a line between."""
    pieces: list[str] = []
    for index, block in enumerate(blocks):
        if index:
            is_tight = block.kind in {"item", "row"} and blocks[index - 1].kind == block.kind
            pieces.append("\n" if is_tight else "\n\n")
        pieces.append(str(block))
    return "".join(pieces)


def read_html(markup: str, *, url: str = "") -> Readable:
    """What a page says.

    Args:
        markup: HTML, however broken.
        url: Its address, which links are relative to.
    """
    reader = _Reader(url)
    reader.feed("".join(well_formed(markup)))
    reader.close()
    reader.flush()
    title = " ".join("".join(reader.title).split())
    if not title:
        title = next((block.text for block in reader.blocks if block.kind == "heading"), "")
    return Readable(plain(title), tuple(reader.blocks))


class _Reader(HTMLParser):
    """Collects blocks. ``_open`` holds the open elements, and whether each of them hides what is in it."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.title: list[str] = []
        self._url = url
        self._open: list[tuple[str, bool]] = []
        self._counts: Counter[str] = Counter()  # of open elements, by tag
        self._num_hidden = 0
        self._words: list[str] = []  # of the block that is being read
        self._links: list[tuple[str, int, int]] = []  # address, place in words, number of blocks before
        self._rows: list[list[str]] = []  # cells of the open rows
        self._lists: list[int | None] = []  # next number of each open list; None for bullets
        self._prefix = ""

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        """A tag opens."""
        if tag in VOID:
            self._void(tag, attrs)
            return
        while self._open and self._open[-1][0] in CLOSES.get(tag, ()):
            self._close_last()
        formula = next((value for name, value in attrs if name == "alttext" and value), "")
        is_hidden = tag in DROPPED or _hides(attrs)
        if tag == "math" and formula:
            if not self._num_hidden and not is_hidden:
                self._words.append(f"${' '.join(plain(formula).split())}$")
            is_hidden = True  # the markup says the same once more
        is_shown = not self._num_hidden and not is_hidden
        if is_shown:
            self._starts(tag, attrs)
        self._open.append((tag, is_hidden))
        self._counts[tag] += 1
        self._num_hidden += is_hidden

    def handle_endtag(self, tag: str) -> None:
        """A tag closes, and with it what was left open inside."""
        if not self._counts[tag]:
            return
        while self._close_last() != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._open and self._open[-1][0] == "title" and not self._counts["svg"]:
            self.title.append(data)
        elif not self._num_hidden and not self._counts["title"]:
            text = plain(data)
            self._words.append(text if self._counts["pre"] else re.sub(r"\s+", " ", text))

    def flush(self, kind: Kind = "text", level: int = 0) -> None:
        """End the block that is being read."""
        text = "".join(self._words)
        self._words.clear()
        if kind == "code":
            text = f"```\n{text.strip(chr(10)).rstrip()}\n```" if text.strip() else ""
        else:
            text = re.sub(r" *\n *", "\n", re.sub(r"  +", " ", text)).strip()
        if text and kind == "text" and self._lists:
            kind, text = "item", f"{self._prefix or '  ' * min(len(self._lists), _MAX_INDENT)}{text}"
            self._prefix = ""
        if text:
            self.blocks.append(Block(kind, text, level))

    def _void(self, tag: str, attrs: Attributes) -> None:
        if self._num_hidden:
            return
        if tag == "br":
            self._words.append("\n")
        elif tag == "hr":
            self.flush()
        elif tag == "img" and not _hides(attrs):
            alt = next((value for name, value in attrs if name == "alt" and value), "")
            self._words.append(f" [image: {plain(alt)[:300]}] " if alt else "")

    def _starts(self, tag: str, attrs: Attributes) -> None:
        """What an element that is shown begins with."""
        if tag in {"p", "div"} and self._is_in_cell():
            self._words.append(" ")
        elif tag in BLOCKS or tag in HEADINGS or tag == "pre":
            self.flush()
        if tag in {"ul", "ol"}:
            start = next((value for name, value in attrs if name == "start"), None) or "1"
            self._lists.append(
                (int(start) if start.isdecimal() and len(start) < 9 else 1) if tag == "ol" else None
            )
        elif tag == "li":
            self._prefix = self._next_mark()
        elif tag == "tr":
            self._rows.append([])
        elif tag == "a":
            href = next((value for name, value in attrs if name == "href" and value), "")
            self._links.append((self._target(href), len(self._words), len(self.blocks)))
        elif tag in MARKS:
            self._words.append(MARKS[tag])
        elif tag == "code" and not self._counts["pre"]:
            self._words.append("`")

    def _close_last(self) -> str:
        """Close the innermost open element; its tag."""
        tag, is_hidden = self._open.pop()
        self._counts[tag] -= 1
        self._num_hidden -= is_hidden
        if not self._num_hidden and not is_hidden:
            self._ends(tag)
        return tag

    def _ends(self, tag: str) -> None:
        """What an element that is shown ends with."""
        if tag in HEADINGS:
            self._words[:] = [" ".join("".join(self._words).split()).removesuffix("¶")]
            self.flush("heading", HEADINGS[tag])
        elif tag == "pre":
            self.flush("code")
        elif tag in CELLS and self._rows:
            self._rows[-1].append(" ".join("".join(self._words).split()).replace("|", "\\|"))
            self._words.clear()
        elif tag == "tr" and self._rows:
            self._end_row()
        elif tag == "a" and self._links:
            self._end_link(*self._links.pop())
        elif tag == "code" and not self._counts["pre"]:
            self._words.append("`")
        elif tag in {"p", "div"} and self._is_in_cell():
            self._words.append(" ")
        elif tag in BLOCKS:
            self.flush()
        if tag in {"ul", "ol"} and self._lists:
            self._lists.pop()

    def _end_row(self) -> None:
        cells = self._rows.pop()
        self.flush()
        if any(cells):
            self.blocks.append(Block("row", f"| {' | '.join(cells)} |"))

    def _end_link(self, target: str, place: int, num_blocks: int) -> None:
        """Write out where a link leads, where that is another page and the link is within one block."""
        is_bare = bool(self._counts["pre"] or any(self._counts[tag] for tag in HEADINGS))
        text = "".join(self._words[place:]).strip()
        if target and text and not is_bare and num_blocks == len(self.blocks):
            self._words[place:] = [f"[{text}]({target})"]

    def _target(self, href: str) -> str:
        try:
            target = urljoin(self._url, href.strip())
            parts = urlsplit(target)
        except ValueError:
            return ""
        is_here = href.startswith("#") or target.partition("#")[0] == self._url.partition("#")[0]
        if is_here or parts.scheme not in {"http", "https"} or len(target) > 500:
            return ""
        return re.sub(r"[\s()<>]", "", plain(target))

    def _next_mark(self) -> str:
        if not self._lists:
            return ""
        number = self._lists[-1]
        if number is not None:
            self._lists[-1] = number + 1
        return f"{'  ' * min(len(self._lists) - 1, _MAX_INDENT)}{'-' if number is None else f'{number}.'} "

    def _is_in_cell(self) -> bool:
        return any(self._counts[tag] for tag in CELLS)


def _hides(attrs: Iterable[tuple[str, str | None]]) -> bool:
    """Whether an element is not shown to a reader."""
    return any(
        name == "hidden"
        or (name == "aria-hidden" and (value or "").strip().lower() == "true")
        or (name == "style" and bool(HIDING.search(value or "")))
        for name, value in attrs
    )
