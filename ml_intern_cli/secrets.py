"""Finding and hiding credentials in text that leaves this machine or is kept in a log.

Patterns with a ``secret`` group hide only that part, so that the text around it stays readable.
Placeholders that people write in documentation (``HF_TOKEN=…``, ``<your key>``) are no credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_REAL_VALUE = r"(?!\[redacted|<|\.\.\.|…|\*|\$|x{4,}|your)"
_CREDENTIAL = (
    r"(?:password|passwd|passphrase|secret|credential|"
    r"(?:api|access|private|secret)[_-]?key|(?:access|api|auth|bot|hf|hub|refresh|secret)[_-]?token)"
)

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "private key",
        re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[\s\S]{0,20000}?-----END [A-Z ]+-----)?"),
    ),
    ("Hugging Face token", re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{20,}\b")),
    ("API key", re.compile(r"\bsk-(?=[\w-]{0,200}?\d)[A-Za-z0-9][\w-]{18,}")),  # OpenAI, Anthropic
    ("GitHub token", re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})")),
    ("Slack token", re.compile(r"\bx(?:ox[a-z]|app)(?:\.xox[a-z])?-[A-Za-z0-9-]{10,}")),
    (
        "Slack webhook",
        re.compile(r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[\w/-]{10,})"),
    ),
    ("Telegram bot token", re.compile(r"(?<![A-Za-z0-9])(?:bot)?(?P<secret>\d{6,12}:[\w-]{32,40})(?![\w-])")),
    ("AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("Google key", re.compile(r"\bAIza[\w-]{35}")),
    ("JSON web token", re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}")),
    ("authorization header", re.compile(r"(?i)\bbearer\s{1,20}(?=\S{0,200}?\d)(?P<secret>[\w.~+/=-]{16,})")),
    (
        "authorization header",
        re.compile(r"(?i)\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic|token)\s+(?P<secret>[\w.~+/=-]{8,})"),
    ),
    (
        "password in a URL",
        re.compile(
            rf"\b[a-z][a-z0-9+.-]{{0,20}}://[^\s/:@\"']{{1,200}}:(?P<secret>{_REAL_VALUE}[^\s/@\"']{{1,500}})@"
        ),
    ),
    (
        "signature in a URL",
        re.compile(r"[?&](?:X-Amz-[\w-]+|sig|Signature|token)=(?P<secret>[\w%.~+/=-]{8,})"),
    ),
    (
        "quoted credential",  # password = "…", "api_key": "…"
        re.compile(rf"(?i){_CREDENTIAL}[\"']?\s*[:=]\s*[\"'](?P<secret>{_REAL_VALUE}[^\"'\n]{{4,}})[\"']"),
    ),
    (
        "credential in the environment",  # HF_TOKEN=…, as shells and .env files write it
        re.compile(
            rf"\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)(?:_ID)?="
            rf"(?P<secret>{_REAL_VALUE}(?!\d+\b)[^\s\"'`;,]{{8,}})"
        ),
    ),
)


_HARMLESS = {
    "quoted credential": re.compile(r"\S*\s[\s\S]*"),  # a story's secret: "We have a new puppy!"
    "credential in the environment": re.compile(r"[a-z_]+(?:\.[a-z_]+)+.*"),  # PAD_TOKEN=tokenizer.eos_token
}
"""By kind, values that are none: text and code that only stand where a credential would."""


class Finding(NamedTuple):
    """Something that looks like a credential. The value itself is not kept."""

    line: int  # from 1
    kind: str


def find_secrets(text: str, *, known: Iterable[str] = ()) -> list[Finding]:
    """Every credential in the text, by line; at most one finding per line and kind.

    Text and code that only stand where a credential would are none: a story may well tell a secret.

    Args:
        text: Anything.
        known: Values that are secret whatever they look like.
    """
    spans = [
        (kind, start)
        for kind, start, end in _spans(text)
        if kind not in _HARMLESS or not _HARMLESS[kind].fullmatch(text, start, end)
    ]
    for value in filter(None, known):
        spans += [("a token of this session", match.start()) for match in re.finditer(re.escape(value), text)]
    return sorted({Finding(text.count("\n", 0, start) + 1, kind) for kind, start in spans})


def scrub(text: str, *, known: Iterable[str | None] = ()) -> str:
    """The text with every credential replaced by its kind in brackets.

    Args:
        text: Anything, such as an error message of a library.
        known: Values that are secret whatever they look like; empty ones are ignored.
    """
    for value in known:
        if value:
            text = text.replace(value, "[redacted]")
    covered = 0
    pieces: list[str] = []
    for kind, start, end in sorted(_spans(text), key=lambda span: (span[1], -span[2])):
        if start < covered:
            continue  # inside, or overlapping, what was already replaced
        pieces += [text[covered:start], f"[redacted: {kind}]"]
        covered = end
    return "".join([*pieces, text[covered:]])


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    for kind, pattern in _PATTERNS:
        group = "secret" if "secret" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            yield kind, match.start(group), match.end(group)
