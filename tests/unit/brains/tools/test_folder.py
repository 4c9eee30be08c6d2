"""A model's folder: what is in it, and every way out that was tried."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_intern_cli.brains.tools.files import file_tools
from ml_intern_cli.brains.tools.folder import MOST_READ, MOST_WRITTEN, Folder
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed

SECRET = "the secret"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no name in the folder may lead to."""
    file = tmp_path / "outside" / "token"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with a program in it."""
    (tmp_path / "path-a").mkdir()
    (tmp_path / "path-a" / "model.py").write_text("a = 1\nb = 2\nc = 3\n")
    return Folder(tmp_path / "path-a")


def tools(folder: Folder, **options: frozenset[str]) -> dict[str, Tool]:
    return {one.name: one for one in file_tools(folder, **options)}


@pytest.mark.parametrize(
    "name",
    [
        *("../outside/token", "a/../../outside/token", "..", "/etc/passwd", "~/x", "", ".", "a//b"),
        *("a\x00b", "a\nb", "x" * 300, "/".join(["a"] * 40), "\u202ename", "./../outside/token"),
    ],
)
def test_a_name_that_leads_out_or_is_none_is_refused(folder: Folder, outside: Path, name: str) -> None:
    for attempt in (lambda: folder.read(name), lambda: folder.write(name, "x")):
        with pytest.raises(ToolFailed):
            attempt()
    assert outside.read_text() == SECRET


@pytest.mark.parametrize("through", ["file", "folder", "chain"])
def test_links_are_followed_neither_to_read_nor_to_write(folder: Folder, outside: Path, through: str) -> None:
    if through == "file":
        (folder.root / "link").symlink_to(outside)
        name = "link"
    elif through == "folder":
        (folder.root / "link").symlink_to(outside.parent)
        name = "link/token"
    else:
        (folder.root / "other").symlink_to("link")
        (folder.root / "link").symlink_to(outside)
        name = "other"
    for attempt in (lambda: folder.read(name), lambda: folder.write(name, "x")):
        with pytest.raises(ToolFailed, match="link"):
            attempt()
    assert outside.read_text() == SECRET
    assert "token" not in tools(folder)["list_files"].call({})


def test_a_hard_link_is_not_read_and_what_is_written_in_its_place_is_another_file(
    folder: Folder, outside: Path
) -> None:
    os.link(outside, folder.root / "hard")
    with pytest.raises(ToolFailed, match="hard link"):
        folder.read("hard")
    folder.write("hard", "mine")
    assert outside.read_text() == SECRET
    assert folder.read("hard") == "mine"


def test_a_link_that_is_swapped_in_meanwhile_leads_nowhere(folder: Folder, outside: Path) -> None:
    stop = threading.Event()
    place, plain, link = folder.root / "sub", folder.root / ".plain", folder.root / ".link"
    plain.mkdir()
    (plain / "token").write_text("harmless")
    link.symlink_to(outside.parent)

    def swap() -> None:
        while not stop.is_set():
            for one in (plain, link):
                try:
                    one.rename(place)
                    place.rename(one)
                except OSError:
                    continue

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen, until = set(), time.monotonic() + 1.0
    try:
        while time.monotonic() < until:
            for attempt in (lambda: folder.read("sub/token"), lambda: folder.write("sub/token", "written")):
                try:
                    seen.add(attempt())
                except (ToolFailed, OSError) as error:
                    seen.add(type(error).__name__)
    finally:
        stop.set()
        swapping.join()
    assert SECRET not in seen
    assert outside.read_text() == SECRET


def test_a_pipe_does_not_keep_anyone_waiting(folder: Folder) -> None:
    os.mkfifo(folder.root / "pipe")
    with pytest.raises(ToolFailed, match="a pipe"):
        folder.read("pipe")
    assert not folder.exists("pipe")
    with pytest.raises(ToolFailed, match="only plain files"):
        folder.write("pipe", "x")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda file: file.mkdir(), "a folder"),
        (lambda file: file.write_bytes(b"a" * (MOST_READ + 1)), "at most"),
        (lambda file: None, "not there"),
    ],
)
def test_what_is_no_text_file_of_bearable_size_is_said_to_be(
    folder: Folder, make: Callable[[Path], object], reason: str
) -> None:
    make(folder.root / "thing")
    with pytest.raises(ToolFailed, match=reason):
        folder.read("thing")


def test_what_is_written_is_whole_or_not_there(folder: Folder) -> None:
    with pytest.raises(ToolFailed, match="at most"):
        folder.write("model.py", "x" * (MOST_WRITTEN + 1))
    with pytest.raises(ToolFailed, match="surrogate"):
        folder.write("model.py", "\ud800")
    assert folder.read("model.py").startswith("a = 1")
    folder.write("new/deep/file.txt", "x")
    assert sorted(path.name for path in folder.root.iterdir()) == ["model.py", "new"]


def test_lines_are_numbered_and_a_part_can_be_asked_for(folder: Folder) -> None:
    read = tools(folder)["read_file"]
    assert read.call({"path": "model.py", "first_line": 2, "last_line": 3}) == "    2\tb = 2\n    3\tc = 3"
    with pytest.raises(ToolFailed, match="has 3 lines"):
        read.call({"path": "model.py", "first_line": 9})


def test_an_edit_needs_one_place(folder: Folder) -> None:
    edit = tools(folder)["edit_file"]
    assert edit.call({"path": "model.py", "old": "b = 2", "new": "b = 7"}) == "model.py edited"
    assert folder.read("model.py") == "a = 1\nb = 7\nc = 3\n"
    with pytest.raises(ToolFailed, match="occurs 3 times"):
        edit.call({"path": "model.py", "old": " = ", "new": " == "})
    with pytest.raises(ToolFailed, match="Lines like it:\nc = 3"):
        edit.call({"path": "model.py", "old": "c = 33", "new": "x"})


def test_an_edit_that_a_resumed_conversation_repeats_is_already_so(folder: Folder) -> None:
    edit = tools(folder)["edit_file"]
    change = {"path": "model.py", "old": "b = 2", "new": "b = 7"}
    edit.call(change)
    assert edit.call(change) == "model.py is already so"


def test_a_program_that_no_longer_compiles_is_said_to_be(folder: Folder) -> None:
    answer = tools(folder)["write_file"].call({"path": "model.py", "text": "def f(:\n"})
    assert "does not compile" in answer


def test_the_plans_numbers_cannot_be_changed(folder: Folder) -> None:
    write = tools(folder, protected=frozenset({"train_config.json"}))["write_file"]
    for name in ("train_config.json", "./train_config.json", "././train_config.json"):
        with pytest.raises(ToolFailed, match="not yours to change"):
            write.call({"path": name, "text": "{}"})


def test_an_argument_that_is_wrong_or_unknown_is_explained(folder: Folder) -> None:
    with pytest.raises(ToolFailed, match="path: Field required") as refused:
        tools(folder)["read_file"].call({"file": "model.py"})
    assert "file: Extra inputs are not permitted" in refused.value.message


def test_an_edit_whose_new_text_holds_the_old_is_made_once(folder: Folder) -> None:
    edit = tools(folder)["edit_file"]
    change = {"path": "model.py", "old": "b = 2", "new": "b = 2\nd = 4"}
    assert edit.call(change) == "model.py edited"
    assert edit.call(change) == "model.py is already so"
    assert folder.read("model.py") == "a = 1\nb = 2\nd = 4\nc = 3\n"


def test_places_that_overlap_are_several(folder: Folder) -> None:
    folder.write("a.txt", "ababa")
    with pytest.raises(ToolFailed, match="occurs 2 times"):
        tools(folder)["edit_file"].call({"path": "a.txt", "old": "aba", "new": "x"})


def test_lines_are_numbered_as_python_numbers_them(folder: Folder) -> None:
    folder.write("model.py", "a = 1\n\x0c\nb = 2\n")
    assert tools(folder)["read_file"].call({"path": "model.py"}).endswith("    3\tb = 2")


def test_a_folder_that_was_swapped_for_a_link_is_not_entered(folder: Folder, outside: Path) -> None:
    folder.root.rename(folder.root.with_name("moved"))
    folder.root.symlink_to(outside.parent)
    for attempt in (lambda: folder.read("token"), lambda: folder.write("token", "x"), folder.names):
        with pytest.raises(ToolFailed):
            attempt()
    assert outside.read_text() == SECRET


def test_a_folder_that_is_gone_is_said_to_be(folder: Folder) -> None:
    folder.root.rename(folder.root.with_name("moved"))
    with pytest.raises(ToolFailed, match="is not there"):
        folder.names()


def test_a_hard_link_that_comes_and_goes_does_not_slip_through(folder: Folder, outside: Path) -> None:
    stop = threading.Event()
    place = folder.root / "token"

    def swap() -> None:
        while not stop.is_set():
            try:
                os.link(outside, place)
                place.unlink()
            except OSError:
                continue

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen, until = set(), time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            try:
                seen.add(folder.read("token"))
            except ToolFailed:
                continue
    finally:
        stop.set()
        swapping.join()
    assert seen == set()


@pytest.mark.parametrize("text", ["-" * 100_000 + "1", "a" + ".b" * 100_000])
def test_code_that_the_compiler_cannot_bear_is_said_not_to_compile(folder: Folder, text: str) -> None:
    assert "does not compile" in tools(folder)["write_file"].call({"path": "model.py", "text": text})
