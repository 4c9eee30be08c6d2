"""Probes: processes share the rows out and stay the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.rehearsal.bench import difference
from ml_intern_cli.judge.supervised.rehearsal.steps import named, whole_steps

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


def _ranks_apart(bench: RehearsalBench) -> Measurement:
    processes = bench.readings
    if len(processes) < 2:
        return Measurement(passed=True, measured="one process", allowed="-")
    rows_per_epoch = bench.dataset.manifest.splits[Split.TRAIN].rows
    shared = total = 0
    for readings in zip(*processes, strict=False):
        rows = [row for reading in readings for row in reading.rows]
        step = readings[0].step
        if (step - 1) * len(rows) // rows_per_epoch != (step * len(rows) - 1) // rows_per_epoch:
            continue  # an epoch ends within it, and the next one may begin with the same rows
        total += len(rows)
        shared += len(rows) - len(set(rows))
    if not total:
        return Measurement(passed=True, measured="an epoch ends within every step", allowed="-")
    return Measurement(
        passed=shared <= 0.02 * total,
        measured=f"{shared} of {total} rows go to two processes in one step",
        allowed="≤ 2 %, natural duplicates",
        component=bench.place("forward") if shared > 0.02 * total else "",
    )


RANKS_APART = Probe(
    name="ranks-apart",
    category=Category.DISTRIBUTED,
    meaning="the processes share the batch out: no row goes to two of them in a step",
    threshold="≤ 2 % of the rows of steps within one epoch",
    threshold_source="exact but for natural duplicates; measured: 0 in two programs over 1,000 seeds each",
    usual_causes=("no sampler per process", "the same seed for every process"),
    run=_ranks_apart,
)


def _replicas_in_step(bench: RehearsalBench) -> Measurement:
    processes = bench.whole.processes
    if len(processes) < 2:
        return Measurement(passed=True, measured="one process", allowed="-")
    worst, problem = 0.0, ""
    counts = [len(bench.whole.steps(number)) for number in range(len(processes))]
    if max(counts) - min(counts) > 1:
        problem = f"the processes make {', '.join(map(str, counts))} steps"
    for events in zip(*(whole_steps(bench, number) for number in range(len(processes))), strict=False):
        first, *others = (named(event, "after:") for event in events)
        for other in others:
            away, name = difference(first, other)
            worst = max(worst, away)
            if away > 1e-6 and not problem:
                problem = f"after step {events[0].words['step']} the replicas differ, most so in {name}"
    return Measurement(
        passed=not problem,
        measured=f"{len(processes)} processes, relative |Δ| {worst:.1g}",
        allowed="≤ 1e-6",
        component=bench.place("forward") if problem else "",
        detail=problem,
    )


REPLICAS_IN_STEP = Probe(
    name="replicas-in-step",
    category=Category.DISTRIBUTED,
    meaning="every process holds the same weights after each step",
    threshold="relative |Δ| ≤ 1e-6",
    threshold_source="the same update of the same weights; source: TrainCheck (pytorch-104336, x-jxmnop)",
    usual_causes=("gradients not averaged", "another start per process", "a process that skips updates"),
    run=_replicas_in_step,
)
