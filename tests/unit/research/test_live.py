"""The services themselves: whether they still speak what the other tests say they do."""

from __future__ import annotations

import socket

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.research.library import Library

pytestmark = pytest.mark.live


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, real_connect: object) -> Library:
    monkeypatch.setattr(socket.socket, "connect", real_connect)
    return Library(hub=HubAccess())


def test_a_paper_is_found_read_and_its_references_are_known(library: Library) -> None:
    assert any("attention" in one.title.lower() for one in library.search_papers("attention is all you need"))
    paper = library.read_paper("1706.03762")
    assert "Attention" in paper.title
    assert library.record.was_reached("https://arxiv.org/abs/1706.03762")
    assert library.paper_links("1706.03762", "references")


def test_the_hub_knows_a_dataset_and_its_splits(library: Library) -> None:
    found = library.describe_dataset("roneneldan/TinyStories")
    assert {"train", "validation"} <= {one.name for one in found.splits}
    assert "text" in next(iter(found.columns.values()))


def test_github_shows_a_file(library: Library) -> None:
    assert "README.md" in {one.path for one in library.list_repo("karpathy/nanoGPT")}
    assert library.search_repositories("nanoGPT")
