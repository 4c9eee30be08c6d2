"""A web page as text, a part at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ml_intern_cli.research.fetch import Fetcher
from ml_intern_cli.research.quoted import plain
from ml_intern_cli.research.readable import read_html

PAGE_CHARS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a page.

    Attributes:
        url: Where it came from, after redirects.
        text: From ``start`` on, in Markdown where the page was HTML.
        total_chars: Of the whole page.
        is_cut: The page was longer than what is read of one, so even ``total_chars`` is not all of it.
    """

    url: str
    title: str
    text: str
    start: int
    total_chars: int
    is_cut: bool

    @property
    def next_start(self) -> int | None:
        """Where the next part starts; ``None`` after the last."""
        end = self.start + len(self.text)
        return end if end < self.total_chars else None


def read_page(fetcher: Fetcher, url: str, *, start: int = 0, limit: int = PAGE_CHARS) -> Page:
    """Fetch a page and read a part of it.

    Args:
        fetcher: Fetches it, or remembers it.
        url: An https address.
        start: In characters of the text.
        limit: How many characters at most.

    Raises:
        LookupFailed: there is no such page, it is no text, or it may not be asked for.
    """
    answer = fetcher.get(url)
    if answer.is_html:
        page = read_html(answer.text(), url=answer.url)
        title, text = page.title, page.text
    else:
        title, text = "", plain(answer.text())
    return Page(
        url=answer.url,
        title=title,
        text=text[start : start + limit],
        start=start,
        total_chars=len(text),
        is_cut=answer.is_cut,
    )
