"""Probes: train.py runs; which rows it reads, in which order, scaled by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import SAMPLING

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


def _rehearsed(bench: RehearsalBench) -> Measurement:
    rehearsal = bench.rehearsal
    whole, stopped = rehearsal.whole, rehearsal.stopped
    problems = []
    if whole.ended.code != 0:
        problems.append(f"train.py {whole.ended.reason}")
    elif not whole.steps():
        problems.append("train.py took no optimizer step")
    elif whole.last.get("status") not in {"done", "stopped"}:
        problems.append(f"ckpts/last.json says {whole.last.get('status')!r}")
    if not problems and rehearsal.num_steps > 4 and stopped.last.get("status") != "stopped":
        problems.append(f"a SIGTERM left ckpts/last.json at {stopped.last.get('status')!r}, not 'stopped'")
    step, planned = whole.last.get("step"), bench.setting("steps")
    taken = len(whole.steps())
    if not problems and isinstance(step, int):
        if whole.last.get("status") == "done" and step < planned:
            problems.append(f"training calls itself done after {step} of {planned:.0f} steps")
        if taken < step:
            problems.append(f"{step} steps are claimed, the optimizer made {taken}")
    changed = sorted(set(whole.changed + stopped.changed))
    problems += [f"train.py changed {name}" for name in changed]
    return Measurement(
        passed=not problems,
        measured=f"{len(whole.steps())} steps in {whole.ended.seconds:.1f} s, exit code {whole.ended.code}",
        allowed="starts, trains, stops with a checkpoint on SIGTERM; changes none of its inputs",
        component=(f"{bench.place('step')}, ckpts/last.json" if taken else "train.py") if problems else "",
        detail="; ".join(problems[:3]),
    )


REHEARSED = Probe(
    name="rows-rehearsed",
    category=Category.TRAINING,
    meaning=(
        "train.py runs on a copy without the held-out rows, and stops with a checkpoint when it is told to"
    ),
    threshold="exit code 0, status done or stopped, inputs unchanged",
    threshold_source="the contract of a path",
    usual_causes=("an exception in train.py", "held-out rows read by train.py", "no handler for SIGTERM"),
    run=_rehearsed,
)


def _rows_from_train(bench: RehearsalBench) -> Measurement:
    seen, strange = _consumed(bench)
    foreign = len(strange)
    where = ""
    if foreign:
        import numpy as np

        val = {row.tobytes() for row in np.ascontiguousarray(bench.dataset.rows(Split.VAL).inputs)}
        of_val = sum(row in val for row in strange)
        where = (
            f"{of_val} of them are rows of val"
            if of_val
            else "they are in no split: changed before the model"
        )
    return Measurement(
        passed=not foreign,
        measured=f"{len(seen) - foreign:,} of {len(seen):,} rows are of the training split",
        allowed="all",
        component=f"{bench.place('forward', depth=1)}, {bench.place('forward', depth=2)}" if foreign else "",
        detail=where,
    )


def _consumed(bench: RehearsalBench) -> tuple[list[int], list[bytes]]:
    """Training rows in the order they went through the model (-1: not of train), and those that are not."""
    import numpy as np

    sequence: list[int] = []
    strange: list[bytes] = []
    dtype = bench.dataset.manifest.inputs.dtype
    processes = [bench.whole.steps(number) for number in range(len(bench.whole.processes))]
    for step in range(min(map(len, processes))):
        for steps in processes:
            event = steps[step]
            for index in range(len(event.json("forwards") or [])):
                inputs = event.tensors.get(f"{index}.inputs")
                if inputs is None:
                    raise Unusable("the model is not called with a tensor")
                rows = bench.rows_of(inputs)
                sequence += rows
                array = np.ascontiguousarray(inputs.numpy().astype(dtype))
                strange += [array[place].tobytes() for place, row in enumerate(rows) if row < 0]
    if not sequence:
        raise Unusable("no row went through the model before an optimizer step")
    return sequence, strange


ROWS_FROM_TRAIN = Probe(
    name="rows-from-train",
    category=Category.DATA,
    meaning="what the model is trained on are rows of the training split, byte for byte",
    threshold="all",
    threshold_source="exact; scaling and augmentation belong to model.py",
    usual_causes=(
        "val rows in training",
        "inputs scaled twice or by train.py",
        "noise or shifts added in train.py",
    ),
    run=_rows_from_train,
)


def _epoch_order(bench: RehearsalBench) -> Measurement:
    import numpy as np

    sequence = np.array(_consumed(bench)[0])
    train = bench.dataset.rows(Split.TRAIN)
    total = len(train)
    multiplicity = {places[0]: len(places) for places in bench.row_index.values()}
    batch = max(1, int(bench.setting("batch_size", 1)))
    first = sequence[: total // batch * batch] if total >= batch else sequence
    values, counts = np.unique(first[first >= 0], return_counts=True)
    often = sum(
        max(0, count - multiplicity[value])
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    )
    problems = []
    if often:
        problems.append(f"{often} of {len(first)} rows came again before the epoch was over")
    whole_epoch = len(sequence) >= total
    missing = total - sum(multiplicity[value] for value in values.tolist())
    if whole_epoch and not often and missing > batch:
        problems.append(f"{missing} of {total} rows never came in an epoch")
    steps = np.diff(first[:2000])
    if len(steps) > 20 and float((steps == 1).mean()) > 0.5:
        problems.append("rows come in the order of the file")
    labels = train.targets[np.maximum(first, 0)]
    if bench.dataset.is_classification and len(first) >= 50 and not problems:
        same = float((labels[1:] == labels[:-1]).mean())
        shares = np.bincount(train.targets) / total
        chance = float((shares**2).sum())
        if same > chance + 5 * np.sqrt(chance * (1 - chance) / len(labels)) + 0.1:
            problems.append(
                f"rows come class by class: {same:.0%} follow one of their own class, {chance:.0%} by chance"
            )
        if whole_epoch and set(np.unique(train.targets)) != set(np.unique(labels)):
            problems.append("a class never came in an epoch")
    second = sequence[total : 2 * total]
    if len(second) >= 20 and float((second == sequence[: len(second)]).mean()) > 0.5:
        problems.append("the second epoch has the order of the first")
    size = int(np.median([len(reading.rows) for reading in bench.readings[0]])) * len(bench.readings)
    if size != batch:
        problems.append(f"a step takes {size} rows, train_config.json says {batch}")
    return Measurement(
        passed=not problems,
        measured=f"{len(sequence):,} rows consumed of {total:,}, {often} early repeats",
        allowed="every row once per epoch, in random order, batch_size rows per step",
        component=f"{bench.line(SAMPLING)}, {bench.place('forward', depth=1)}" if problems else "",
        detail="; ".join(problems),
    )


EPOCH_ORDER = Probe(
    name="epoch-order",
    category=Category.DATA,
    meaning="an epoch goes through every training row once, shuffled anew, in batches of the configured size",
    threshold=(
        "no early repeat beyond natural duplicates; none missing but a last part of a batch; not sorted"
    ),
    threshold_source="exact, by counting what went through the model",
    usual_causes=(
        "sampling with replacement",
        "a cursor that is not moved",
        "no shuffling",
        "a split cut short",
        "one batch replayed",
    ),
    run=_epoch_order,
)


def _scaling_set(bench: RehearsalBench) -> Measurement:
    start = next((event for event in bench.whole.processes[0] if event.kind == "start"), None)
    model = bench.build(bench.seed)
    parameters = dict(model.named_parameters())
    differ = []
    for name, value in model.state_dict().items():
        if name in parameters or start is None or not value.is_floating_point():
            continue
        recorded = start.tensors.get(name)
        slack = 1e-5 * max(1e-12, float(value.abs().max()))
        fits = recorded is not None and recorded.shape == value.shape
        if recorded is None or not fits or float((recorded - value).abs().max()) > slack:
            differ.append(name)
    return Measurement(
        passed=not differ,
        measured=f"{len(differ)} buffers differ at the first step",
        allowed="0",
        component=differ[0] if differ else "",
        detail="inputs or targets are not scaled as the manifest says" if differ else "",
    )


SCALING_SET = Probe(
    name="scaling-set",
    category=Category.DATA,
    meaning=(
        "at the first step the model's buffers hold the manifest's "
        "scaling, and what model.py starts them with"
    ),
    threshold="equal to 1e-5",
    threshold_source="float32 copies are exact",
    usual_causes=("set_scaling not called, or with statistics of other rows", "target scaling left out"),
    run=_scaling_set,
)
