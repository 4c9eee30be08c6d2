from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.research.library import Addresses, Library
from tests.unit.research.site import Site

_CONNECT = socket.socket.connect


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def other() -> Iterator[Site]:
    """A second server: another host, as far as keys and permissions go."""
    with Site() as site:
        yield site


def everything_at(site: Site) -> Addresses:
    return Addresses(
        arxiv=f"{site.url}/arxiv",
        arxiv_api=f"{site.url}/arxiv-api",
        ar5iv=f"{site.url}/ar5iv",
        scholar=f"{site.url}/scholar",
        github=f"{site.url}/github",
        dataset_viewer=f"{site.url}/viewer",
    )


@pytest.fixture
def library(site: Site) -> Library:
    """A library whose services are all on the site."""
    return Library(hub=HubAccess(), addresses=everything_at(site), allowed=frozenset({site.place}))


@pytest.fixture
def real_connect() -> object:
    """What live tests undo the wall around the others with."""
    return _CONNECT
