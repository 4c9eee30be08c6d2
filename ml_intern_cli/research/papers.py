"""Papers: found through Semantic Scholar or, where that does not answer, arXiv; and who cites whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET

from ml_intern_cli.research.arxiv_ids import arxiv_id
from ml_intern_cli.research.attempt import Service
from ml_intern_cli.research.failures import LookupFailed, Unusable
from ml_intern_cli.research.fetch import Fetcher

Direction = Literal["citations", "references"]

_FIELDS = "title,abstract,year,externalIds,url,citationCount,authors"
_ATOM = {"a": "http://www.w3.org/2005/Atom"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What is known of a paper without reading it. ``None`` is not known.

    Attributes:
        url: The page of it, on arXiv where it is there.
        arxiv_id: Without version.
    """

    title: str
    authors: tuple[str, ...]
    year: int | None
    abstract: str
    url: str
    arxiv_id: str | None
    num_citations: int | None


def search_papers(
    fetcher: Fetcher, query: str, *, limit: int, scholar: Service, arxiv_api: str
) -> tuple[Paper, ...]:
    """Papers on a subject, the most relevant first.

    Raises:
        LookupFailed: neither Semantic Scholar nor arXiv can be asked, or the query may not be.
    """
    fetcher.guard.check_text(query)  # as it was written: what follows would take a secret apart
    words = " ".join(query.replace("-", " ").split())  # Semantic Scholar finds nothing for hyphens
    params: dict[str, str | int] = {"query": words, "limit": limit, "fields": _FIELDS}
    try:
        answer = fetcher.get(f"{scholar.base}/graph/v1/paper/search", params=params, service=scholar)
        papers = _from_scholar(_rows(answer.json(), answer.url))
    except LookupFailed as error:
        if isinstance(error, Unusable):
            fetcher.record.miss(error.message)  # a key that is not accepted, say: others were asked instead
        papers = _search_arxiv(fetcher, query, limit=limit, api=arxiv_api)
    fetcher.record.name(paper.url for paper in papers)
    return papers


def paper_links(
    fetcher: Fetcher, paper: str, direction: Direction, *, limit: int, scholar: Service
) -> tuple[Paper, ...]:
    """The papers that cite a paper of arXiv, or those that it refers to.

    Raises:
        InvalidInput: that is no arXiv id.
        LookupFailed: Semantic Scholar cannot be asked, or does not know the paper.
    """
    identifier = arxiv_id(paper).unversioned
    answer = fetcher.get(
        f"{scholar.base}/graph/v1/paper/ARXIV:{identifier}/{direction}",
        params={"limit": limit, "fields": _FIELDS},
        service=scholar,
    )
    key = "citingPaper" if direction == "citations" else "citedPaper"
    rows = _rows(answer.json(), answer.url)
    papers = _from_scholar(row[key] for row in rows if isinstance(row.get(key), dict))
    fetcher.record.name(one.url for one in papers)
    return papers


def arxiv_entry(fetcher: Fetcher, identifier: str, *, api: str) -> Paper:
    """Title and abstract of a paper of arXiv.

    Raises:
        LookupFailed: arXiv cannot be asked, or has no such paper.
    """
    answer = fetcher.get(f"{api}/api/query", params={"id_list": identifier, "max_results": 1})
    papers = _from_atom(answer.text(), answer.url)
    if not papers:
        raise Unusable(f"arXiv: no paper has the id {identifier}", status=404)
    return papers[0]


def _search_arxiv(fetcher: Fetcher, query: str, *, limit: int, api: str) -> tuple[Paper, ...]:
    words = re.findall(r"[\w.-]+", query)
    params: dict[str, str | int] = {
        "search_query": " AND ".join(f"all:{word}" for word in words),
        "max_results": limit,
        "sortBy": "relevance",
    }
    answer = fetcher.get(f"{api}/api/query", params=params)
    return _from_atom(answer.text(), answer.url)


def _rows(answer: Any, url: str) -> list[dict[str, Any]]:
    """The rows of an answer of Semantic Scholar; ``null`` where a publisher keeps them to itself."""
    if not isinstance(answer, dict) or not isinstance(answer.get("data", []), list | None):
        raise Unusable(f"{url}: not the answer of Semantic Scholar")
    return [row for row in answer.get("data") or [] if isinstance(row, dict)]


def _from_scholar(rows: Iterable[Mapping[str, Any]]) -> tuple[Paper, ...]:
    papers = []
    for row in rows:
        identifier = (row.get("externalIds") or {}).get("ArXiv")
        url = f"https://arxiv.org/abs/{identifier}" if identifier else row.get("url")
        if row.get("title") and url:
            papers.append(
                Paper(
                    title=_line(row["title"]),
                    authors=tuple(_line(one.get("name")) for one in row.get("authors") or []),
                    year=row.get("year"),
                    abstract=_line(row.get("abstract")),
                    url=str(url),
                    arxiv_id=identifier,
                    num_citations=row.get("citationCount"),
                )
            )
    return tuple(papers)


def _from_atom(text: str, url: str) -> tuple[Paper, ...]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # no feed has these; they make small files large
        raise Unusable(f"{url}: not the answer of arXiv")
    try:
        feed = ET.fromstring(text)  # noqa: S314, entities were refused
    except (ET.ParseError, ValueError) as error:
        raise Unusable(f"{url}: not the answer of arXiv") from error
    papers = []
    for entry in feed.iterfind("a:entry", _ATOM):
        page = _line(entry.findtext("a:id", "", _ATOM))
        if "/abs/" not in page:  # errors come as entries too
            continue
        identifier = arxiv_id(page).unversioned
        published = entry.findtext("a:published", "", _ATOM)[:4]
        papers.append(
            Paper(
                title=_line(entry.findtext("a:title", "", _ATOM)),
                authors=tuple(
                    _line(name.text) for name in entry.iterfind("a:author/a:name", _ATOM) if name.text
                ),
                year=int(published) if published.isdecimal() else None,
                abstract=_line(entry.findtext("a:summary", "", _ATOM)),
                url=f"https://arxiv.org/abs/{identifier}",
                arxiv_id=identifier,
                num_citations=None,
            )
        )
    return tuple(papers)


def _line(text: object) -> str:
    return " ".join(str(text or "").split())
