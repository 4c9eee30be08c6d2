"""What HTML elements mean to a reader, and markup that Python's parser can be trusted with."""

from __future__ import annotations

import re
from collections.abc import Iterator


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


VOID = _tags("area base br col embed hr img input link meta param source track wbr")
DROPPED = _tags("script style noscript template nav svg iframe object canvas audio video select button")
BLOCKS = _tags(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure "
    "footer form head header html li main ol p section summary table tbody tfoot thead tr ul"
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
CELLS = frozenset({"td", "th"})
CLOSES = {  # an opening tag ends these, where they were left open
    **dict.fromkeys(BLOCKS - {"li", "dt", "dd", "tr", "tbody", "tfoot", "thead"}, frozenset({"p"})),
    **dict.fromkeys(HEADINGS, frozenset({"p"})),
    "pre": frozenset({"p"}),
    "li": frozenset({"p", "li"}),
    "dt": frozenset({"p", "dt", "dd"}),
    "dd": frozenset({"p", "dt", "dd"}),
    "tr": frozenset({"p", "td", "th", "tr"}),
    "td": frozenset({"p", "td", "th"}),
    "th": frozenset({"p", "td", "th"}),
    "tbody": frozenset({"p", "td", "th", "tr", "thead"}),
}
HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|(?:font-size|opacity)\s*:\s*0(?:\.0+)?(?![.\d])",
    re.IGNORECASE,
)
MARKS = {"sup": "^", "sub": "_"}  # 10<sup>-4</sup> is not 10-4

_OPENING = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<raw>script|style)(?=[\s/>])|(?P<tag>/?[a-z][\w:.-]{0,60}(?=[\s/>])))?",
    re.IGNORECASE,
)
_RAW_ENDS = {tag: re.compile(rf"</{tag}[^>]*>", re.IGNORECASE) for tag in ("script", "style")}
_COMMENT_END = re.compile("--!?>")


def well_formed(markup: str) -> Iterator[str]:
    """The markup without comments, declarations, scripts and styles; a ``<`` that opens no tag is escaped.

    Python's parser looks through the rest of a page again and again for the end of what does not end: a page
    made for that keeps it busy for hours. Here, in one pass, what does not end is taken out.
    """
    place, tag_end = 0, 0
    for match in _OPENING.finditer(markup):
        start = match.start()
        if start < place:
            continue  # inside what was taken out
        yield markup[place:start]
        if 0 <= tag_end <= start:  # looked for once for all that it ends, and never again where there is none
            tag_end = markup.find(">", start)
        if match["raw"]:
            place = _after(_RAW_ENDS[match["raw"].lower()].search(markup, start), markup)
        elif match["comment"]:
            place = _after(_COMMENT_END.search(markup, start + 4), markup)
        elif match["other"]:
            place = tag_end + 1 if tag_end >= 0 else len(markup)
        elif match["tag"] and tag_end >= 0:
            yield "<"
            place = start + 1
        else:
            yield "&lt;"
            place = start + 1
    yield markup[place:]


def _after(end: re.Match[str] | None, markup: str) -> int:
    return end.end() if end else len(markup)
