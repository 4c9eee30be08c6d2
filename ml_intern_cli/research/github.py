"""Repositories on GitHub: found, listed and read through its interface, without cloning anything."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.attempt import Service
from ml_intern_cli.research.failures import Unusable
from ml_intern_cli.research.fetch import Fetcher

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[\w.-]{1,100}", re.ASCII)
_KINDS = frozenset({"dir", "symlink", "submodule"})
_JSON = "application/vnd.github+json"
_MATCHES = "application/vnd.github.text-match+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository. ``None`` is not known."""

    name: str
    url: str
    description: str
    num_stars: int
    pushed_at: str
    language: str | None
    license: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeHit:
    """A file that holds what was looked for, and the places around it."""

    repo: str
    path: str
    url: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something in a folder. ``kind`` is "file", "dir", "symlink" or "submodule"."""

    path: str
    kind: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """A file, and the page of it."""

    path: str
    url: str
    text: str


def search_repositories(
    fetcher: Fetcher, query: str, *, limit: int, github: Service
) -> tuple[Repository, ...]:
    """Repositories on a subject, as GitHub ranks them.

    Raises:
        LookupFailed: GitHub cannot be asked.
    """
    answer = _ask(fetcher, github, "/search/repositories", params={"q": query, "per_page": limit})
    found = tuple(
        Repository(
            name=str(one.get("full_name")),
            url=str(one.get("html_url")),
            description=str(one.get("description") or ""),
            num_stars=int(one.get("stargazers_count") or 0),
            pushed_at=str(one.get("pushed_at") or "")[:10],
            language=one.get("language"),
            license=(one.get("license") or {}).get("spdx_id"),
        )
        for one in _items(answer)
    )
    fetcher.record.name(one.url for one in found)
    return found


def search_code(
    fetcher: Fetcher, query: str, *, repo: str | None, limit: int, github: Service
) -> tuple[CodeHit, ...]:
    """Files that hold the words, in one repository or in all.

    Raises:
        InvalidInput: ``repo`` is no name of a repository.
        LookupFailed: GitHub cannot be asked, as without a token.
    """
    if not github.key:
        raise Unusable(
            "GitHub searches code only for those who log in: GITHUB_TOKEN is not set", hint="set GITHUB_TOKEN"
        )
    words = f"{query} repo:{_checked(repo)}" if repo else query
    answer = _ask(fetcher, github, "/search/code", params={"q": words, "per_page": limit}, accept=_MATCHES)
    found = tuple(
        CodeHit(
            repo=str((one.get("repository") or {}).get("full_name")),
            path=str(one.get("path")),
            url=str(one.get("html_url")),
            fragments=tuple(str(match.get("fragment")) for match in one.get("text_matches") or []),
        )
        for one in _items(answer)
    )
    fetcher.record.name(one.url for one in found)
    return found


def read_repo_file(
    fetcher: Fetcher, repo: str, path: str, *, ref: str | None, github: Service
) -> RepoFile | tuple[Entry, ...]:
    """A file, or the entries of a folder where the path is one.

    The repository is ``owner/name``; the default branch is read where no branch, tag or commit is given.

    Raises:
        InvalidInput: ``repo`` is no name of a repository, or the path leads out of it.
        LookupFailed: GitHub cannot be asked, has no such file, or it is no text.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise InvalidInput(f"{path!r} leads out of the repository", hint="give a path from its root")
    answer = _ask(
        fetcher,
        github,
        f"/repos/{_checked(repo)}/contents/{'/'.join(quote(part, safe='') for part in parts)}".rstrip("/"),
        params={"ref": ref} if ref else {},
    )
    if isinstance(answer, list):
        fetcher.record.reach(f"https://github.com/{repo}")
        return tuple(
            Entry(path=str(one.get("path")), kind=str(one.get("type")), num_bytes=int(one.get("size") or 0))
            for one in answer
            if isinstance(one, dict)
        )
    text = _decoded(answer, what=f"{repo}/{path}")
    url = str(answer.get("html_url"))
    fetcher.record.reach(url)
    return RepoFile(path=str(answer.get("path")), url=url, text=text)


def list_repo(
    fetcher: Fetcher, repo: str, folder: str, *, ref: str | None, github: Service
) -> tuple[Entry, ...]:
    """What is in a folder. Raises as ``read_repo_file``, and Unusable where the path is a file."""
    found = read_repo_file(fetcher, repo, folder, ref=ref, github=github)
    if isinstance(found, RepoFile):
        raise Unusable(f"{repo}/{folder} is a file")
    return found


def _ask(
    fetcher: Fetcher, github: Service, path: str, *, params: dict[str, str | int], accept: str = _JSON
) -> Any:
    return fetcher.get(f"{github.base}{path}", params=params, service=github, accept=accept).json()


def _items(answer: Any) -> list[dict[str, Any]]:
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise Unusable("GitHub answered with what is no list of results")
    return [one for one in items if isinstance(one, dict) and one.get("html_url")]


def _decoded(answer: Any, *, what: str) -> str:
    if not isinstance(answer, dict) or answer.get("type") != "file":
        kind = answer.get("type") if isinstance(answer, dict) else None
        raise Unusable(f"{what}: {kind if kind in _KINDS else 'something'} that cannot be read")
    if answer.get("encoding") != "base64":  # what is over 1 MB comes without content
        raise Unusable(f"{what}: {int(answer.get('size') or 0):,} bytes, too large to read")
    try:
        return base64.b64decode(str(answer.get("content"))).decode()
    except ValueError as error:
        raise Unusable(f"{what}: not a text file") from error


def _checked(repo: str) -> str:
    if not _REPO.fullmatch(repo):
        raise InvalidInput(f"{repo[:150]!r} is no repository", hint="write it as owner/name")
    return repo
