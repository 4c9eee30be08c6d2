from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.errors import Blocked, MlInternError, StorageFailed
from ml_intern_cli.hub.publish import Publication, publish_folder, publish_hub
from tests.loopback_hub import LoopbackHub

# huggingface_hub uploads with an argument of httpx2 that is deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "ml-intern-a-run-20261120-2337"
BLOCKED_WAYS = (
    "HF_TOKEN=… ml-intern publish a-run --publish hub",
    "ml-intern publish a-run --publish folder",
)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("ml_intern_cli.hub.client.RETRY_WAIT_S", 0.01)
    with LoopbackHub() as loopback:
        yield loopback


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n")
    (folder / "train.log").write_text("step=1 loss=5.1\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    return folder


class Publisher:
    """Publishes, and keeps what it was told on the way."""

    def __init__(self, bundle: Path, hub: LoopbackHub) -> None:
        self.bundle = bundle
        self.access = {"endpoint": hub.url, "token": hub.token}
        self.created: list[str] = []
        self.tested: list[dict[str, bytes]] = []

    def __call__(self, *, repo_id: str | None = None, **access) -> Publication:
        return publish_hub(
            self.bundle,
            slug="a-run",
            name=NAME,
            hub=HubAccess(**(self.access | access)),
            scratch_dir=self.bundle.parent,
            run_load_test=self.load_test,
            repo_id=repo_id,
            on_created=self.created.append,
            report=lambda _: None,
        )

    def load_test(self, folder: Path) -> str:
        self.tested.append({path.name: path.read_bytes() for path in folder.iterdir()})
        return "load test passed: 1 parameter"


@pytest.fixture
def publish(bundle, hub):
    return Publisher(bundle, hub)


def test_every_file_arrives_and_the_load_test_sees_the_download(publish, hub, bundle):
    sent = {path.name: path.read_bytes() for path in bundle.iterdir()}
    published = publish()
    repository = hub.repositories["models", f"me/{NAME}"]
    assert published == Publication(
        name=NAME,
        location=f"{hub.url}/me/{NAME}",
        revision=repository.head,
        load_test="load test passed: 1 parameter",
    )
    assert hub.files(f"me/{NAME}").items() >= sent.items()
    (tested,) = publish.tested
    assert tested.items() >= sent.items()
    assert publish.created == [f"me/{NAME}"]
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]  # the download is gone


def test_token_goes_to_the_hub_and_never_to_the_storage_host(publish, hub):
    publish()
    assert {request.authorization for request in hub.requests if request.host == "hub"} == {
        f"Bearer {hub.token}"
    }
    stored = [request for request in hub.requests if request.host == "storage"]
    assert {request.method for request in stored} == {"PUT", "GET"}
    assert {request.authorization for request in stored} == {None}


def test_taken_names_get_the_next_suffix(publish, hub):
    hub.add(f"me/{NAME}", {"README.md": b"another run"})
    hub.add(f"me/{NAME}-2", {"README.md": b"yet another run"})
    published = publish()
    assert published.name == f"{NAME}-3"
    assert publish.created == [f"me/{NAME}-3"]
    assert hub.files(f"me/{NAME}") == {"README.md": b"another run"}


def test_hf_user_chooses_the_namespace(publish, hub):
    assert publish(user="an-org").location == f"{hub.url}/an-org/{NAME}"


def test_a_trailing_slash_in_the_endpoint_is_no_difference(publish, hub):
    assert publish(endpoint=hub.url + "/").location == f"{hub.url}/me/{NAME}"


def test_an_interrupted_publication_goes_on_in_its_repository(publish, hub):
    hub.fail("POST /api/models/.*/commit/", status=500, times=2)
    with pytest.raises(MlInternError, match="could not upload"):
        publish()
    (repo_id,) = publish.created
    published = publish(repo_id=repo_id)
    assert published.name == NAME
    assert publish.created == [repo_id]
    assert hub.count("POST /api/repos/create") == 1
    assert hub.count("PUT /lfs/") == 1  # the weights were there already


def test_a_repository_deleted_meanwhile_is_made_again(publish, hub):
    assert publish(repo_id=f"me/{NAME}-7").name == NAME


def test_a_repository_of_another_account_is_not_gone_on_with(publish, hub):
    hub.add(f"somebody/{NAME}", {})
    assert publish(repo_id=f"somebody/{NAME}").location == f"{hub.url}/me/{NAME}"


def test_publishing_again_without_a_change_keeps_the_commit(publish, hub):
    first = publish()
    assert publish(repo_id=f"me/{NAME}").revision == first.revision


@pytest.mark.parametrize(
    "request_",
    ["GET /api/whoami", "POST /api/repos/create", "POST /api/models/.*/commit/", "GET /api/models/.*/tree/"],
)
@pytest.mark.parametrize("status", [503, None])
def test_one_fault_of_the_hub_is_survived(publish, hub, request_, status):
    hub.fail(request_, status=status)
    assert publish().load_test == "load test passed: 1 parameter"
    assert hub.count(request_) >= 2


def test_a_repository_whose_making_was_not_answered_is_used_and_not_left_empty(publish, hub):
    hub.lose_answer("POST /api/repos/create")
    assert publish().location == f"{hub.url}/me/{NAME}"


def test_an_address_of_the_storage_that_expired_is_asked_for_again(publish, hub):
    hub.fail("PUT /lfs/", status=403)
    assert publish().load_test == "load test passed: 1 parameter"


def test_a_storage_that_refuses_is_not_blamed_on_the_token(publish, hub):
    hub.fail("PUT /lfs/", status=403, times=99)
    with pytest.raises(MlInternError) as failure:
        publish()
    assert not isinstance(failure.value, Blocked)
    assert "HF_TOKEN" not in failure.value.message


def test_a_hub_that_asks_to_be_left_alone_is(publish, hub):
    hub.fail("POST /api/repos/create", status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    assert publish().name == NAME
    assert time.monotonic() - began >= 1


def test_a_slow_answer_times_out_and_is_asked_again(publish, hub, monkeypatch):
    monkeypatch.setattr("ml_intern_cli.access.ANSWER_TIMEOUT_S", 0.3)
    hub.delay("POST /api/models/.*/commit/", delay_s=5)
    assert publish().name == NAME


def test_a_hub_that_stays_broken_is_an_error_that_names_the_partial_repository(publish, hub):
    hub.fail("POST /api/models/.*/commit/", status=500, times=99)
    with pytest.raises(MlInternError) as failure:
        publish()
    assert failure.value.exit_code == 1
    assert f"could not upload to {hub.url}/me/{NAME}, which may hold a part of it" in failure.value.message
    assert "500" in failure.value.message
    assert "ml-intern publish a-run --publish hub" in failure.value.hint
    assert hub.count("POST /api/models/.*/commit/") == 2  # the upload is retried exactly once


def test_a_hub_out_of_reach_is_an_error_with_the_folder_as_a_way_on(publish, hub):
    with pytest.raises(MlInternError) as failure:
        publish(endpoint="http://127.0.0.1:1")
    assert failure.value.exit_code == 1
    assert "--publish folder" in failure.value.hint


def test_without_a_token_nothing_is_asked_and_both_ways_on_are_named(publish, hub):
    with pytest.raises(Blocked) as blocked:
        publish(token=None)
    assert blocked.value.why == "HF_TOKEN is not set"
    assert blocked.value.ways_on == BLOCKED_WAYS
    assert hub.requests == []


def test_offline_nothing_is_asked(publish, hub):
    with pytest.raises(Blocked, match=r"HF_HUB_OFFLINE is set"):
        publish(offline=True)
    assert hub.requests == []


def test_a_wrong_token_blocks_without_being_shown(publish, hub):
    with pytest.raises(Blocked) as blocked:
        publish(token="hf_wrongwrongwrongwrongwrong")
    assert "(401)" in blocked.value.why
    assert "wrongwrong" not in str(blocked.value)
    assert blocked.value.ways_on == BLOCKED_WAYS
    assert hub.count("GET /api/whoami") == 1  # asking again would not help


def test_a_token_without_write_permission_blocks(publish, hub):
    with pytest.raises(Blocked, match=r"create somebody-else/.*\(403\)") as blocked:
        publish(user="somebody-else")
    assert blocked.value.ways_on == BLOCKED_WAYS


def test_content_that_comes_back_changed_is_refused_before_the_load_test(publish, hub):
    publish()
    large = next(iter(hub.storage))
    hub.storage[large] = bytes(len(hub.storage[large]))
    with pytest.raises(MlInternError, match=r"other files than were sent: model\.safetensors"):
        publish(repo_id=f"me/{NAME}")
    assert len(publish.tested) == 1


def test_a_hub_without_xet_storage_is_told_apart(publish, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(MlInternError, match="does not offer Xet storage") as failure:
        publish()
    assert failure.value.hint == "HF_HUB_DISABLE_XET=1 ml-intern publish a-run --publish hub"


def test_the_library_stays_silent(publish, hub, capfd):
    hub.fail("PUT /lfs/", status=503)
    publish()
    assert capfd.readouterr() == ("", "")


def test_access_shows_no_token():
    assert "hf_secret" not in repr(HubAccess(token="hf_secret"))
    assert HubAccess().address == "https://huggingface.co"


def test_folder_receives_the_bundle_after_its_load_test(bundle, tmp_path):
    published = publish_folder(
        bundle, parent=tmp_path / "published", name=NAME, run_load_test=lambda _: "passed"
    )
    assert published == Publication(
        name=NAME, location=str(tmp_path / "published" / NAME), revision=None, load_test="passed"
    )
    assert (tmp_path / "published" / NAME / "train.log").exists()
    assert not bundle.exists()


def test_folder_of_an_earlier_publication_is_kept(bundle, tmp_path):
    (tmp_path / "published" / NAME).mkdir(parents=True)
    published = publish_folder(
        bundle, parent=tmp_path / "published", name=NAME, run_load_test=lambda _: "passed"
    )
    assert published.name == f"{NAME}-2"
    assert list((tmp_path / "published" / NAME).iterdir()) == []


def test_folder_of_a_killed_attempt_at_the_same_publication_is_replaced(bundle, tmp_path):
    left = tmp_path / "published" / NAME
    shutil.copytree(bundle, left)
    (left / "train.log").unlink()
    published = publish_folder(bundle, parent=left.parent, name=NAME, run_load_test=lambda _: "passed")
    assert published.name == NAME
    assert (left / "train.log").exists()


def test_folder_holds_nothing_when_the_load_test_fails(bundle, tmp_path):
    def fail(_: Path) -> str:
        raise MlInternError("load test failed: no weights")

    with pytest.raises(MlInternError, match="no weights"):
        publish_folder(bundle, parent=tmp_path / "published", name=NAME, run_load_test=fail)
    assert not (tmp_path / "published").exists()


def test_a_file_where_the_folder_should_be_is_a_storage_error(bundle, tmp_path):
    (tmp_path / "published").write_text("")
    with pytest.raises(StorageFailed):
        publish_folder(bundle, parent=tmp_path / "published", name=NAME, run_load_test=lambda _: "passed")
