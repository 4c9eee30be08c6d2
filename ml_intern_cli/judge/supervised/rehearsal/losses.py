"""Probes: the labels of the rows, the gradient of the loss, and what is logged and evaluated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import LOSS

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.rehearsal.bench import Reading, RehearsalBench


_LARGEST_RESIDUAL = 0.02


def _row_labels(bench: RehearsalBench) -> Measurement:
    wrong = total = 0
    hint = ""
    for reading in _all(bench):
        mistaken = _mistaken(bench, reading)
        wrong += int(mistaken.sum())
        total += len(mistaken)
        if not hint and bool(mistaken.any()):
            shift = next(
                (by for by in (1, -1) if _same(bench, reading.used_targets, reading.own_targets.roll(by))), 0
            )
            hint = f"row {int(mistaken.nonzero()[0])} of step {reading.step} has the label of another"
            hint = f"labels are shifted by {abs(shift)} row within the batch" if shift else hint
    return Measurement(
        passed=wrong == 0,
        measured=f"{wrong} of {total:,} labels are not those of their rows",
        allowed="0",
        component=f"{bench.place('forward', depth=1)}, targets" if wrong else "",
        detail=hint,
    )


def _all(bench: RehearsalBench) -> list[Reading]:
    """Readings of every process. Raises Unusable when there are none."""
    readings = [reading for process in bench.readings for reading in process]
    if not readings:
        raise Unusable("no step was recorded")
    return readings


def _mistaken(bench: RehearsalBench, reading: Reading) -> torch.Tensor:
    """Per row of a batch: whether the loss used another target than the row's own ``(B,)``."""
    import torch

    known = torch.tensor([row >= 0 for row in reading.rows])
    if bench.dataset.is_classification:
        # No label can be read from the gradient of another loss; loss-gradient finds that.
        if reading.residual > _LARGEST_RESIDUAL:
            return torch.zeros(len(known), dtype=torch.bool)
        return known & (reading.used_targets != reading.own_targets) & ~_other_label(bench, reading)
    if reading.residual <= _LARGEST_RESIDUAL:
        return torch.zeros(len(known), dtype=torch.bool)
    targets = torch.from_numpy(bench.dataset.rows(Split.TRAIN).targets)
    slack = 1e-3 * max(bench.dataset.target_scaling[1], float(targets.std()))
    nearest = (reading.used_targets[:, None] - targets[None]).abs().min(1).values
    # Values that are no targets of this data, or all one: that is another loss, not another label.
    varied = float(reading.used_targets.std()) > 0.1 * float(reading.own_targets.std())
    if float((nearest <= slack).float().mean()) < 0.9 or not varied:
        return torch.zeros(len(known), dtype=torch.bool)
    return known & ((reading.used_targets - reading.own_targets).abs() > slack)


def _other_label(bench: RehearsalBench, reading: Reading) -> torch.Tensor:
    """Whether an equal row has the label that was used."""
    import torch

    train = bench.dataset.rows(Split.TRAIN)
    twins = {places[0]: places for places in bench.row_index.values() if len(places) > 1}
    return torch.tensor(
        [
            any(int(train.targets[place]) == int(used) for place in twins.get(row, []))
            for row, used in zip(reading.rows, reading.used_targets.tolist(), strict=True)
        ]
    )


def _same(bench: RehearsalBench, first: torch.Tensor, second: torch.Tensor) -> bool:
    slack = 0.0 if bench.dataset.is_classification else 1e-2 * bench.dataset.target_scaling[1]
    return float(((first - second).abs() <= slack).float().mean()) > 0.9


ROW_LABELS = Probe(
    name="row-labels",
    category=Category.DATA,
    meaning="each row is trained towards its own label",
    threshold="0 others, read from the gradient of the outputs, which holds the label that the loss used",
    threshold_source=(
        "exact: the gradient of cross-entropy is softmax less label, of squared error output less target"
    ),
    usual_causes=(
        "labels shuffled apart from their rows",
        "labels shifted by a row",
        "labels changed in train.py",
    ),
    run=_row_labels,
)


def _loss_gradient(bench: RehearsalBench) -> Measurement:
    readings = _all(bench)
    worst = max(readings, key=lambda reading: reading.residual)
    factors = {reading.factor for reading in readings} - {"mean"}
    problems = []
    said = "cross-entropy" if bench.dataset.is_classification else "the squared error of scaled targets"
    labels_wrong = any(bool(_mistaken(bench, reading).any()) for reading in readings)
    explained_by_labels = labels_wrong and not bench.dataset.is_classification
    if worst.residual > _LARGEST_RESIDUAL and not explained_by_labels:
        problems.append(f"the gradient of the outputs is not that of {said} as train_config.json has it")
    elif "flipped" in factors:
        problems.append("the loss is maximised: its gradient has the wrong sign")
    elif "sum" in factors:
        problems.append("the loss of a batch is summed, not averaged")
    return Measurement(
        passed=not problems,
        measured=f"{worst.residual:.1%} of the gradient is not explained",
        allowed=f"≤ {_LARGEST_RESIDUAL:.0%}; the mean over the batch, minimised",
        component=f"{bench.line(LOSS)}, {bench.place('forward')}, loss" if problems else "",
        detail="; ".join(problems),
    )


LOSS_GRADIENT = Probe(
    name="loss-gradient",
    category=Category.TRAINING,
    meaning=(
        "what is minimised is the mean cross-entropy, or mean squared error, that the configuration states"
    ),
    threshold="≤ 2 % of the gradient of the outputs left unexplained",
    threshold_source=(
        "measured: float32 leaves 5e-8, softmax applied twice 1.8 and more; source: TheDeepChecker, UMLAUT"
    ),
    usual_causes=(
        "softmax before cross-entropy",
        "another loss",
        "a sign",
        "label smoothing left out or added",
        "class weights",
    ),
    run=_loss_gradient,
)


def _row_loss(bench: RehearsalBench) -> Measurement:
    logged = bench.whole.losses
    rows = {row.get("step"): row.get("loss") for row in bench.whole.metrics if "loss" in row}
    worst, problem = 0.0, ""
    for number in range(min(map(len, bench.readings))):
        step = bench.readings[0][number].step
        group = [process[number] for process in bench.readings]
        count = sum(len(reading.rows) for reading in group)
        own = sum(bench.own_loss(one, one.own_targets) * len(one.rows) for one in group) / count
        used = sum(bench.own_loss(one, one.used_targets) * len(one.rows) for one in group) / count
        for file, said in (("train.log", logged.get(step)), ("metrics.jsonl", rows.get(step))):
            if not isinstance(said, int | float):
                problem = problem or f"{file} has no loss for step {step}"
                continue
            # The labels may be wrong, and the loss that is logged still be the loss of them.
            away = min(abs(said - own), abs(said - used))
            worst = max(worst, away)
            if not away <= 1e-4 + 1e-3 * abs(used):
                problem = problem or f"{file} says {said:.4f} for step {step}, its batch has {own:.4f}"
    return Measurement(
        passed=not problem,
        measured=f"max |Δ| {worst:.2g}",
        allowed="≤ 1e-4 + 0.1 %",
        component=f"{problem.split(' ')[0]}, {bench.place('step')}" if problem else "",
        detail=problem,
    )


ROW_LOSS = Probe(
    name="row-loss",
    category=Category.REPORTING,
    meaning="the loss that is logged for a step is the loss of its batch",
    threshold="within 1e-4 and 0.1 %",
    threshold_source="train.log has four decimals, which round by 5e-5",
    usual_causes=(
        "a running mean logged",
        "the loss of another batch",
        "a loss made up",
        "a sum in place of the mean",
    ),
    run=_row_loss,
)


def _val_evaluated(bench: RehearsalBench) -> Measurement:
    import torch

    rounds = _evaluations(bench)
    claims = {
        row["step"]: row
        for row in bench.whole.metrics
        if "eval_loss" in row and isinstance(row.get("step"), int)
    }
    if not rounds or not claims:
        found = (
            "the model is never called without gradients" if not rounds else "no eval_loss in metrics.jsonl"
        )
        return Measurement(
            passed=False, measured=found, allowed="an evaluation on val", component="train.py", detail=found
        )
    problems: list[str] = []
    worst, val = 0.0, bench.dataset.rows(Split.VAL)
    for step, (places, outputs) in sorted(rounds.items())[:3]:
        strange = sum(place < 0 for place in places)
        if strange or len(places) != len(val):
            problems.append(
                f"{len(places)} rows are evaluated at step {step}, {strange} "
                f"of them not of val, which has {len(val)}"
            )
            break
        if step not in claims:
            continue
        targets = torch.from_numpy(val.targets)[torch.tensor(places)]
        for key, own in _scores(bench, outputs, targets).items():
            said = claims[step].get(key)
            away = abs(said - own) / max(abs(own), 0.05) if isinstance(said, int | float) else math.inf
            worst = max(worst, away)
            if away > 2e-3:
                problems.append(f"{key} of step {step} is said to be {said}, its outputs give {own:.4g}")
    return Measurement(
        passed=not problems,
        measured=f"{len(rounds)} evaluations, relative |Δ| {worst:.1g}",
        allowed="all rows of val, loss and metric within 0.2 %",
        component=bench.place("evaluation") if problems else "",
        detail="; ".join(problems[:3]),
    )


def _evaluations(bench: RehearsalBench) -> dict[int, tuple[list[int], torch.Tensor]]:
    """Per evaluated step, over all processes: indices of val rows (-1: none), outputs ``(N, C)``."""
    import numpy as np
    import torch

    val = bench.dataset.rows(Split.VAL)
    index: dict[bytes, int] = {}
    for number, row in enumerate(np.ascontiguousarray(val.inputs)):
        index.setdefault(row.tobytes(), number)
    parts: dict[int, list[tuple[list[int], torch.Tensor]]] = {}
    for event in (event for events in bench.whole.processes for event in events):
        if event.kind == "evaluation" and {"inputs", "outputs"} <= event.tensors.keys():
            rows = np.ascontiguousarray(event.tensors["inputs"].numpy().astype(val.inputs.dtype))
            outputs = event.tensors["outputs"].float().reshape(len(rows), -1)
            places = [index.get(row.tobytes(), -1) for row in rows]
            parts.setdefault(int(event.words["step"]), []).append((places, outputs))
    return {
        step: ([place for places, _ in some for place in places], torch.cat([one for _, one in some]))
        for step, some in parts.items()
    }


def _scores(bench: RehearsalBench, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    import torch.nn.functional as F

    if bench.dataset.is_classification:
        loss = F.cross_entropy(outputs, targets, label_smoothing=bench.setting("label_smoothing"))
        return {"eval_loss": float(loss), "accuracy": float((outputs.argmax(-1) == targets).double().mean())}
    values = outputs.reshape(-1)
    squares = (values - targets).double().square()
    return {
        "eval_loss": float(bench.row_losses(values, targets).mean()),
        "rmse": float(squares.mean().sqrt()),
    }


VAL_EVALUATED = Probe(
    name="val-evaluated",
    category=Category.REPORTING,
    meaning="an evaluation goes through all of val and says what its outputs give",
    threshold="every row of val once; loss and metric within 0.2 %",
    threshold_source="measured: sound evaluations differ by 2e-7",
    usual_causes=(
        "evaluation on the training rows",
        "a subset of val",
        "a metric made up",
        "labels of other rows",
    ),
    run=_val_evaluated,
)
