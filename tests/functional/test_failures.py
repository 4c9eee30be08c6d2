"""What a path that fails costs, leaves behind and leads to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.documents.experiments import Experiments
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.registry import load
from tests.small_runs import SLUG, children_of, edit, losses, ml_intern

# Holds in the run's own directory, not in the judge's rehearsal, which would find the defect before training.
_FOR_REAL = '(HERE.parent / "PLAN.md").exists()'
# In place of the guard at the end of train.py: a program that does not stop when asked to.
_STUBBORN = f"""
if __name__ == "__main__":
    if not {_FOR_REAL}:
        sys.exit(main())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)
"""


def _events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_training_that_will_not_stop_is_killed_within_its_slice_and_a_little(untrained: Path) -> None:
    guard = r'^if __name__ == "__main__":\n    sys.exit\(main\(\)\)'
    edit(untrained / "path-a" / "train.py", guard, _STUBBORN)
    edit(untrained / "PLAN.md", r"^- slice_s: .*$", "- slice_s: 20")
    before = len(_events(untrained))
    answer = ml_intern("run", SLUG, "--allow-unsandboxed", runs_dir=untrained.parent)
    assert answer.code == 4, answer.err
    spent = sum(
        row["data"]["seconds"]
        for row in _events(untrained)[before:]
        if row["event_type"] == "spend" and row["data"]["what"] == "training"
    )
    assert 20 <= spent <= 20 * 1.05 + 10
    assert children_of(untrained) == []
    postmortem = load(untrained / "path-a" / "POSTMORTEM.md")
    assert isinstance(postmortem, Postmortem)
    assert postmortem.failed_stage == "train"


def test_a_loss_that_is_not_finite_is_retried_with_a_lower_rate_in_code_of_its_own(untrained: Path) -> None:
    edit(
        untrained / "path-a" / "train.py",
        r"^( +)loss, grad_norm, learning_rate = self\.attempt_step\(\)$",
        rf"\g<0>\n\1loss = math.nan if self.state.step >= 5 and {_FOR_REAL} else loss",
    )
    answer = ml_intern("run", SLUG, "--max-retries", "1", runs_dir=untrained.parent)
    assert answer.code == 4, answer.err  # twelve steps teach too little for any verification
    assert len(losses(untrained, "path-a")) == 5
    assert len(losses(untrained, "path-a2")) == 12

    postmortem = load(untrained / "path-a" / "POSTMORTEM.md")
    assert isinstance(postmortem, Postmortem)
    assert (postmortem.cause, postmortem.retry) == ("not-finite", "a2")
    plan = load(untrained / "PLAN.md")
    assert isinstance(plan, Plan)
    assert plan.path("a2").learning_rate == plan.path("a").learning_rate / 4
    ledger = load(untrained / "EXPERIMENTS.md")
    assert isinstance(ledger, Experiments)
    assert [(row.path_id, row.retry_of) for row in ledger.rows] == [("a", None), ("a2", "a")]
    assert "retries_used   = 1" in (untrained / "BUDGET.md").read_text()


@pytest.mark.slow
def test_a_training_that_changes_its_own_programs_is_not_repeated_for_ever(untrained: Path) -> None:
    guard = r'^if __name__ == "__main__":\n'
    change = f'    if {_FOR_REAL}:\n        (HERE / "eval.py").open("a").write("#\\n")\n'
    edit(untrained / "path-a" / "train.py", guard, lambda found: found[0] + change)
    before = len(_events(untrained))
    answer = ml_intern("run", SLUG, "--allow-unsandboxed", runs_dir=untrained.parent)
    assert answer.code == 1, answer.err
    assert "path-a/eval.py has changed each of the last 3 times that train a ran" in answer.err
    assert f"ml-intern status {SLUG}" in answer.err
    events = _events(untrained)[before:]
    started = [row["data"]["stage"] for row in events if row["event_type"] == "stage_started"]
    assert started.count("train") == 3
    assert not (untrained / "path-a" / "VERIFY.md").exists()


@pytest.mark.parametrize("where", ["in rehearsal", "for real"])
def test_a_full_disk_is_no_fault_of_the_path(untrained: Path, where: str) -> None:
    program = untrained / "path-a" / "train.py"
    sound = program.read_text()
    guard = r'^if __name__ == "__main__":\n'
    condition = _FOR_REAL if where == "for real" else f"not {_FOR_REAL}"
    edit(program, guard, rf"\g<0>    if {condition}:\n        raise OSError(28, os.strerror(28))\n")
    answer = ml_intern("run", SLUG, "--allow-unsandboxed", runs_dir=untrained.parent)
    assert answer.code == 2, answer.err
    assert "the disk is full" in answer.err
    assert f"ml-intern run {SLUG}" in answer.err
    assert not (untrained / "path-a" / "POSTMORTEM.md").exists()
    assert "retries_used   = 0" in (untrained / "BUDGET.md").read_text()

    program.write_text(sound)
    assert ml_intern("run", SLUG, runs_dir=untrained.parent).code == 4  # twelve steps teach too little
    assert len(losses(untrained, "path-a")) == 12
