"""What a person's edit makes stale, and that it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.small_runs import SLUG, copy_run, edit, ml_intern, states


@pytest.fixture
def run(short_run: Path, runs_dir: Path) -> Path:
    return copy_run(short_run, runs_dir)


def _status(run: Path) -> dict:
    return ml_intern("status", SLUG, "--json", runs_dir=run.parent).json


def _stage(status: dict, name: str) -> dict:
    return next(stage for stage in status["stages"] if stage["stage"] == name)


def test_an_untouched_run_has_nothing_left_to_do(run: Path) -> None:
    assert {"stale", "todo", "started"}.isdisjoint(states(_status(run)).values())


def test_an_edited_learning_rate_makes_implement_stale_and_says_from_what_to_what(run: Path) -> None:
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>0.00123")
    status = _status(run)
    found = states(status)
    assert found["implement a"] == "stale"
    assert "learning_rate" in _stage(status, "implement")["reason"]
    assert "0.00123" in _stage(status, "implement")["reason"]
    assert found["plan"] == "done"
    assert {found["train a"], found["verify a"]} == {"stale"}


def test_an_edited_learning_rate_is_trained_with_and_smoke_is_not_repeated(run: Path) -> None:
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>0.00123")
    smoke = (run / "path-a" / "SMOKE.md").stat().st_mtime_ns
    data = (run / "data" / "manifest.json").stat().st_mtime_ns
    answer = ml_intern("run", SLUG, "--until", "train", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    assert '"learning_rate": 0.00123' in (run / "path-a" / "train_config.json").read_text()
    assert (run / "path-a" / "SMOKE.md").stat().st_mtime_ns == smoke
    assert (run / "data" / "manifest.json").stat().st_mtime_ns == data
    assert states(_status(run))["train a"] == "done"


def test_an_edited_model_makes_smoke_and_what_follows_stale_and_is_kept(run: Path) -> None:
    model = run / "path-a" / "model.py"
    model.write_text(model.read_text() + "\n# by hand\n")
    found = states(_status(run))
    assert found["implement a"] == "done"
    assert {found["smoke a"], found["train a"], found["verify a"]} == {"stale"}
    answer = ml_intern("run", SLUG, "--until", "smoke", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    assert model.read_text().endswith("# by hand\n")
    assert states(_status(run))["smoke a"] == "done"


def test_an_edited_model_survives_a_changed_plan(run: Path) -> None:
    model = run / "path-a" / "model.py"
    model.write_text(model.read_text() + "\n# by hand\n")
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>0.00123")
    answer = ml_intern("run", SLUG, "--until", "implement", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    assert model.read_text().endswith("# by hand\n")
    assert '"learning_rate": 0.00123' in (run / "path-a" / "train_config.json").read_text()


def test_reformatting_a_document_is_no_edit(run: Path) -> None:
    plan = run / "PLAN.md"
    plan.write_text(plan.read_text().replace("- ", "*  ") + "\nA remark of mine.\n")
    assert states(_status(run))["implement a"] == "done"


def test_a_run_without_receipts_is_as_done_as_before(run: Path) -> None:
    before = states(_status(run))
    shutil.rmtree(run / ".receipts")
    assert states(_status(run)) == before


def test_a_changed_publish_target_redoes_nothing_else(run: Path) -> None:
    edit(run / "TASK.md", r"^- publish: none", "- publish: folder")
    found = states(_status(run))
    assert {state for stage, state in found.items() if stage != "publish"} == {"done", "failed"}


def test_all_problems_of_all_documents_are_reported_at_once(run: Path) -> None:
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>-1")
    edit(run / "BUDGET.md", r"^max_paths .*$", "max_paths = many")
    answer = ml_intern("status", SLUG, runs_dir=run.parent)
    assert answer.code == 2
    assert "PLAN.md:" in answer.err
    assert "learning_rate" in answer.err
    assert "BUDGET.md:1" in answer.err
