"""Slices, batches and steps are what was measured of the machine, at the batch that is trained with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_intern_cli.brains import blueprints
from ml_intern_cli.documents.plan import Plan, Precision
from ml_intern_cli.errors import Blocked
from ml_intern_cli.stages.calibration import Speed, Timing, micro_batches
from ml_intern_cli.stages.fitting import Wish, divide, fit
from tests.examples import EXAMPLES

BLUEPRINT = blueprints.load("deepseek-v3")
SIZING = BLUEPRINT.solve(1_000_000)


def _timings(fp32: dict[int, float], bf16: dict[int, float]) -> tuple[Timing, ...]:
    return tuple(
        Timing(micro_batch=size, precision=precision, tokens_per_s=rates[size])
        for size in sorted(fp32)
        for precision, rates in ((Precision.FP32, fp32), (Precision.BF16, bf16))
        if size in rates
    )


SPEED = Speed(
    timings=_timings({4: 12e3, 8: 16e3, 16: 18e3, 32: 19e3}, {4: 9e3, 8: 12e3, 16: 20e3, 32: 30e3}),
    eval_tokens_per_s=60e3,
    checkpoint_s=0.05,
    startup_s=3.0,
)


def _draft(num_paths: int = 1, **changes: object) -> Plan:
    plan = EXAMPLES["PLAN.md"]
    assert isinstance(plan, Plan)
    return plan.model_copy(update={"seq_len": 128, "paths": plan.paths[:num_paths], **changes})


def _wish(**limits: int) -> Wish:
    given = dict.fromkeys(("steps", "tokens", "token_budget", "worthwhile_tokens")) | limits
    return Wish(**given, recipe=lambda tokens: BLUEPRINT.recipe(SIZING, tokens=tokens))


def test_only_a_clearly_faster_way_replaces_a_smaller_or_more_exact_one() -> None:
    near = replace(SPEED, timings=_timings({8: 10e3, 16: 10.4e3}, {8: 10.4e3, 16: 10.5e3}))
    assert near.fastest(16) == near.timings[0]
    assert SPEED.fastest(16).tokens_per_s == 20e3
    assert SPEED.fastest(1) == SPEED.timings[0]


def test_the_speed_planned_with_is_that_of_the_batch_trained_with() -> None:
    (path,) = fit(_draft(), [SPEED], _wish(), remaining_s=150, slug="s")
    chosen = next(one for one in SPEED.timings if one.tokens_per_s == path.measured_tokens_per_s)
    assert (path.micro_batch, path.precision) == (chosen.micro_batch, chosen.precision)
    recipe = BLUEPRINT.recipe(SIZING, tokens=int(path.slice_s * path.measured_tokens_per_s))
    assert path.micro_batch * path.accumulation * 128 == pytest.approx(recipe.tokens_per_step, rel=0.2)


def test_steps_leave_room_in_the_slice_for_what_is_not_training() -> None:
    (path,) = fit(_draft(), [SPEED], _wish(), remaining_s=150, slug="s")
    training_s = path.steps * path.micro_batch * path.accumulation * 128 / path.measured_tokens_per_s
    assert 0.6 * path.slice_s < training_s < 0.9 * path.slice_s - SPEED.startup_s


def test_a_long_training_is_saved_every_five_minutes_unless_saving_is_slow() -> None:
    for checkpoint_s, interval_s in ((0.05, 300), (30.0, 1500)):
        speed = replace(SPEED, checkpoint_s=checkpoint_s)
        (path,) = fit(_draft(), [speed], _wish(), remaining_s=36_000, slug="s")
        step_s = path.micro_batch * path.accumulation * 128 / path.measured_tokens_per_s
        assert path.checkpoint_every * step_s == pytest.approx(interval_s, rel=0.25)
        assert path.eval_every == pytest.approx(path.steps / 8, abs=1)


def test_all_shares_together_are_what_is_left_less_publishing() -> None:
    for remaining_s, count in ((300.0, 2), (60.0, 1), (20.0, 1)):
        shares = divide(remaining_s, [SPEED, SPEED])
        assert len(shares) == count
        used_s = sum(share.slice_s + share.judging_s for share in shares)
        assert used_s == pytest.approx(remaining_s - 10)


def test_a_token_budget_is_shared_by_the_paths() -> None:
    paths = fit(_draft(2), [SPEED, SPEED], _wish(token_budget=400_000), remaining_s=300, slug="s")
    tokens = [path.steps * path.micro_batch * path.accumulation * 128 for path in paths]
    assert sum(tokens) <= 400_000
    assert min(tokens) > 190_000


def test_data_that_would_be_repeated_too_often_ends_a_path_early_and_blocks_nothing() -> None:
    (path,) = fit(_draft(), [SPEED], _wish(worthwhile_tokens=200_000), remaining_s=300, slug="s")
    tokens_per_step = path.micro_batch * path.accumulation * 128
    assert path.steps * tokens_per_step == pytest.approx(200_000, abs=tokens_per_step)
    (longer,) = fit(_draft(), [SPEED], _wish(), remaining_s=300, slug="s")
    assert path.warmup_steps < longer.warmup_steps
    assert tokens_per_step <= longer.micro_batch * longer.accumulation * 128
    fit(_draft(), [SPEED], _wish(worthwhile_tokens=10**12), remaining_s=100, slug="s")


@pytest.mark.parametrize("asked", [{"steps": 10_000_000}, {"tokens": 10_000_000_000}])
def test_steps_or_tokens_that_do_not_fit_block_and_name_a_budget_that_does(asked: dict[str, int]) -> None:
    with pytest.raises(Blocked, match="do not fit into a slice") as blocked:
        fit(_draft(), [SPEED], _wish(**asked), remaining_s=100, slug="my-run")
    assert any("--time-budget" in way and "my-run" in way for way in blocked.value.ways_on)


def test_micro_batches_go_up_to_a_whole_step() -> None:
    assert micro_batches(128, 32) == (4, 8, 16, 32)
    assert micro_batches(512, 4) == (1, 2, 4)
    assert micro_batches(4096, 1) == (1,)
    assert micro_batches(300, 13) == (1, 3, 6, 13)
