"""RESEARCH.md: what was found, as bullets with URLs."""

from __future__ import annotations

import re

from ml_intern_cli.documents.draft import Draft
from ml_intern_cli.documents.form import Form
from ml_intern_cli.documents.markdown import Section
from ml_intern_cli.documents.model import Model, Url
from ml_intern_cli.documents.parts import NOTHING, Items, OneField, Text, bullets, is_plain_item
from ml_intern_cli.documents.values import TEXT, quote


class Finding(Model):
    """One fact and where it stands."""

    text: str
    url: Url


class Research(Model):
    """All findings, in the order they matter."""

    question: str  # what was looked for, one line
    findings: tuple[Finding, ...]
    not_reached: tuple[str, ...] = ()  # sources that could not be asked, and why


# As it is written here: "text <url>". As people also write it: "text: url", "see [text](url)".
_FINDING = re.compile(r"(?P<text>.*?)\s*<(?P<url>[^\s<>]+)>", re.DOTALL)
_BARE_URL = re.compile(r"(?P<text>.*?)[\s—–:-]*\s(?P<url>https?://[^\s<>]+)", re.DOTALL)
_LINK = re.compile(r"(?P<text>.*?\[[^\]]+)\]\((?P<url>[^\s<>()]+)\)", re.DOTALL)


class _Findings(OneField):
    """One bullet per finding, the URL last."""

    def read(self, section: Section, draft: Draft) -> None:
        draft.put(self.names, [], section.line)
        for block in bullets(section):
            finding = _read_finding(block.text)
            if finding is None:
                draft.problem(block.line, None, "expected '- what was found <https://…>'")
            else:
                draft.append(self.names, finding, block.line)

    def write(self, document: Model) -> str:
        findings = getattr(document, self.name)
        return "\n".join(f"- {_write_finding(finding)}" for finding in findings) or NOTHING


def _read_finding(text: str) -> dict[str, object] | None:
    for pattern in (_FINDING, _BARE_URL, _LINK):
        match = pattern.fullmatch(text)
        if match:
            found = match["text"].replace("[", "") if pattern is _LINK else match["text"]
            return {"text": TEXT.read(found), "url": match["url"]}
    return None


def _write_finding(finding: Finding) -> str:
    plain = f"{finding.text} <{finding.url}>"
    reads_back = _read_finding(plain) == finding.model_dump()
    return plain if reads_back and is_plain_item(plain) else f"{quote(finding.text)} <{finding.url}>"


_FORM = Form(
    Research,
    title="Research",
    sections={
        "Question": (Text("question"),),
        "Findings": (_Findings("findings"),),
        "Not reached": (Items("not_reached"),),
    },
)
parse = _FORM.parse
render = _FORM.render
