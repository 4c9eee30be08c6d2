"""What was really asked: the addresses that answered, and those that did not."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

_VERSION = re.compile(r"v\d+$")


class Record:
    """Kept by every look-up, from any thread, so that what a brain claims to have read can be checked.

    ``reached`` holds addresses whose content was had, also as the page that a person would open for it.
    ``named`` holds addresses that a search answered with: their content was not read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reached: set[str] = set()
        self._named: set[str] = set()
        self._missed: list[str] = []

    @property
    def reached(self) -> frozenset[str]:
        """Addresses whose content was had."""
        with self._lock:
            return frozenset(self._reached)

    @property
    def named(self) -> frozenset[str]:
        """Addresses that stood in the answer of a search."""
        with self._lock:
            return frozenset(self._named)

    @property
    def missed(self) -> list[str]:
        """What was not reached and why, a line each, in the order of the first attempt."""
        with self._lock:
            return list(self._missed)

    def was_reached(self, url: str) -> bool:
        """Whether the content of this page was had, however its address is written."""
        return comparable(url) in set(map(comparable, self.reached))

    def was_named(self, url: str) -> bool:
        """Whether a search answered with this page, or it was reached."""
        return self.was_reached(url) or comparable(url) in set(map(comparable, self.named))

    def reach(self, *urls: str) -> None:
        """These answered."""
        with self._lock:
            self._reached.update(urls)

    def name(self, urls: Iterable[str]) -> None:
        """These stood in an answer."""
        with self._lock:
            self._named.update(urls)

    def miss(self, line: str) -> None:
        """This did not answer."""
        with self._lock:
            if line not in self._missed:
                self._missed.append(line)


def comparable(url: str) -> str:
    """An address without what does not change which page it is.

    That is the scheme, ``www.``, the place on the page, a slash at the end, and the version of a paper on
    arXiv, whose abstract, HTML and PDF are one source.
    """
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port not in {None, 80, 443} else ""
    except ValueError:
        return url
    host = (parts.hostname or "").removeprefix("www.")
    path = unquote(parts.path).rstrip("/")
    if host in {"arxiv.org", "ar5iv.labs.arxiv.org", "ar5iv.org"}:
        host = "arxiv.org"
        path = _VERSION.sub("", re.sub(r"^/(?:abs|html|pdf)/", "/abs/", path).removesuffix(".pdf"))
    query = f"?{parts.query}" if parts.query else ""
    return f"{host}{port}{path}{query}"
