"""What a person's edit makes stale, and that it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.registry import load
from tests.small_runs import SENTENCE, SLUG, copy_run, edit, ml_intern, states


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


def test_an_edited_learning_rate_is_rehearsed_and_trained_with_and_data_are_not_made_again(run: Path) -> None:
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>0.00123")
    smoke = (run / "path-a" / "SMOKE.md").stat().st_mtime_ns
    data = (run / "data" / "manifest.json").stat().st_mtime_ns
    answer = ml_intern("run", SLUG, "--until", "train", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    assert '"learning_rate": 0.00123' in (run / "path-a" / "train_config.json").read_text()
    assert (run / "path-a" / "SMOKE.md").stat().st_mtime_ns > smoke
    assert (run / "data" / "manifest.json").stat().st_mtime_ns == data
    assert states(_status(run))["train a"] == "done"


def test_an_edited_model_makes_smoke_and_what_follows_stale_and_is_kept(run: Path) -> None:
    model = run / "path-a" / "model.py"
    model.write_text(model.read_text() + "\n# by hand\n")
    found = states(_status(run))
    assert found["implement a"] == "done"
    assert {found["smoke a"], found["train a"], found["verify a"]} == {"stale"}
    answer = ml_intern("run", SLUG, "--until", "smoke", "--allow-unsandboxed", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    assert model.read_text().endswith("# by hand\n")
    assert states(_status(run))["smoke a"] == "done"


def test_without_a_wall_an_edited_model_runs_only_when_that_was_allowed(run: Path) -> None:
    model = run / "path-a" / "model.py"
    model.write_text(model.read_text() + "\n# by hand\n")
    command = ("run", SLUG, "--until", "smoke", "--wall", "none")
    answer = ml_intern(*command, runs_dir=run.parent)
    assert answer.code == 3, answer.err
    assert "path-a/model.py is not one of the shipped programs" in (run / "BLOCKER.md").read_text()
    assert "--allow-unsandboxed" in answer.out
    assert ml_intern(*command, "--allow-unsandboxed", runs_dir=run.parent).code == 0
    assert not (run / "BLOCKER.md").exists()
    assert ml_intern("smoke", SLUG, "--wall", "none", runs_dir=run.parent).code == 0  # remembered
    model.write_text(model.read_text() + "\n# again\n")
    assert ml_intern("smoke", SLUG, "--wall", "none", runs_dir=run.parent).code == 3


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


def test_more_time_after_training_keeps_what_was_trained(run: Path) -> None:
    answer = ml_intern("run", SLUG, "--time-budget", "20m", runs_dir=run.parent)
    assert answer.code == 4, answer.err
    assert {"stale", "todo", "started"}.isdisjoint(states(_status(run)).values())
    assert not list(run.glob(".history/*/path-a"))


def test_more_retries_ask_the_diagnosis_again_and_plan_nothing_anew(run: Path) -> None:
    edit(run / "BUDGET.md", r"^max_retries_per_path = 0", "max_retries_per_path = 1")
    found = states(_status(run))
    assert (found["plan"], found["train a"], found["diagnose a"]) == ("done", "done", "stale")


def test_caps_that_options_set_survive_an_edit_of_the_task(run: Path) -> None:
    edit(run / "TASK.md", r"^- metric: .*$", "- metric: held-out perplexity")
    answer = ml_intern("run", SLUG, "--until", "clarify", runs_dir=run.parent)
    assert answer.code == 0, answer.err
    budget = load(run / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert (budget.max_paths, budget.max_retries_per_path) == (1, 0)


def test_caps_given_to_restate_reach_the_budget(runs_dir: Path) -> None:
    options = ("--max-paths", "1", "--max-retries", "0", "--token-budget", "50k", "--slug", SLUG)
    assert ml_intern("restate", SENTENCE, *options, runs_dir=runs_dir).code == 0
    assert ml_intern("clarify", SLUG, runs_dir=runs_dir).code == 0
    budget = load(runs_dir / SLUG / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert (budget.max_paths, budget.max_retries_per_path, budget.token_budget) == (1, 0, 50_000)


def test_a_deleted_budget_is_written_again(run: Path) -> None:
    (run / "BUDGET.md").unlink()
    ml_intern("run", SLUG, "--until", "clarify", runs_dir=run.parent)
    budget = load(run / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert budget.gpu_min_used > 0  # counted again from the log


def test_what_is_written_around_the_values_of_a_document_is_kept(run: Path) -> None:
    task = run / "TASK.md"
    task.write_text(task.read_text() + "\nA remark of mine.\n")
    assert ml_intern("run", SLUG, "--publish", "folder", runs_dir=run.parent).code == 4
    assert any("A remark of mine." in path.read_text() for path in run.glob(".history/*/TASK.md"))


def test_another_dataset_cannot_be_claimed_in_the_plan(run: Path) -> None:
    edit(run / "PLAN.md", r"^- dataset: builtin:stories", "- dataset: my-secret-corpus.txt")
    answer = ml_intern("run", SLUG, runs_dir=run.parent)
    assert answer.code == 2
    assert "data/ holds builtin:stories" in answer.err


def test_a_winner_named_by_hand_is_neither_published_nor_done(run: Path) -> None:
    edit(run / "RESULTS.md", r"^- winner: .*$", "- winner: a")
    answer = ml_intern("publish", SLUG, "--publish", "folder", runs_dir=run.parent)
    assert answer.code == 2
    assert "did not pass verification" in answer.err
    assert not (run / "published").exists()
    assert ml_intern("run", SLUG, "--publish", "none", runs_dir=run.parent).code == 4


def test_numbers_written_into_the_ledger_do_not_reach_the_report(run: Path) -> None:
    ledger = run / "EXPERIMENTS.md"
    ledger.write_text(ledger.read_text().replace("dropped", "passed "))
    ml_intern("report", SLUG, runs_dir=run.parent)
    assert "- winner: —" in (run / "RESULTS.md").read_text()
    assert "dropped" in ledger.read_text()


def test_there_is_nothing_to_publish_where_nothing_is_to_be_published(run: Path) -> None:
    answer = ml_intern("publish", SLUG, runs_dir=run.parent)
    assert answer.code == 2
    assert "publish is none" in answer.err


def test_a_slip_in_a_configuration_is_named_with_its_line_and_costs_nothing(run: Path) -> None:
    edit(run / "path-a" / "train_config.json", r'("steps": \d+),', r"\1")
    answer = ml_intern("run", SLUG, runs_dir=run.parent)
    assert answer.code == 2
    assert "path-a/train_config.json:" in answer.err
    assert (run / "path-a" / "ckpts" / "last.json").is_file()


def test_a_pointer_that_was_deleted_is_written_again(run: Path) -> None:
    best = run / "path-a" / "ckpts" / "best.json"
    content = best.read_bytes()
    best.unlink()
    ml_intern("run", SLUG, "--until", "train", runs_dir=run.parent)
    assert best.read_bytes() == content


@pytest.mark.parametrize("name", ["train-00000.bin", "heldout-00000.bin", "tokenizer/tokenizer.json"])
def test_data_that_are_gone_are_nobodys_failure(run: Path, name: str) -> None:
    (run / "data" / name).unlink()
    status = _status(run)
    assert states(status)["plan"] == "todo"
    assert name in _stage(status, "plan")["reason"]


def test_an_earlier_winner_does_not_outlive_a_failed_training(good_run: Path, runs_dir: Path) -> None:
    run = copy_run(good_run, runs_dir)
    edit(
        run / "path-a" / "train.py",
        r"^( +)loss, grad_norm, learning_rate = self\.attempt_step\(\)$",
        r'\1raise ValueError("by hand")',
    )
    answer = ml_intern("run", SLUG, "--max-retries", "0", "--allow-unsandboxed", runs_dir=runs_dir)
    assert answer.code == 4, answer.err
    assert "- winner: —" in (run / "RESULTS.md").read_text()
    assert states(_status(run))["publish"] == "skipped"


def test_all_problems_of_all_documents_are_reported_at_once(run: Path) -> None:
    edit(run / "PLAN.md", r"(\| learning_rate +\| )[0-9.e-]+", r"\g<1>-1")
    edit(run / "BUDGET.md", r"^max_paths .*$", "max_paths = many")
    answer = ml_intern("status", SLUG, runs_dir=run.parent)
    assert answer.code == 2
    assert "PLAN.md:" in answer.err
    assert "learning_rate" in answer.err
    assert "BUDGET.md:1" in answer.err
