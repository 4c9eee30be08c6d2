"""Probes of a train.py that trains in several processes: the same weights, different data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Process, Step

_ONE_PROCESS = Measurement(passed=True, measured="one process", allowed="-")


def _together(bench: RehearsalBench) -> Iterator[tuple[int, list[tuple[Process, Step]]]]:
    """Every step of several processes: its number, and who made it."""
    for start in bench.record.starts:
        if len(start.processes) > 1:
            for number in sorted({step.number for process in start.processes for step in process.steps}):
                yield number, [(p, s) for p in start.processes for s in p.steps if s.number == number]


def _replicas_agree(bench: RehearsalBench) -> Measurement:
    allowed = "equal weights on all ranks after every step"
    compared = 0
    for number, made in _together(bench):
        (process, reference), *others = made
        for other, step in others:
            compared += 1
            one, two = reference.updates[-1].left["sums"], step.updates[-1].left["sums"]
            if one != two:
                names = process.parameter_names
                name = next(n for n, a, b in zip(names, one, two, strict=True) if a != b)
                return Measurement(
                    passed=False,
                    measured=f"apart after step {number}",
                    allowed=allowed,
                    detail=f"step {number}: {name} differs on ranks {process.rank} and {other.rank}",
                    component=bench.line("DistributedDataParallel|DDP|all_reduce", "init_process_group"),
                )
    if not compared:
        return _ONE_PROCESS
    return Measurement(passed=True, measured=f"{compared} comparisons, all equal", allowed=allowed)


REPLICAS_AGREE = Probe(
    name="replicas-agree",
    category=Category.DISTRIBUTED,
    meaning="after every step all processes hold the same weights",
    threshold="equal, bit for bit",
    threshold_source="replicas that start equal and apply equal updates stay equal",
    usual_causes=(
        "gradients not reduced, or only some of them",
        "replicas initialised from different seeds",
        "the inner module stepped around the wrapper",
    ),
    run=_replicas_agree,
)


def _data_sharded(bench: RehearsalBench) -> Measurement:
    shared, total, where = 0, 0, ""
    for number, made in _together(bench):
        seen: dict[tuple[str, int], int] = {}
        fed = [
            (p.rank, place)
            for p, step in made
            for call in step.calls
            for place in bench.places.get(id(call), ())
        ]
        for rank, place in fed:
            if place is None:
                continue
            total += 1
            other = seen.setdefault((place.split.value, place.start), rank)
            if other != rank:
                shared += 1
                where = where or f"step {number}: ranks {other} and {rank} train on window {place.start}"
    if not total:
        return _ONE_PROCESS
    failed = shared > total // 50
    return Measurement(
        passed=not failed,
        measured=f"{shared} of {total} windows are fed to two processes",
        allowed="≤ 2 %, chance repeats of sampling with replacement",
        component=bench.line("rank", r"class \w*(Sampler|Dataset)") if failed else "",
        detail=where if failed else "",
    )


DATA_SHARDED = Probe(
    name="data-sharded",
    category=Category.DISTRIBUTED,
    meaning="in a step every process trains on windows of its own",
    threshold="≤ 2 % of the windows in two processes",
    threshold_source="windows are told apart by where they are in the corpus",
    usual_causes=(
        "no distributed sampler",
        "every rank draws with the same seed",
        "the rank not in the cursor",
    ),
    run=_data_sharded,
)
