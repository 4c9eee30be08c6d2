"""What a program left where a file is written is set aside, and never written through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.runs.files import write_atomic
from ml_intern_cli.runs.outputs import write_outputs
from ml_intern_cli.runs.receipts import digest
from ml_intern_cli.stages import STAGES
from ml_intern_cli.stages.base import Ref, StageResult


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    """A run with an empty path, beside a folder that is the user's."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "ended.json").write_text("the user's")
    (tmp_path / "run" / "path-a").mkdir(parents=True)
    return RunLayout(tmp_path / "run")


def _write(run: RunLayout) -> None:
    result = StageResult(summary="", files={"path-a/ckpts/ended.json": '{"failed": null}'})
    write_outputs(run, STAGES["train"], result, None, ours=frozenset())


def test_a_linked_folder_is_not_written_through(run: RunLayout, tmp_path: Path) -> None:
    (run.path("a") / "ckpts").symlink_to(tmp_path / "outside")
    _write(run)
    assert (tmp_path / "outside" / "ended.json").read_text() == "the user's"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["ended.json"]
    assert (run.path("a") / "ckpts" / "ended.json").read_text() == '{"failed": null}'
    assert [path.name for path in run.history.rglob("ckpts")] == ["ckpts"]  # the link itself is kept


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_what_stands_in_place_of_a_file_is_set_aside(run: RunLayout, tmp_path: Path, kind: str) -> None:
    place = run.path("a") / "ckpts" / "ended.json"
    place.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "outside" / ("ended.json" if kind == "link" else "ghost"))
    _write(run)
    assert place.read_text() == '{"failed": null}'
    assert not place.is_symlink()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["ended.json"]
    assert (tmp_path / "outside" / "ended.json").read_text() == "the user's"
    assert not any(
        "user" in path.read_text()
        for path in run.history.rglob("*.json")
        if not path.is_symlink() and path.is_file()
    )


def test_a_link_of_the_users_within_the_run_is_kept(run: RunLayout) -> None:
    (run.root / "checkpoints").mkdir()
    (run.path("a") / "ckpts").symlink_to(run.root / "checkpoints")
    _write(run)
    assert (run.root / "checkpoints" / "ended.json").exists()


def test_no_name_that_is_written_aside_can_be_taken_before(run: RunLayout, tmp_path: Path) -> None:
    target = run.path("a") / "SMOKE.md"
    (run.path("a") / f".SMOKE.md.tmp-{os.getpid()}").symlink_to(tmp_path / "outside" / "ended.json")
    write_atomic(target, "text")
    assert target.read_text() == "text"
    assert (tmp_path / "outside" / "ended.json").read_text() == "the user's"


def test_a_digest_looks_neither_outside_nor_into_a_hole(run: RunLayout, tmp_path: Path) -> None:
    log = run.path("a") / "metrics.jsonl"
    log.symlink_to(tmp_path / "outside" / "ended.json")
    before = digest(run, Ref("path-a/metrics.jsonl"))
    (tmp_path / "outside" / "ended.json").write_text("something else")
    assert digest(run, Ref("path-a/metrics.jsonl")) == before
    log.unlink()
    log.symlink_to(log)
    assert digest(run, Ref("path-a/metrics.jsonl")) is None
    log.unlink()
    with log.open("wb") as file:
        file.truncate(1 << 42)
    assert digest(run, Ref("path-a/metrics.jsonl")) is not None
