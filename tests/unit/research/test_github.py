from __future__ import annotations

import base64
import time

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.failures import NotReached, Unusable
from ml_intern_cli.research.github import RepoFile
from ml_intern_cli.research.library import Library
from tests.unit.research.conftest import everything_at
from tests.unit.research.site import Response, Site, data

REPOSITORY = {
    "full_name": "deepseek-ai/DeepSeek-V3",
    "html_url": "https://github.com/deepseek-ai/DeepSeek-V3",
    "description": None,
    "stargazers_count": 100_000,
    "pushed_at": "2025-08-28T03:24:26Z",
    "language": "Python",
    "license": {"key": "mit", "spdx_id": "MIT"},
}
CODE_URL = "https://github.com/o/r/blob/0f1e/model.py"
HIT = {
    "path": "model.py",
    "html_url": CODE_URL,
    "repository": {"full_name": "o/r"},
    "text_matches": [{"property": "content", "fragment": "class MLA(nn.Module):", "matches": []}],
}
CONTENTS = "/github/repos/o/r/contents"


def file_answer(content: bytes, **facts: object) -> Response:
    return data(
        {
            "type": "file",
            "encoding": "base64",
            "size": len(content),
            "path": "src/model.py",
            "html_url": CODE_URL,
            "content": base64.encodebytes(content).decode(),
            **facts,
        }
    )


def with_token(site: Site) -> Library:
    return Library(
        hub=HubAccess(),
        github_token="own-token",
        addresses=everything_at(site),
        allowed=frozenset({site.place}),
    )


def test_repositories_are_found(library: Library, site: Site) -> None:
    site.routes["/github/search/repositories"] = data({"total_count": 1, "items": [REPOSITORY]})
    (found,) = library.search_repositories("deepseek v3", limit=5)
    assert (found.name, found.num_stars, found.license) == ("deepseek-ai/DeepSeek-V3", 100_000, "MIT")
    assert (found.description, found.pushed_at) == ("", "2025-08-28")
    assert site.asked[0].query == {"q": "deepseek v3", "per_page": "5"}
    assert "authorization" not in site.asked[0].headers
    assert library.record.was_named(found.url)


def test_code_is_searched_with_a_token_and_only_with_one(library: Library, site: Site) -> None:
    site.routes["/github/search/code"] = data({"items": [HIT]})
    with pytest.raises(Unusable, match="GITHUB_TOKEN is not set"):
        library.search_code("class MLA", repo="o/r")
    assert site.asked == []
    (hit,) = with_token(site).search_code("class MLA", repo="o/r")
    assert (hit.repo, hit.path, hit.fragments) == ("o/r", "model.py", ("class MLA(nn.Module):",))
    assert site.asked[0].query["q"] == "class MLA repo:o/r"
    assert site.asked[0].headers["authorization"] == "Bearer own-token"
    assert "text-match" in site.asked[0].headers["accept"]


def test_a_file_is_read_at_the_ref_that_is_asked_for(library: Library, site: Site) -> None:
    site.routes[f"{CONTENTS}/src/model%20%23a.py"] = file_answer("größe = 1\n".encode())
    found = library.read_repo_file("o/r", "/src/./model #a.py", ref="v1.0")
    assert isinstance(found, RepoFile)
    assert (found.text, found.path) == ("größe = 1\n", "src/model.py")
    assert site.asked[0].query == {"ref": "v1.0"}
    assert library.record.was_reached(CODE_URL)


def test_a_folder_is_listed(library: Library, site: Site) -> None:
    entries = [{"type": "dir", "path": "src", "size": 0}, {"type": "file", "path": "a.py", "size": 12}]
    site.routes |= {CONTENTS: data(entries), f"{CONTENTS}/a.py": file_answer(b"x")}
    assert [(one.kind, one.path, one.num_bytes) for one in library.list_repo("o/r")] == [
        ("dir", "src", 0),
        ("file", "a.py", 12),
    ]
    with pytest.raises(Unusable, match="is a file"):
        library.list_repo("o/r", "a.py")


@pytest.mark.parametrize(
    "repo", ["", "o", "o/r/x", "o/..", "../r", "o/r?x=1", "-o/r", "https://github.com/o/r"]
)
def test_what_is_no_repository_is_refused(repo: str, library: Library, site: Site) -> None:
    with pytest.raises(InvalidInput, match="no repository"):
        library.read_repo_file(repo, "a.py")
    with pytest.raises(InvalidInput, match="leads out"):
        library.read_repo_file("o/r", "a/../../../user")
    assert site.asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (file_answer(b"", encoding="none", size=3_000_000), "3,000,000 bytes, too large"),
        (file_answer(b"\x80\xff\x00"), "not a text file"),
        (data({"type": "submodule"}), "a: submodule that cannot be read"),
        (data("odd"), "a: something that cannot be read"),
        (data({"message": "Not Found"}, 404), "not found"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    answer: Response, said: str, library: Library, site: Site
) -> None:
    site.routes[f"{CONTENTS}/a"] = answer
    with pytest.raises(Unusable, match=said):
        library.read_repo_file("o/r", "a")
    assert not library.record.was_reached(CODE_URL)


def test_a_limit_that_is_used_up_is_said_and_not_tried_against(library: Library, site: Site) -> None:
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 1800)}
    site.routes["/github/search/repositories"] = Response(b"{}", 403, headers)
    with pytest.raises(NotReached, match=r"too many requests \(403, asks to wait 1[78]\d\d s\)"):
        library.search_repositories("anything")
    assert len(site.asked) == 1


def test_a_token_that_is_not_accepted_is_named(site: Site) -> None:
    site.routes["/github/search/repositories"] = data({"message": "Bad credentials"}, 401)
    with pytest.raises(Unusable, match=r"does not accept GITHUB_TOKEN \(401\)"):
        with_token(site).search_repositories("anything")
