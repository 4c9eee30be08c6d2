"""Measuring this machine: the path's own train.py on a few real steps, per micro-batch and precision."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import TRAIN_CONFIG, TRAIN_PY
from ml_intern_cli.documents.plan import PathPlan, Plan, Precision
from ml_intern_cli.errors import Blocked
from ml_intern_cli.quantities import format_duration
from ml_intern_cli.stages.base import Progress, StageContext
from ml_intern_cli.stages.programs import (
    CRASH_LINES,
    explained,
    heldout_shards,
    how_it_crashed,
    raise_if_disk_full,
    tail_of,
)

if TYPE_CHECKING:
    from ml_intern_cli.executors.process import Finished

_MICRO_BATCH_TOKENS = (512, 1024, 2048, 4096, 8192, 16384)
_WORTH_IT = 1.05  # a larger micro-batch or another precision must be that much faster
_STARTUP_ALLOWANCE_S = 60.0
_STARTUP_S_PER_PARAM = 1e-7  # drawing a billion weights takes a minute and more


class CannotTrain(Blocked):
    """Not one step of training was done, be it for the code's sake or the machine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How fast training steps of one kind are. The rate is in tokens per second."""

    micro_batch: int  # sequences
    precision: Precision
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured for one path. Rates are in tokens per second."""

    timings: tuple[Timing, ...]  # by size, fp32 first
    eval_tokens_per_s: float
    checkpoint_s: float
    startup_s: float

    def fastest(self, sequences: int) -> Timing:
        """The fastest way to train on batches of so many sequences; the smallest one if none is so small.

        Something larger or rounder has to be clearly faster.
        """
        best = self.timings[0]
        for timing in self.timings[1:]:
            fits = timing.micro_batch <= max(sequences, self.timings[0].micro_batch)
            if fits and timing.tokens_per_s > _WORTH_IT * best.tokens_per_s:
                best = timing
        return best

    def listed(self, sequences: int) -> str:
        """All that could have been chosen for such batches, for the plan's sources."""
        return ", ".join(
            f"{timing.tokens_per_s:,.0f} with {timing.precision} × {timing.micro_batch}"
            for timing in self.timings
            if timing.micro_batch <= sequences
        )


def micro_batches(seq_len: int, sequences: int) -> tuple[int, ...]:
    """Micro-batches worth measuring: of 512 to 16k tokens, up to a whole step of that many sequences."""
    return tuple(sorted({min(sequences, max(1, tokens // seq_len)) for tokens in _MICRO_BATCH_TOKENS}))


def measure(
    context: StageContext, path: PathPlan, plan: Plan, *, files: Mapping[str, str], seconds: float
) -> Speed:
    """Time training steps of a path.

    Args:
        context: Of the stage.
        path: What is measured; its numbers may be provisional.
        plan: Its plan.
        files: Its programs.
        seconds: How long to measure, beside starting up.

    Raises:
        CannotTrain: the code fails, or not even the smallest micro-batch fits into memory.
        Blocked: no budget is left.
    """
    stage = "plan" if context.path_id is None else "implement"
    what = f"timing training steps of path {path.id}"
    context.report(Progress(stage=stage, path_id=context.path_id, what=what))
    folder = context.scratch / f"calibrate-{path.id}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Random tokens: the data of this plan may not be there yet, or be those of an earlier one.
    config = json.loads(files[TRAIN_CONFIG]) | {"data_dir": "no-data-yet"}
    for name, text in {**files, TRAIN_CONFIG: json.dumps(config)}.items():
        (folder / name).write_text(text, encoding="utf-8")
    sizes = micro_batches(plan.seq_len, path.micro_batch * path.accumulation)
    argv = (
        *explained(TRAIN_PY), "--calibrate", "calibration.json", "--seconds", f"{seconds:.1f}",
        "--micro-batches", ",".join(map(str, sizes)), "--precisions", "fp32,bf16",
    )  # fmt: skip
    finished = context.compute.run(
        argv,
        what=f"calibration of path {path.id}",
        cwd=folder,
        limit_s=seconds + _STARTUP_ALLOWANCE_S + _STARTUP_S_PER_PARAM * plan.params_planned,
        stderr=folder / "stderr",
        writable=(folder,),
        hidden=heldout_shards(context.layout),
    )
    if finished.exit_code != 0:
        raise_if_disk_full(context.layout, tail_of(folder / "stderr", lines=CRASH_LINES))
    speed = _read(folder, plan, finished)
    shutil.rmtree(folder, ignore_errors=True)
    return speed


def _read(folder: Path, plan: Plan, finished: Finished) -> Speed:
    speed = _speed(leavings.read_object(folder, "calibration.json"))
    if speed is None:
        why, better = (
            how_it_crashed(finished.exit_code, tail_of(folder / "stderr", lines=CRASH_LINES)),
            "with more memory",
        )
        if finished.out_of_time:
            why = f"two steps of the smallest batch were not done after {format_duration(finished.seconds)}"
            better = "that is faster"
        raise CannotTrain(
            f"a model of {plan.params_planned:,} parameters could not be trained for one step here",
            why=why,
            ways_on=("use fewer parameters: --params", f"use a machine {better}, or one with a GPU"),
        )
    return speed


def _speed(answer: dict[str, Any]) -> Speed | None:
    """What calibration.json says; ``None`` when it says nothing, or no such thing."""
    try:
        timings = tuple(
            Timing(
                micro_batch=int(_positive(one["micro_batch"])),
                precision=Precision(one["precision"]),
                tokens_per_s=_positive(one["tokens_per_s"]),
            )
            for one in answer["results"]
        )
        speed = Speed(
            timings=timings,
            eval_tokens_per_s=_positive(answer["eval_tokens_per_s"]),
            checkpoint_s=_positive(answer["checkpoint_s"], or_zero=True),
            startup_s=_positive(answer["startup_s"], or_zero=True),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return speed if timings else None


def _positive(value: Any, *, or_zero: bool = False) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        raise ValueError(value)
    return number
