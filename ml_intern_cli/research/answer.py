"""An answer over HTTP: its body, read up to a limit, and what it is as text or JSON."""

from __future__ import annotations

import json
import re
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_intern_cli.research.failures import Unusable

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 2 * 2**20  # of a body, as sent and unpacked
_READABLE = re.compile(
    r"text/.+|application/(?:json|xml|xhtml\+xml|javascript|yaml|x-yaml|[\w.-]+\+(?:json|xml))"
)
_KIND = re.compile(r"[a-z]{1,20}/[\w.+-]{1,60}", re.ASCII)
# Python knows encodings that are none of text, or that take quadratic time.
_CHARSET = re.compile(
    r"utf-?(?:8|16)|us-ascii|iso-8859-\d+|windows-125\d|gb\w+|big5|shift_jis|euc-\w\w|koi8-\w"
)
_META_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?([\w-]+)""", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        url: Where it came from, after redirects.
        content_type: In lower case, without parameters.
        is_cut: The body was longer than what is read of one.
    """

    url: str
    content_type: str
    charset: str
    body: bytes
    is_cut: bool

    @property
    def is_html(self) -> bool:
        """Whether there is markup to take away."""
        return self.content_type in {"text/html", "application/xhtml+xml"}

    def text(self) -> str:
        """The body as text; bytes that are none become replacement characters."""
        declared = _META_CHARSET.search(self.body[:2048])
        charset = self.charset or (declared[1].decode("ascii") if declared else "")
        if not _CHARSET.fullmatch(charset.lower()):
            charset = "utf-8"
        try:
            return self.body.decode(charset, errors="replace")
        except LookupError:
            return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            Unusable: it is none, or was cut.
        """
        try:
            return json.loads(self.text())
        except (ValueError, RecursionError) as error:
            why = f"more than {MAX_BYTES // 2**20} MiB" if self.is_cut else "no JSON"
            raise Unusable(f"{self.url}: answered with {why}") from error


def read_answer(response: httpx.Response, *, url: str, asked: str, deadline: float) -> Answer:
    """Read a response that is open.

    Args:
        response: With a status that says it is what was asked for.
        url: Where it came from.
        asked: The address that errors name; they repeat nothing that a server made up.
        deadline: On the monotonic clock.

    Raises:
        Unusable: it is not text.
        TimeoutError: it came too slowly.
    """
    content_type, _, parameters = response.headers.get("Content-Type", "text/plain").lower().partition(";")
    content_type = content_type.strip() or "text/plain"
    if content_type == "application/pdf":
        raise Unusable(
            f"{asked}: a PDF, which cannot be read here; of a paper, read the arXiv HTML or its abstract page"
        )
    if not _READABLE.fullmatch(content_type):
        kind = content_type if _KIND.fullmatch(content_type) else "something odd"
        raise Unusable(f"{asked}: {kind}, which cannot be read: only text can")
    charset = re.search(r"charset\s*=\s*[\"']?([\w-]+)", parameters)
    body, is_cut = _read_body(response, asked=asked, deadline=deadline)
    return Answer(
        url=url,
        content_type=content_type,
        charset=charset[1] if charset else "",
        body=body,
        is_cut=is_cut,
    )


def _read_body(response: httpx.Response, *, asked: str, deadline: float) -> tuple[bytes, bool]:
    """The body, unpacked, and whether there was more of it.

    It is unpacked here because the library unpacks each piece whole, as often as the headers say: some
    kilobytes could then fill the memory.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise Unusable(f"{asked}: packed in a way that was not asked for")
    unpacker = zlib.decompressobj(wbits=31) if encoding.endswith("gzip") else None
    body = bytearray()
    num_read = 0
    for piece in response.iter_raw(65_536):
        num_read += len(piece)
        room = MAX_BYTES + 1 - len(body)
        try:
            body += unpacker.decompress(piece, room) if unpacker else piece[:room]
        except zlib.error as error:
            raise Unusable(f"{asked}: packed wrongly") from error
        if len(body) > MAX_BYTES or num_read > MAX_BYTES:
            return bytes(body[:MAX_BYTES]), True
        if unpacker and unpacker.eof:
            break
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body), False
