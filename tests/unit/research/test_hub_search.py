from __future__ import annotations

from collections.abc import Iterator

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.failures import NotAllowed, NotReached, Unusable
from ml_intern_cli.research.library import Addresses, Library
from tests.loopback_hub import LoopbackHub
from tests.unit.research.conftest import everything_at
from tests.unit.research.site import Site, data

CARD = b"---\nlicense: cc-by-4.0\n---\n# Rows\n\nRead me.\n"
INFO = {
    "dataset_info": {
        "default": {
            "features": {
                "text": {"dtype": "string", "_type": "Value"},
                "label": {"names": ["a", "b"], "_type": "ClassLabel"},
                "tokens": [{"dtype": "int64", "_type": "Value"}],
            },
            "splits": {
                "train": {"name": "train", "num_bytes": 900, "num_examples": 30},
                "test": {"name": "test"},
            },
        }
    },
    "pending": [],
    "failed": [],
    "partial": False,
}
ROWS = {
    "features": [],
    "rows": [{"row_idx": 0, "row": {"text": "one"}, "truncated_cells": []}],
    "truncated": True,
}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


def library_at(hub: LoopbackHub, site: Site | None = None, *, token: str | None = None) -> Library:
    return Library(
        hub=HubAccess(endpoint=hub.url, token=token),
        addresses=everything_at(site) if site else Addresses(),
        allowed=frozenset({site.place} if site else ()),
    )


def test_models_and_datasets_are_found(hub: LoopbackHub) -> None:
    hub.add("org/stories-model", {"README.md": CARD})
    hub.add("org/stories", {"README.md": CARD}, kind="datasets")
    library = library_at(hub)
    assert [one.url for one in library.search_hub("models", "stories")] == [f"{hub.url}/org/stories-model"]
    assert [one.url for one in library.search_hub("datasets", "stories")] == [
        f"{hub.url}/datasets/org/stories"
    ]
    assert library.search_hub("models", "nothing-like-it") == ()
    assert library.record.was_named(f"{hub.url}/datasets/org/stories")


def test_a_model_is_described_at_one_revision(hub: LoopbackHub) -> None:
    revision = hub.add("org/model", {"README.md": CARD, "config.json": b"{}"})
    library = library_at(hub, token=hub.token)
    found = library.describe_model("org/model")
    assert (found.repo.revision, found.repo.gated) == (revision, False)
    assert found.card == "# Rows\n\nRead me."
    assert set(found.files) == {"README.md", "config.json"}
    assert found.not_known == ()
    assert library.record.was_reached(f"{hub.url}/org/model")
    assert hub.count(f"GET /org/model/resolve/{revision}/README.md") == 1
    assert {request.authorization for request in hub.requests} == {f"Bearer {hub.token}"}


def test_without_a_token_none_is_sent_even_where_one_is_stored(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    hub.add("org/model", {"config.json": b"{}"})
    found = library_at(hub).describe_model("org/model")
    assert (found.card, found.not_known) == ("", ("card: it has none",))
    assert {request.authorization for request in hub.requests} == {None}


def test_a_dataset_is_described_with_its_splits_columns_and_rows(hub: LoopbackHub, site: Site) -> None:
    hub.add("org/rows", {"README.md": CARD}, kind="datasets")
    site.routes |= {"/viewer/info": data(INFO), "/viewer/first-rows": data(ROWS)}
    found = library_at(hub, site, token=hub.token).describe_dataset("org/rows")
    assert [(one.config, one.name, one.num_rows, one.num_bytes) for one in found.splits] == [
        ("default", "train", 30, 900),
        ("default", "test", None, None),
    ]
    assert found.columns == {"default": {"text": "string", "label": "ClassLabel", "tokens": "list"}}
    assert found.rows == ({"text": "one"},)
    assert found.not_known == ()
    assert site.asked[1].query == {"dataset": "org/rows", "config": "default", "split": "train"}
    assert all("authorization" not in one.headers for one in site.asked)  # the token is the Hub's


def test_what_the_viewer_does_not_say_is_said_to_be_unknown(hub: LoopbackHub, site: Site) -> None:
    hub.add("org/rows", {"README.md": CARD}, kind="datasets")
    library = library_at(hub, site)
    found = library.describe_dataset("org/rows")
    assert found.splits == ()
    assert found.not_known == (
        f"splits and columns: {site.url}/viewer/info?dataset=org%2Frows: not found (404)",
    )
    site.routes["/viewer/info"] = data({"dataset_info": ["odd"]})
    assert "answered oddly" in library.describe_dataset("org/rows").not_known[0]


def test_the_public_viewer_is_not_told_of_datasets_of_another_hub(hub: LoopbackHub) -> None:
    hub.add("org/rows", {"README.md": CARD}, kind="datasets")
    library = library_at(hub)
    found = library.describe_dataset("org/rows")
    assert found.not_known == ("splits and columns: this Hub has no dataset viewer",)
    assert library.missed == []


def test_what_the_hub_does_not_have_is_said_not_to_be_there(hub: LoopbackHub) -> None:
    library = library_at(hub)
    with pytest.raises(Unusable, match="no public org/none; a private one needs HF_TOKEN"):
        library.describe_model("org/none")
    assert (library.reached, library.missed) == (frozenset(), [])


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../x", "org/..", "org/a?b", "org/ä"])
def test_what_is_no_id_is_not_asked_for(repo_id: str, hub: LoopbackHub) -> None:
    with pytest.raises(InvalidInput, match="no id of the Hub"):
        library_at(hub).describe_model(repo_id)
    assert hub.requests == []


def test_a_query_with_a_secret_does_not_reach_the_hub(hub: LoopbackHub) -> None:
    with pytest.raises(NotAllowed, match="looks like a secret"):
        library_at(hub, token="own-secret-token").search_hub("models", "say own-secret-token")
    assert hub.requests == []


def test_offline_the_hub_is_not_asked(hub: LoopbackHub) -> None:
    library = Library(hub=HubAccess(endpoint=hub.url, offline=True))
    with pytest.raises(NotReached, match="offline"):
        library.search_hub("models", "anything")
    assert hub.requests == []
    assert library.missed == [f"{hub.url.removeprefix('http://')}: offline (HF_HUB_OFFLINE is set)"]


def test_a_hub_that_is_away_is_not_reached() -> None:
    library = Library(hub=HubAccess(endpoint="http://127.0.0.1:9"))
    with pytest.raises(NotReached, match=r"127\.0\.0\.1:9: no network \(.*refused"):
        library.describe_model("org/model")
    assert len(library.missed) == 1
