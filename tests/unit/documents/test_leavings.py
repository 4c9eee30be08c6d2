"""What programs leave is read as it is, or refused, and never believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.registry import load
from ml_intern_cli.errors import InvalidDocument


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts" / "last.json").write_text('{"step": 3}')
    assert leavings.read_object(tmp_path, "ckpts/last.json") == {"step": 3}
    leavings.copy(tmp_path, "ckpts/last.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == '{"step": 3}'


def test_a_folder_reached_through_a_link_is_the_callers_word(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("text")
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert leavings.read_text(tmp_path / "run", "a") == "text"


@pytest.mark.parametrize("name", ["../a", "ckpts/../../a", "/etc/passwd"])
def test_a_name_that_leads_up_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("text")
    (tmp_path / "run" / "ckpts").mkdir(parents=True)
    with pytest.raises(leavings.Refused):
        leavings.read_text(tmp_path / "run", name)


def test_a_linked_folder_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model.safetensors").write_text("the user's")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpts").symlink_to(tmp_path / "outside")
    with pytest.raises(leavings.Refused, match="is a link"):
        leavings.read_text(tmp_path / "run", "ckpts/model.safetensors")
    assert leavings.leads_out(tmp_path / "run", "ckpts/model.safetensors")


def test_what_is_larger_than_allowed_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(leavings.Refused, match="is larger than 256 MiB"):
        leavings.read_text(tmp_path, "hole")
    assert list(leavings.read_rows(tmp_path, "hole")) == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "[]", "null", "{", "\0"])
def test_json_that_is_no_object_is_none(text: str) -> None:
    assert leavings.parse_object(text) is None


def test_a_tail_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n\x1b[2J\x1b]0;title\x07two\r\n\x9b31m\xffthree\n")
    assert leavings.tail(tmp_path, "log", lines=2) == "[2J]0;titletwo\n\ufffd31m\ufffdthree"


def test_a_document_of_a_path_is_no_link_and_one_of_the_users_may_be(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.md").write_text("- not: a document\n")
    (tmp_path / "path-a").mkdir()
    (tmp_path / "path-a" / "VERIFY.md").symlink_to(tmp_path / "elsewhere.md")
    (tmp_path / "BUDGET.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(InvalidDocument, match=r"path-a/VERIFY.md: is a link"):
        load(tmp_path / "path-a" / "VERIFY.md", source="path-a/VERIFY.md")
    with pytest.raises(InvalidDocument, match=r"BUDGET\.md:"):
        load(tmp_path / "BUDGET.md", source="BUDGET.md")


def test_a_document_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "PLAN.md")
    with pytest.raises(InvalidDocument, match="is no plain file"):
        load(tmp_path / "PLAN.md")
