"""Fitting the paths into the cap: a slice for each, and the steps that fill it. Pure arithmetic.

What is left of the cap is shared equally among as many paths as it admits, less what judging them
will take; steps are what the measured speed does in a slice, with a tenth to spare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ml_intern_cli.brains.blueprints import Recipe
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.errors import Blocked
from ml_intern_cli.quantities import format_duration
from ml_intern_cli.stages.calibration import Speed, Timing

_SAFETY = 0.90  # a machine that slows down by a tenth still ends inside its slice
_LEAST_SLICE_S = 30.0  # under this a second path would only halve the first
_JUDGED_TOKENS = 500_000  # evaluated, generated and rehearsed by smoke and verification, in forward passes
_JUDGING_STARTUPS = 8  # interpreters that import torch, and as much again for probes and rehearsed steps
_JUDGING_S = 10.0  # beside that
_PUBLISHING_S = 10.0
_MOST_JUDGING = 0.4  # of a path's share
_EVALUATIONS = 8
_CHECKPOINT_EVERY_S = 300.0
_MOST_CHECKPOINTING = 0.02  # of the training time
_EVAL_SHARE = 0.1  # evaluated tokens per trained one; train.py keeps to it
_SAMPLES_S, _SAMPLES_SHARE = 10.0, 0.04  # what train.py writes: at least so long, or that part of a slice
_MOST_OVERHEAD = 0.3  # of a slice, for start-up and checkpoints
_MOST_ROUNDS = 6  # until batch and speed fit each other; usually two


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user limits, and the data. ``None``: as much as fits.

    Attributes:
        steps: Optimizer steps of each path.
        tokens: Training tokens of each path.
        token_budget: Training tokens of all paths together.
        worthwhile_tokens: Training tokens of each path after which small data have been seen often enough.
        recipe: The training recipe for a number of tokens.
    """

    steps: int | None
    tokens: int | None
    token_budget: int | None
    worthwhile_tokens: int | None
    recipe: Callable[[int], Recipe]

    def most_steps(self, tokens_per_step: int, *, num_paths: int) -> int | None:
        """The fewest steps that any of the limits allows."""
        budget = None if self.token_budget is None else self.token_budget // num_paths
        limits = [
            max(1, round(tokens / tokens_per_step))
            for tokens in (self.tokens, self.worthwhile_tokens)
            if tokens is not None
        ]
        limits += [] if self.steps is None else [self.steps]
        limits += [] if budget is None else [budget // tokens_per_step]
        return min(limits, default=None)


def fit(
    draft: Plan, speeds: list[Speed], wish: Wish, *, remaining_s: float, slug: str
) -> tuple[PathPlan, ...]:
    """Fix the numbers of every path that the remaining compute admits.

    Raises:
        Blocked: not one step fits, or fewer steps fit than were asked for; nothing is narrowed.
    """
    shares = divide(remaining_s, speeds)
    return tuple(
        _fit(draft, path, speed, wish, share, num_paths=len(shares), slug=slug)
        for path, speed, share in zip(draft.paths, speeds, shares, strict=False)
    )


def refit(plan: Plan, path: PathPlan, speed: Speed, wish: Wish, *, slice_s: float, slug: str) -> PathPlan:
    """Fix the numbers of one path anew, for code that was written after the plan.

    Raises:
        Blocked: as for ``fit``.
    """
    share = Share(slice_s=slice_s, judging_s=path.judging_s)
    num_paths = sum(one.retry_of is None for one in plan.paths)
    return _fit(plan, path, speed, wish, share, num_paths=num_paths, slug=slug)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one path may take of the compute that is left, in seconds."""

    slice_s: float  # training
    judging_s: float  # set aside for smoke and verification


def divide(remaining_s: float, speeds: list[Speed]) -> list[Share]:
    """Equal shares for as many of the paths as the time admits; at least one."""
    for count in range(len(speeds), 0, -1):
        share_s = max(0.0, remaining_s - _PUBLISHING_S) / count
        judging_s = min(_MOST_JUDGING * share_s, max(_judging_s(speed) for speed in speeds[:count]))
        if share_s - judging_s >= _LEAST_SLICE_S or count == 1:
            return [Share(slice_s=share_s - judging_s, judging_s=judging_s)] * count
    return []


def _fit(
    draft: Plan, path: PathPlan, speed: Speed, wish: Wish, share: Share, *, num_paths: int, slug: str
) -> PathPlan:
    slice_s = share.slice_s
    recipe, timing = _settle(wish, speed, seq_len=draft.seq_len, slice_s=slice_s)
    micro_batch = timing.micro_batch
    accumulation = max(1, round(recipe.tokens_per_step / draft.seq_len / micro_batch))
    tokens_per_step = micro_batch * accumulation * draft.seq_len
    fixed_s = _fixed_s(speed, slice_s) + max(_SAMPLES_S, _SAMPLES_SHARE * slice_s)
    available_s = _SAFETY * slice_s - min(fixed_s, _MOST_OVERHEAD * slice_s)
    fitting = int(available_s / (tokens_per_step * _per_token_s(speed, timing)))
    wanted = wish.most_steps(tokens_per_step, num_paths=num_paths)
    steps = fitting if wanted is None else min(fitting, wanted)
    if wanted == 0:
        raise Blocked(
            "the token budget does not admit one step",
            why=f"a step takes {tokens_per_step:,} tokens; {num_paths} path(s) share {wish.token_budget:,}",
            ways_on=(f"ml-intern run {slug} --token-budget {100 * num_paths * tokens_per_step}",),
        )
    asked = wish.steps is not None or wish.tokens is not None
    if steps < 1 or (asked and wanted is not None and steps < wanted):
        shortage = _Shortage(wanted or 1, tokens_per_step, slice_s, num_paths)
        raise shortage.blocked(speed, timing, slug)
    return path.model_copy(
        update={
            "slice_s": round(slice_s, 1),
            "judging_s": round(share.judging_s, 1),
            "steps": steps,
            "micro_batch": micro_batch,
            "accumulation": accumulation,
            "warmup_steps": min(steps, max(1, round(recipe.warmup_fraction * steps))),
            "learning_rate": recipe.learning_rate,
            "min_learning_rate": float(f"{recipe.learning_rate * recipe.min_learning_rate_ratio:.3g}"),
            "eval_every": max(1, round(steps / _EVALUATIONS)),
            "checkpoint_every": max(1, round(steps / _num_checkpoints(speed, slice_s))),
            "precision": timing.precision,
            "measured_tokens_per_s": round(timing.tokens_per_s, 1),
        }
    )


def _settle(wish: Wish, speed: Speed, *, seq_len: int, slice_s: float) -> tuple[Recipe, Timing]:
    """A recipe, and the fastest way to train on its batches here.

    The batch depends on how many tokens there will be, these on how fast training is, and that on the batch.
    """
    timing = speed.fastest(max(timing.micro_batch for timing in speed.timings))
    for _ in range(_MOST_ROUNDS):
        fitting = int(slice_s * timing.tokens_per_s)
        recipe = wish.recipe(max(1, wish.tokens or min(fitting, wish.worthwhile_tokens or fitting)))
        before, timing = timing, speed.fastest(recipe.tokens_per_step // seq_len)
        if timing == before:
            break
    return recipe, timing


def _judging_s(speed: Speed) -> float:
    return _JUDGING_S + _JUDGING_STARTUPS * speed.startup_s + _JUDGED_TOKENS / speed.eval_tokens_per_s


def _fixed_s(speed: Speed, slice_s: float) -> float:
    """Start-up and checkpoints, however many steps there are."""
    return speed.startup_s + (_num_checkpoints(speed, slice_s) + 2) * speed.checkpoint_s


def _num_checkpoints(speed: Speed, slice_s: float) -> int:
    """One with each evaluation, and between them so many that little is lost when the power fails."""
    interval_s = max(_CHECKPOINT_EVERY_S, speed.checkpoint_s / _MOST_CHECKPOINTING)
    return max(_EVALUATIONS, round(slice_s / interval_s))


def _per_token_s(speed: Speed, timing: Timing) -> float:
    """Training a token, and its share of the evaluations."""
    return 1 / timing.tokens_per_s + _EVAL_SHARE / speed.eval_tokens_per_s


@dataclass(frozen=True, slots=True)
class _Shortage:
    """Steps that a slice has no room for."""

    steps: int
    tokens_per_step: int
    slice_s: float
    num_paths: int

    def blocked(self, speed: Speed, timing: Timing, slug: str) -> Blocked:
        """The error, with budgets that would do."""
        training_s = max(1.0, self.steps * self.tokens_per_step / timing.tokens_per_s)
        enough_s = self.num_paths * (1.4 * training_s + 2 * _fixed_s(speed, training_s) + 60)
        ways_on = [f"ml-intern run {slug} --time-budget {round(enough_s / 60 + 1)}m"]
        if self.num_paths > 1:
            ways_on.append(f"ml-intern run {slug} --max-paths 1")
        ways_on.append("ask for fewer steps or tokens in TASK.md")
        asked = f"{self.steps:,} steps of {self.tokens_per_step:,} tokens"
        return Blocked(
            f"{asked} do not fit into a slice of {format_duration(self.slice_s)}",
            why=f"that is {format_duration(training_s)} for each path at {timing.tokens_per_s:,.0f} tokens/s",
            ways_on=ways_on,
        )
