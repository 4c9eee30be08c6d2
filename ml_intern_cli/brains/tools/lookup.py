"""Tools that look things up. What they bring from outside is quoted, so that it is read as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.research.github import CodeHit, RepoFile, Repository
from ml_intern_cli.research.hub_search import HubDescription, HubRepo
from ml_intern_cli.research.library import Library
from ml_intern_cli.research.papers import Paper
from ml_intern_cli.research.quoted import quote
from ml_intern_cli.research.reading import PaperText
from ml_intern_cli.research.web import PAGE_CHARS

A = TypeVar("A", bound=Arguments)
Answered = tuple[str, str]  # text, and the address it is from

_ABSTRACT_CHARS = 700
_CARD_CHARS = 8_000
_MAX_LISTED = 80

Query = Annotated[str, Field(min_length=2, max_length=300)]
Limit = Annotated[int, Field(ge=1, le=25)]
Start = Annotated[int, Field(ge=0, description="Where in the text to start, in characters.")]


class ReadWebPage(Arguments):
    """Arguments of read_web_page."""

    url: Annotated[str, Field(max_length=2000, description="An https:// address.")]
    start: Start = 0


class SearchPapers(Arguments):
    """Arguments of search_papers."""

    query: Query
    limit: Limit = 8


class ReadPaper(Arguments):
    """Arguments of read_paper."""

    arxiv_id: Annotated[str, Field(max_length=200, description="Like 2412.19437 or cs/0112017.")]
    section: Annotated[
        str | None, Field(max_length=200, description="Title or number; without it, the list of sections.")
    ] = None
    start: Start = 0


class PaperLinks(Arguments):
    """Arguments of paper_links."""

    arxiv_id: Annotated[str, Field(max_length=200)]
    direction: Literal["citations", "references"]
    limit: Limit = 15


class SearchHub(Arguments):
    """Arguments of search_hub."""

    kind: Literal["models", "datasets"]
    query: Query
    limit: Limit = 10


class Describe(Arguments):
    """Arguments of describe_dataset and describe_model."""

    id: Annotated[str, Field(max_length=200, description="owner/name")]


class SearchGithub(Arguments):
    """Arguments of search_github."""

    kind: Literal["repositories", "code"]
    query: Query
    repo: Annotated[str | None, Field(description="owner/name: search the code of this one only.")] = None
    limit: Limit = 8


class ReadGithubFile(Arguments):
    """Arguments of read_github_file."""

    repo: Annotated[str, Field(description="owner/name")]
    path: Annotated[str, Field(description="From the root; a folder, or empty, is listed.")] = ""
    ref: Annotated[str | None, Field(description="Branch, tag or commit; default: the main branch.")] = None
    start: Start = 0


def lookup_tools(library: Library) -> tuple[Tool, ...]:  # noqa: C901, a small function for each tool
    """The tools; what they reached and missed stands in ``library.record``."""

    def quoting(run: Callable[[A], Answered]) -> Callable[[A], str]:
        def quoted(arguments: A) -> str:
            try:
                text, source = run(arguments)
            except MlInternError as error:
                raise ToolFailed(
                    f"{error.message} ({error.hint})" if error.hint else error.message
                ) from error
            return quote(text, source=source, hide=library.hidden)

        return quoted

    def read_web_page(given: ReadWebPage) -> Answered:
        page = library.read_page(given.url, start=given.start)
        return _part(page.text, page.start, page.total_chars, title=page.title, is_cut=page.is_cut), page.url

    def search_papers(given: SearchPapers) -> Answered:
        return _papers(library.search_papers(given.query, limit=given.limit)), "a search for papers"

    def read_paper(given: ReadPaper) -> Answered:
        paper = library.read_paper(given.arxiv_id)
        if given.section is None:
            return _contents(paper), paper.url
        section = paper.section(given.section)
        text = section.text[given.start : given.start + PAGE_CHARS]
        return _part(text, given.start, len(section.text), title=f"{paper.title}: {section.title}"), paper.url

    def paper_links(given: PaperLinks) -> Answered:
        found = library.paper_links(given.arxiv_id, given.direction, limit=given.limit)
        return _papers(found), f"Semantic Scholar, {given.direction}"

    def search_hub(given: SearchHub) -> Answered:
        found = library.search_hub(given.kind, given.query, limit=given.limit)
        return "\n".join(map(_hub_line, found)) or "nothing found", library.hub.address

    def describe_dataset(given: Describe) -> Answered:
        found = library.describe_dataset(given.id)
        return _described(found), found.repo.url

    def describe_model(given: Describe) -> Answered:
        found = library.describe_model(given.id)
        return _described(found), found.repo.url

    def search_github(given: SearchGithub) -> Answered:
        if given.kind == "code":
            hits = library.search_code(given.query, repo=given.repo, limit=given.limit)
            return "\n\n".join(map(_hit, hits)) or "nothing found", "GitHub, code"
        if given.repo is not None:
            raise ToolFailed('repo narrows a search for code only: leave it out, or use kind "code"')
        found = library.search_repositories(given.query, limit=given.limit)
        return "\n".join(map(_repository, found)) or "nothing found", "GitHub, repositories"

    def read_github_file(given: ReadGithubFile) -> Answered:
        found = library.read_repo_file(given.repo, given.path, ref=given.ref)
        if isinstance(found, RepoFile):
            text = found.text[given.start : given.start + PAGE_CHARS]
            return _part(text, given.start, len(found.text), title=found.path), found.url
        lines = [f"{one.kind} {one.path} {one.num_bytes:,} bytes" for one in found]
        return _listed(lines, limit=400) or "an empty folder", f"https://github.com/{given.repo}"

    def look(name: str, about: str, arguments: type[A], run: Callable[[A], Answered]) -> Tool:
        return tool(name, about, arguments, quoting(run), read_only=True)

    return (
        look(
            "read_web_page",
            "Read a public web page as text, a part at a time. PDFs cannot be read.",
            ReadWebPage,
            read_web_page,
        ),
        look(
            "search_papers",
            "Find papers by subject: title, authors, year, citations, abstract, arXiv id.",
            SearchPapers,
            search_papers,
        ),
        look(
            "read_paper",
            "Read a paper of arXiv: first the list of its sections, then a section at a time. "
            "Where it has no HTML, only the abstract can be had, and the answer says so.",
            ReadPaper,
            read_paper,
        ),
        look("paper_links", "The papers that cite a paper, or that it cites.", PaperLinks, paper_links),
        look(
            "search_hub",
            "Find models or datasets on the Hugging Face Hub, the most downloaded first.",
            SearchHub,
            search_hub,
        ),
        look(
            "describe_dataset",
            "A dataset of the Hub: its licence, card, files, splits, columns and first rows.",
            Describe,
            describe_dataset,
        ),
        look(
            "describe_model",
            "A model of the Hub: its licence, size, card and files.",
            Describe,
            describe_model,
        ),
        look(
            "search_github",
            "Find repositories on GitHub or, where the user has a token, lines of code.",
            SearchGithub,
            search_github,
        ),
        look(
            "read_github_file",
            "Read a file of a GitHub repository, or list a folder of it.",
            ReadGithubFile,
            read_github_file,
        ),
    )


def _part(text: str, start: int, total_chars: int, *, title: str, is_cut: bool = False) -> str:
    """A part of a text, under a line that says which, and how to go on."""
    end = start + len(text)
    if not text and start:
        raise ToolFailed(f"the text ends at {total_chars:,} characters: there is nothing at {start:,}")
    more = (
        f", go on with start={end}" if end < total_chars else ", cut: the rest is too long" if is_cut else ""
    )
    return f"{title or 'no title'} · characters {start:,} to {end:,} of {total_chars:,}{more}\n\n{text}"


def _papers(papers: Sequence[Paper]) -> str:
    return "\n\n".join(map(_paper, papers)) or "nothing found"


def _paper(paper: Paper) -> str:
    authors = ", ".join(paper.authors[:4]) + (" and others" if len(paper.authors) > 4 else "")
    cited = f" · cited {paper.num_citations:,} times" if paper.num_citations is not None else ""
    abstract = _shortened(paper.abstract, _ABSTRACT_CHARS) or "no abstract"
    return f"{paper.title} ({paper.year or 'no year'}) · {authors}{cited}\n{paper.url}\n{abstract}"


def _contents(paper: PaperText) -> str:
    """What of a paper can be read: all of a short text, else its first words and the list of its sections."""
    lines = [f"{paper.title} · {paper.id} · {paper.source}{', cut: it is too long' if paper.is_cut else ''}"]
    lines += [f"note: {note}" for note in paper.notes]
    if paper.source == "abstract":
        return "\n".join([*lines, "only the abstract could be read:", "", paper.sections[0].text])
    abstract = next((one for one in paper.sections if "abstract" in one.title.lower()), None)
    if abstract is not None:
        lines += ["", _shortened(abstract.text, 3_000)]
    lines += ["", "sections:"]
    lines += [f"{'  ' * (one.level - 1)}{one.title} ({len(one.text):,} characters)" for one in paper.sections]
    return "\n".join(lines)


def _hub_line(repo: HubRepo) -> str:
    facts = [
        repo.url,
        f"licence {repo.license}",
        f"{repo.downloads:,} downloads" if repo.downloads is not None else "",
        f"{repo.likes:,} likes" if repo.likes is not None else "",
        f"{repo.num_params:,} parameters" if repo.num_params is not None else "",
        f"changed {repo.modified}" if repo.modified else "",
        "gated" if repo.gated else "",
    ]
    return f"{repo.id} · {' · '.join(filter(None, facts))}"


def _described(found: HubDescription) -> str:
    lines = [_hub_line(found.repo), f"revision {found.repo.revision}"]
    if found.repo.tags:
        lines.append(f"tags: {', '.join(found.repo.tags[:40])}")
    for split in found.splits[:_MAX_LISTED]:
        rows = "unknown" if split.num_rows is None else f"{split.num_rows:,}"
        size = "" if split.num_bytes is None else f", {split.num_bytes:,} bytes"
        lines.append(f"split {split.config}/{split.name}: {rows} rows{size}")
    for config, columns in found.columns.items():
        shown = ", ".join(f"{name} {kind}" for name, kind in list(columns.items())[:_MAX_LISTED])
        lines.append(f"columns of {config}: {shown}")
    lines += [
        f"row {number}: {_shortened(json.dumps(row, ensure_ascii=False), 1_000)}"
        for number, row in enumerate(found.rows)
    ]
    lines += [f"not known: {one}" for one in found.not_known]
    lines.append(f"files: {_listed(found.files, separator=', ')}")
    return "\n".join([*lines, "", _shortened(found.card, _CARD_CHARS)]).rstrip()


def _repository(repo: Repository) -> str:
    facts = [repo.url, f"{repo.num_stars:,} stars", repo.language or "", repo.license or "no licence"]
    about = _shortened(repo.description, 200)
    return f"{repo.name} · {' · '.join(filter(None, facts))} · pushed {repo.pushed_at} · {about}"


def _hit(hit: CodeHit) -> str:
    fragments = "\n…\n".join(_shortened(one, 600) for one in hit.fragments[:3])
    return f"{hit.repo} {hit.path}\n{hit.url}\n{fragments}"


def _listed(lines: Iterable[str], *, separator: str = "\n", limit: int = _MAX_LISTED) -> str:
    every = list(lines)
    more = [f"and {len(every) - limit} more"] if len(every) > limit else []
    return separator.join([*every[:limit], *more])


def _shortened(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else f"{text[:num_chars]}… ({len(text):,} characters in all)"
