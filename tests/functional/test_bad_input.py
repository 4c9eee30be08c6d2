"""Bad input ends in a message that names the next command, with the documented exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_runs import QUICK, SENTENCE, SLUG, copy_run, ml_intern


def test_an_unknown_architecture_blocks_and_names_what_would_unblock_it(runs_dir: Path) -> None:
    answer = ml_intern("run", "implement DeepSeek-V4 at 1M", runs_dir=runs_dir)
    assert answer.code == 3
    blockers = list(runs_dir.glob("*/BLOCKER.md"))
    assert len(blockers) == 1
    text = blockers[0].read_text()
    assert "deepseek-v3" in text
    assert "ml-intern blueprints" in text


def test_an_unknown_slug_names_the_nearest(short_run: Path, runs_dir: Path) -> None:
    copy_run(short_run, runs_dir)
    answer = ml_intern("status", "implement-deepseek-v3-at-50k", runs_dir=runs_dir)
    assert answer.code == 2
    assert SLUG in answer.err


def test_a_run_made_by_a_newer_version_is_refused_untouched(short_run: Path, runs_dir: Path) -> None:
    run = copy_run(short_run, runs_dir)
    (run / ".receipts" / "run.json").write_text(json.dumps({"format": 99, "made_by": "9.0.0"}))
    before = (run / "TASK.md").read_bytes()
    answer = ml_intern("run", SLUG, runs_dir=runs_dir)
    assert answer.code == 2
    assert "9.0.0" in answer.err
    assert (run / "TASK.md").read_bytes() == before


def test_a_damaged_blocker_stops_nothing_and_is_kept(short_run: Path, runs_dir: Path) -> None:
    run = copy_run(short_run, runs_dir)
    (run / "BLOCKER.md").write_text("call me when it is done\n")
    assert ml_intern("status", SLUG, runs_dir=runs_dir).code == 0
    assert ml_intern("report", SLUG, runs_dir=runs_dir).code == 0
    assert not (run / "BLOCKER.md").exists()
    assert [path.read_text() for path in run.glob(".history/*/BLOCKER.md")] == ["call me when it is done\n"]


def test_a_held_lock_names_its_holder(short_run: Path, runs_dir: Path) -> None:
    run = copy_run(short_run, runs_dir)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from ml_intern_cli.runs.lock import locked\n"
        "from ml_intern_cli.documents.layout import RunLayout\n"
        "with locked(RunLayout(Path(sys.argv[1])), command='a test'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        answer = ml_intern("run", SLUG, runs_dir=runs_dir)
        assert answer.code == 2
        assert str(holder.pid) in answer.err
        assert ml_intern("status", SLUG, runs_dir=runs_dir).code == 0
    finally:
        holder.kill()
        holder.communicate()
    assert ml_intern("run", SLUG, runs_dir=runs_dir).code == 4  # what that run had come to


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02" * 500, "binary"),
        ("Grüße ".encode("latin-1") * 500, "UTF-8"),
        (b"too little\n", ""),
    ],
    ids=["empty", "binary", "not UTF-8", "less than a batch"],
)
def test_an_unusable_dataset_says_what_is_wrong(
    runs_dir: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    answer = ml_intern("run", SENTENCE, *QUICK, "--dataset", str(file), "--until", "plan", runs_dir=runs_dir)
    assert answer.code == 2, answer.err
    assert words in answer.err


def test_a_named_dataset_that_cannot_be_had_blocks_and_is_not_replaced(runs_dir: Path) -> None:
    answer = ml_intern(
        "run", SENTENCE, *QUICK, "--dataset", "nobody/nothing", "--until", "plan", runs_dir=runs_dir
    )
    assert answer.code == 3, answer.err
    assert "nobody/nothing" in (runs_dir / SLUG / "BLOCKER.md").read_text()
    assert not (runs_dir / SLUG / "PLAN.md").exists()


def test_a_folder_that_is_no_run_is_left_alone(runs_dir: Path) -> None:
    file = runs_dir / "mine" / "data" / "weights.bin"
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    answer = ml_intern("run", SENTENCE, "--slug", "mine", *QUICK, runs_dir=runs_dir)
    assert answer.code == 2
    assert "no run" in answer.err
    assert file.read_text() == "precious"


def test_a_run_that_was_copied_without_hidden_files_is_the_run_of_its_sentence(runs_dir: Path) -> None:
    given = ("restate", SENTENCE, "--slug", "mine")
    assert ml_intern(*given, runs_dir=runs_dir).code == 0
    for hidden in (runs_dir / "mine").glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    assert ml_intern(*given, runs_dir=runs_dir).code == 0
    assert [path.name for path in runs_dir.iterdir()] == ["mine"]


def test_odd_entries_among_the_runs_stop_no_list(short_run: Path, runs_dir: Path) -> None:
    run = copy_run(short_run, runs_dir)
    (run / ".#PLAN.md").symlink_to("somebody@somewhere.1:2")
    (runs_dir / "a-file").write_text("")
    answer = ml_intern("list", "--json", runs_dir=runs_dir)
    assert answer.code == 0, answer.err
    assert [one["slug"] for one in answer.json["runs"]] == [SLUG]
    assert ml_intern("status", "x" * 300, runs_dir=runs_dir).code == 2
    assert ml_intern("smoke", "implement-deepseek", runs_dir=runs_dir).code == 2


@pytest.mark.parametrize("size", ["-5M", "0", "1e30", "lots"])
def test_an_absurd_size_is_refused(runs_dir: Path, size: str) -> None:
    answer = ml_intern("run", "implement DeepSeek-V3", f"--params={size}", runs_dir=runs_dir)
    assert answer.code == 2
    assert not list(runs_dir.glob("*/TASK.md"))


def test_a_runs_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    answer = ml_intern("run", SENTENCE, runs_dir=file)
    assert answer.code == 2
    assert "--runs-dir" in answer.err


def test_a_model_that_does_not_fit_into_memory_blocks(runs_dir: Path) -> None:
    answer = ml_intern("run", "implement DeepSeek-V3 at 600B", *QUICK, "--until", "plan", runs_dir=runs_dir)
    assert answer.code == 3, answer.err
    assert "GiB" in answer.err
