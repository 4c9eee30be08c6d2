"""What this program does not: remove outside a run, take back what was published, end other processes."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ml_intern_cli
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.runs.service import _remove_empty

_PACKAGE = Path(ml_intern_cli.__file__).parent
_HUB_TAKES_BACK = {
    "delete_repo", "delete_file", "delete_files", "delete_folder", "delete_branch", "super_squash_history",
    "permanently_delete_lfs_files", "update_repo_settings",
}  # fmt: skip
# Each of these was looked at: what it removes lies in the run's own folder, or was made by itself.
_REMOVERS = {
    "executors/foreign.py": 1,  # __pycache__ below the run
    "judge/rehearsal/rehearse.py": 1,  # the copy of the rehearsal before, in the judge's scratch
    "hub/bundle.py": 1,  # the bundle of an interrupted attempt, in .scratch
    "hub/publish.py": 1,  # this very publication, killed before it was noted
    "runs/pipeline.py": 1,  # .scratch
    "runs/service.py": 1,  # a run that came to nothing, and holds nothing
    "stages/calibration.py": 2,  # .scratch/calibrate-*
}


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for file in _PACKAGE.rglob("*.py"):
        name = str(file.relative_to(_PACKAGE))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                function = node.func
                yield name, getattr(function, "attr", getattr(function, "id", "")), node


def test_nothing_on_the_hub_is_taken_back_or_rewritten() -> None:
    for file, called, node in _calls():
        assert called not in _HUB_TAKES_BACK, f"{file}:{node.lineno}"
        if called in {"upload_folder", "create_commit", "create_repo"}:
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            assert "delete_patterns" not in given, f"{file}:{node.lineno}"
            assert not ast.literal_eval(given.get("exist_ok", ast.Constant(False))), f"{file}:{node.lineno}"


def test_folders_are_removed_only_where_that_was_looked_at() -> None:
    found: dict[str, int] = {}
    for file, called, _ in _calls():
        if called == "rmtree":
            found[file] = found.get(file, 0) + 1
    assert found == _REMOVERS
    assert shutil.rmtree.avoids_symlink_attacks


def test_no_process_is_ended_by_its_name() -> None:
    for file, called, node in _calls():
        words = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
        assert not {"pkill", "killall"} & {word for word in words if isinstance(word, str)}, file
        if called == "killpg":
            assert file in {  # each of its own children
                "executors/children.py",
                "brains/tools/mcp/stdio.py",
                "judge/supervised/host.py",
                "judge/rehearsal/launcher.py",
                "judge/rehearsal/starting.py",
                "judge/confinement/hosted.py",
            }


@pytest.mark.parametrize("name", ["notes.txt", "path-a", ".git"])
def test_a_run_that_came_to_nothing_is_removed_only_when_it_is_empty(tmp_path: Path, name: str) -> None:
    layout = RunLayout(tmp_path / "run")
    layout.receipts.mkdir(parents=True)
    layout.lock.touch()
    (layout.root / name).mkdir()
    _remove_empty(layout)
    assert (layout.root / name).exists()
    (layout.root / name).rmdir()
    _remove_empty(layout)
    assert not layout.root.exists()
