from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.data.corpus import TextSource
from ml_intern_cli.data.sources import StorySource, default_dataset, open_source
from ml_intern_cli.data.tokenizers import TokenizerUnavailable, fit_tokenizer
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import Blocked, MlInternError
from tests.loopback_hub import LoopbackHub

CARD = b"---\nlicense: cc-by-4.0\n---\n# Rows\n"
HOSTS = ("hub", "storage")
TEXTS = [f"Row {index} of the table, and {index * 31}." for index in range(200)]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    import datasets
    from huggingface_hub import constants

    # What the program sets for ``datasets``; undone after the test.
    for module, name in (
        (datasets.config, "HF_ENDPOINT"),
        (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS"),
        (constants, "ENDPOINT"),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    with LoopbackHub() as hub:
        yield hub


def access(hub: LoopbackHub, tmp_path: Path, *, token: str | None = None) -> HubAccess:
    return HubAccess(endpoint=hub.url, token=token, cache_dir=tmp_path / "cache")


def open_from(hub: LoopbackHub, spec: str, tmp_path: Path, **options: str) -> TextSource:
    return open_source(spec, hub=access(hub, tmp_path), seed=0, cwd=tmp_path, **options)  # type: ignore[arg-type]


def test_a_dataset_is_streamed_at_the_commit_it_was_opened_at(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.add("org/rows", {"README.md": CARD, "train.jsonl": jsonl(TEXTS)}, kind="datasets")
    source = open_from(hub, "org/rows", tmp_path)
    hub.add("org/rows", {"README.md": CARD, "train.jsonl": jsonl(["changed"])}, kind="datasets")
    found = [text for split in Split for text in source.documents(split)]
    assert sorted(found) == sorted(TEXTS)
    assert (source.revision, source.column) == (commit, "text")
    assert source.url == f"{hub.url}/datasets/org/rows"


def test_a_validation_split_is_halved_and_kept_out_of_training(hub: LoopbackHub, tmp_path: Path) -> None:
    held = TEXTS[:60]
    files = {"train.jsonl": jsonl(TEXTS), "validation.jsonl": jsonl(held)}
    hub.add("org/rows", {"README.md": CARD, **files}, kind="datasets")
    source = open_from(hub, "org/rows", tmp_path)
    parts = {split: list(source.documents(split)) for split in Split}
    assert sorted(parts[Split.VAL] + parts[Split.HELDOUT]) == sorted(held)
    assert parts[Split.TRAIN] == TEXTS[60:]
    assert min(len(parts[Split.VAL]), len(parts[Split.HELDOUT])) > 10


def test_a_configuration_must_be_named_where_there_are_several(hub: LoopbackHub, tmp_path: Path) -> None:
    card = (
        b"---\nlicense: mit\nconfigs:\n- config_name: small\n  data_files: small.jsonl\n"
        b"- config_name: large\n  data_files: large.jsonl\n---\n"
    )
    files = {"README.md": card, "small.jsonl": jsonl(TEXTS[:50]), "large.jsonl": jsonl(TEXTS)}
    hub.add("org/rows", files, kind="datasets")
    with pytest.raises(Blocked, match="several configurations") as caught:
        open_from(hub, "org/rows", tmp_path)
    assert "--dataset org/rows:CONFIGURATION" in caught.value.ways_on[0]
    small = open_from(hub, "org/rows:small", tmp_path)
    assert sum(len(list(small.documents(split))) for split in Split) == 50


def test_a_dataset_without_a_train_split_blocks(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("org/rows", {"README.md": CARD, "test.jsonl": jsonl(TEXTS)}, kind="datasets")
    with pytest.raises(Blocked) as caught:
        open_from(hub, "org/rows", tmp_path)
    assert "no train split; it has test" in caught.value.why


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b"{}"], ids=["captive portal", "odd JSON"])
def test_an_answer_that_no_hub_gives_blocks(answer: bytes, tmp_path: Path) -> None:
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = HubAccess(endpoint=f"http://127.0.0.1:{server.server_address[1]}", cache_dir=tmp_path)
        with pytest.raises(Blocked, match="cannot be had"):
            open_source("org/rows", hub=there, seed=0, cwd=tmp_path)
        assert default_dataset(there)[0] == "builtin:stories"
    finally:
        server.shutdown()
        server.server_close()


def test_a_hub_that_is_silent_costs_a_tokenizer_no_more_than_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ml_intern_cli.data.tokenizers._DOWNLOAD_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = HubAccess(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", cache_dir=tmp_path)
        with pytest.raises(TokenizerUnavailable, match="no answer within"):
            fit_tokenizer(
                StorySource(0), tmp_path, vocab_size=300, hub_id="gpt2", hub=there, progress=lambda *_: None
            )


def test_the_token_goes_to_the_hub_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "train.parquet")
    content = (tmp_path / "train.parquet").read_bytes()
    hub.add("org/rows", {"README.md": CARD, "train.parquet": content}, kind="datasets")
    source = open_source("org/rows", hub=access(hub, tmp_path, token=hub.token), seed=0, cwd=tmp_path)
    assert len([text for split in Split for text in source.documents(split)]) == len(TEXTS)
    assert {request.authorization for request in hub.requests if request.host == "hub"} == {
        f"Bearer {hub.token}"
    }
    assert {request.authorization for request in hub.requests if request.host == "storage"} <= {None}


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "no such public dataset"), (503, "answered 503"), (403, "answered 403")]
)
def test_a_named_dataset_that_is_refused_blocks(
    hub: LoopbackHub, tmp_path: Path, status: int, reason: str
) -> None:
    hub.fail("GET /api/datasets/org/rows", status=status, times=99)
    if status == 404:
        hub.faults.clear()
    with pytest.raises(Blocked, match=reason) as caught:
        open_from(hub, "org/rows", tmp_path)
    assert len(caught.value.ways_on) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_dataset_blocks_and_names_the_token(tmp_path: Path, status: int) -> None:
    class Gated(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Gated) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        gate = HubAccess(endpoint=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(Blocked, match="gated: ask for access on its page, and set HF_TOKEN"):
            open_source("org/rows", hub=gate, seed=0, cwd=tmp_path)


def test_a_hub_that_is_not_there_blocks(tmp_path: Path) -> None:
    nobody = HubAccess(endpoint=closed_port(), cache_dir=tmp_path)
    with pytest.raises(Blocked, match="not reachable"):
        open_source("org/rows", hub=nobody, seed=0, cwd=tmp_path)
    spec, why = default_dataset(nobody)
    assert spec == "builtin:stories"
    assert "not reachable" in why


def test_offline_a_hub_dataset_blocks(tmp_path: Path) -> None:
    with pytest.raises(Blocked, match="HF_HUB_OFFLINE"):
        open_source("org/rows", hub=HubAccess(offline=True), seed=0, cwd=tmp_path)


def test_a_broken_stream_is_a_failure_that_can_be_repeated(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("org/rows", {"README.md": CARD, "train.jsonl": jsonl(TEXTS)}, kind="datasets")
    source = open_from(hub, "org/rows", tmp_path)
    hub.fail("/resolve/", status=404, times=999)
    with pytest.raises(MlInternError, match="reading org/rows from the Hub failed") as caught:
        list(source.documents(Split.TRAIN))
    assert caught.value.exit_code == 1


def test_the_default_is_tinystories_where_the_hub_answers(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("roneneldan/TinyStories", {"README.md": CARD}, kind="datasets")
    assert default_dataset(access(hub, tmp_path)) == (
        "roneneldan/TinyStories",
        "no dataset named; the Hub answers",
    )


def test_a_silent_hub_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ml_intern_cli.data.sources._PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=silent.accept, daemon=True).start()
        spec, why = default_dataset(HubAccess(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert spec == "builtin:stories"
    assert "not reachable" in why


def test_a_tokenizer_comes_from_the_hub_at_a_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    stories = open_source("builtin:stories", hub=HubAccess(offline=True), seed=0, cwd=tmp_path)
    options = {"vocab_size": 300, "progress": lambda *_: None}
    own = fit_tokenizer(stories, tmp_path / "own", hub_id=None, hub=HubAccess(), **options)  # type: ignore[arg-type]
    folder = tmp_path / "own" / "tokenizer"
    commit = hub.add("org/tokenizer", {path.name: path.read_bytes() for path in folder.iterdir()})
    there = fit_tokenizer(
        stories,
        tmp_path / "data",
        hub_id="org/tokenizer",
        hub=access(hub, tmp_path),
        **options,  # type: ignore[arg-type]
    )
    assert (there.source, there.revision) == ("org/tokenizer", commit)
    assert (there.sha256, there.vocab_size, there.eos_token_id) == (own.sha256, 300, own.eos_token_id)
    for missing in (access(hub, tmp_path), HubAccess(offline=True), HubAccess(endpoint=closed_port())):
        with pytest.raises(TokenizerUnavailable, match="org/other"):
            fit_tokenizer(stories, tmp_path / "data", hub_id="org/other", hub=missing, **options)  # type: ignore[arg-type]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
