"""Tools that look things up. What they bring from outside is quoted, so that it is read as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from ml_intern_cli.brains.tools.findings import (
    about_code,
    about_hub,
    about_repository,
    contents,
    hub_line,
    list_papers,
    listed,
    part,
)
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.research.github import RepoFile
from ml_intern_cli.research.library import Library
from ml_intern_cli.research.quoted import quote
from ml_intern_cli.research.web import PAGE_CHARS

A = TypeVar("A", bound=Arguments)
Answered = tuple[str, str]  # text, and the address it is from

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


def lookup_tools(library: Library) -> tuple[Tool, ...]:
    """The tools; what they reached and missed stands in ``library.record``."""

    def look(name: str, about: str, arguments: type[A], run: Callable[[Library, A], Answered]) -> Tool:
        return tool(name, about, arguments, _quoting(library, run), read_only=True)

    return (
        look(
            "read_web_page",
            "Read a public web page as text, a part at a time. PDFs cannot be read.",
            ReadWebPage,
            _read_web_page,
        ),
        look(
            "search_papers",
            "Find papers by subject: title, authors, year, citations, abstract, arXiv id.",
            SearchPapers,
            _search_papers,
        ),
        look(
            "read_paper",
            "Read a paper of arXiv: first the list of its sections, then a section at a time. "
            "Where it has no HTML, only the abstract can be had, and the answer says so.",
            ReadPaper,
            _read_paper,
        ),
        look("paper_links", "The papers that cite a paper, or that it cites.", PaperLinks, _paper_links),
        look(
            "search_hub",
            "Find models or datasets on the Hugging Face Hub, the most downloaded first.",
            SearchHub,
            _search_hub,
        ),
        look(
            "describe_dataset",
            "A dataset of the Hub: its licence, card, files, splits, columns and first rows.",
            Describe,
            _describe_dataset,
        ),
        look(
            "describe_model",
            "A model of the Hub: its licence, size, card and files.",
            Describe,
            _describe_model,
        ),
        look(
            "search_github",
            "Find repositories on GitHub or, where the user has a token, lines of code.",
            SearchGithub,
            _search_github,
        ),
        look(
            "read_github_file",
            "Read a file of a GitHub repository, or list a folder of it.",
            ReadGithubFile,
            _read_github_file,
        ),
    )


def _quoting(library: Library, run: Callable[[Library, A], Answered]) -> Callable[[A], str]:
    """A function of a tool: its answer in quotes, its failure as one of the tool."""

    def quoted(given: A) -> str:
        try:
            text, source = run(library, given)
        except ToolFailed:
            raise
        except MlInternError as error:
            raise ToolFailed(f"{error.message} ({error.hint})" if error.hint else error.message) from error
        return quote(text, source=source, hide=library.hidden)

    return quoted


def _read_web_page(library: Library, given: ReadWebPage) -> Answered:
    page = library.read_page(given.url, start=given.start)
    return part(page.text, page.start, page.total_chars, title=page.title, is_cut=page.is_cut), page.url


def _search_papers(library: Library, given: SearchPapers) -> Answered:
    return list_papers(library.search_papers(given.query, limit=given.limit)), "a search for papers"


def _read_paper(library: Library, given: ReadPaper) -> Answered:
    paper = library.read_paper(given.arxiv_id)
    if given.section is None:
        return contents(paper), paper.url
    section = paper.section(given.section)
    text = section.text[given.start : given.start + PAGE_CHARS]
    return part(text, given.start, len(section.text), title=f"{paper.title}: {section.title}"), paper.url


def _paper_links(library: Library, given: PaperLinks) -> Answered:
    found = library.paper_links(given.arxiv_id, given.direction, limit=given.limit)
    return list_papers(found), f"Semantic Scholar, {given.direction}"


def _search_hub(library: Library, given: SearchHub) -> Answered:
    found = library.search_hub(given.kind, given.query, limit=given.limit)
    return "\n".join(map(hub_line, found)) or "nothing found", library.hub.address


def _describe_dataset(library: Library, given: Describe) -> Answered:
    found = library.describe_dataset(given.id)
    return about_hub(found), found.repo.url


def _describe_model(library: Library, given: Describe) -> Answered:
    found = library.describe_model(given.id)
    return about_hub(found), found.repo.url


def _search_github(library: Library, given: SearchGithub) -> Answered:
    if given.kind == "code":
        hits = library.search_code(given.query, repo=given.repo, limit=given.limit)
        return "\n\n".join(map(about_code, hits)) or "nothing found", "GitHub, code"
    if given.repo is not None:
        raise ToolFailed('repo narrows a search for code only: leave it out, or use kind "code"')
    found = library.search_repositories(given.query, limit=given.limit)
    return "\n".join(map(about_repository, found)) or "nothing found", "GitHub, repositories"


def _read_github_file(library: Library, given: ReadGithubFile) -> Answered:
    found = library.read_repo_file(given.repo, given.path, ref=given.ref)
    if isinstance(found, RepoFile):
        text = found.text[given.start : given.start + PAGE_CHARS]
        return part(text, given.start, len(found.text), title=found.path), found.url
    lines = [f"{one.kind} {one.path} {one.num_bytes:,} bytes" for one in found]
    return listed(lines, limit=400) or "an empty folder", f"https://github.com/{given.repo}"
