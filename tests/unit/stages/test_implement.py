"""What becomes of PLAN.md when a path's code is written and timed while others, and the user, change it."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.stages.implement import _as_edited, _with
from tests.examples import EXAMPLES


def _plan() -> tuple[Plan, PathPlan]:
    plan: Any = EXAMPLES["PLAN.md"]
    return plan, plan.paths[0]


def test_each_path_writes_its_own_numbers_and_leaves_those_of_the_others() -> None:
    plan, first = _plan()
    other = first.model_copy(update={"id": "z", "steps": 7})
    now = plan.model_copy(
        update={"paths": (first, other.model_copy(update={"steps": 9}))}
    )  # written meanwhile
    fitted = first.model_copy(update={"steps": 123})
    after = _with(now, _as_edited(now, first, fitted))
    assert [(path.id, path.steps) for path in after.paths] == [(first.id, 123), ("z", 9)]


def test_what_the_user_changed_meanwhile_stays_and_what_was_measured_is_written() -> None:
    plan, first = _plan()
    edited = first.model_copy(update={"learning_rate": 0.00123})
    now = plan.model_copy(update={"paths": (edited, *plan.paths[1:])})
    fitted = first.model_copy(update={"steps": 123, "measured_tokens_per_s": 4567.0})
    after = _with(now, _as_edited(now, first, fitted)).path(first.id)
    assert (after.learning_rate, after.steps, after.measured_tokens_per_s) == (0.00123, 123, 4567.0)


def test_a_path_that_the_user_took_out_meanwhile_does_not_come_back() -> None:
    plan, first = _plan()
    other = first.model_copy(update={"id": "z"})
    now = plan.model_copy(update={"paths": (other,)})
    after = _with(now, _as_edited(now, first, first.model_copy(update={"steps": 123})))
    assert [path.id for path in after.paths] == ["z"]
