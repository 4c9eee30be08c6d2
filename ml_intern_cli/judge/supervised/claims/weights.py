"""Probes of the model that a training left: what it is, where it comes from, what it knows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.chance import mean_and_error, normal_tail
from ml_intern_cli.judge.supervised.claims.trained import Trained
from ml_intern_cli.judge.supervised.predictions import confusion_matrix

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Dataset, Floats


def _checkpoint_fits(bench: Trained) -> Measurement:
    return Measurement(
        passed=True,
        measured=f"step {bench.predictions.step}, {bench.predictions.params:,} parameters",
        allowed="-",
    )


CHECKPOINT_FITS = Probe(
    name="checkpoint-fits",
    category=Category.ARTIFACT,
    meaning="the checkpoint loads into the model of config.json, and its outputs are numbers",
    threshold="every tensor there, of its shape, finite; none left over",
    threshold_source="the contract of a path",
    usual_causes=(
        "a tensor lost or transposed on saving",
        "config.json of another model",
        "weights that diverged",
    ),
    run=_checkpoint_fits,
)


def _checkpoint_kin(bench: Trained) -> Measurement:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    root = bench.artifact.directory / "ckpts"
    last = root / Path(str(bench.records.last.get("dir"))).name
    best = root / Path(str(bench.records.best.get("dir"))).name
    try:
        weights, final = load_file(best / "model.safetensors"), load_file(last / "model.safetensors")
        moments = load_file(last / "optimizer.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        return Measurement(
            passed=False,
            measured="not readable",
            allowed="readable",
            component="ckpts",
            detail=str(error)[:300],
        )
    problems = []
    if weights.keys() != final.keys():
        problems.append("the best and the last checkpoint hold other tensors")
    trainable = [name for name in bench.predictions.trainable if name in final]
    without = [name for name in trainable if not any(key.startswith(f"{name}.") for key in moments)]
    if without:
        problems.append(f"the optimizer has no state for {', '.join(without[:3])}")
    steps = {int(value.reshape(-1)[0]) for key, value in moments.items() if key.endswith(".step")}
    if steps and steps != {bench.records.step}:
        problems.append(f"the optimizer counts {sorted(steps)[:3]} steps, last.json {bench.records.step}")
    misfit = [
        key
        for key, value in moments.items()
        if key.rpartition(".")[0] in final
        and value.size > 1
        and value.shape != final[key.rpartition(".")[0]].shape
    ]
    if misfit:
        problems.append(f"{misfit[0]} has another shape than its parameter")
    matrices = [
        name
        for name in trainable
        if final[name].ndim > 1 and name in weights and weights[name].shape == final[name].shape
    ]
    likeness = math.nan
    if sum(final[name].size for name in matrices) >= 200:
        first, second = (np.concatenate([one[name].ravel() for name in matrices]) for one in (weights, final))
        likeness = float(np.corrcoef(first, second)[0, 1])
        if likeness < 0.3:
            problems.append(
                f"the weights of step {bench.records.best_step} are no "
                f"kin of the last ones (r = {likeness:.2f})"
            )
    return Measurement(
        passed=not problems,
        measured=(
            f"optimizer at step {', '.join(map(str, sorted(steps)[:3]))}; "
            f"weights of best and last r = {likeness:.2f}"
        ),
        allowed=f"step {bench.records.step}, state for every trainable tensor, r ≥ 0.3",
        component=(without[0] if without else misfit[0] if misfit else "ckpts") if problems else "",
        detail="; ".join(problems[:4]),
    )


CHECKPOINT_KIN = Probe(
    name="checkpoint-kin",
    category=Category.REPORTING,
    meaning="the checkpoint is of this training: its optimizer, its step, and kin of the last weights",
    threshold=(
        "equal steps; AdamW state for every trainable tensor; correlation of best and last weights ≥ 0.3"
    ),
    threshold_source=(
        "measured: 1.00 in twelve sound trainings, which share their start; -0.05 to 0.05 between two seeds"
    ),
    usual_causes=(
        "a checkpoint of another run",
        "parameters left out of the optimizer",
        "a state.json edited",
    ),
    run=_checkpoint_kin,
)


def _trained_rows_apart(bench: Trained) -> Measurement:
    import numpy as np

    outputs = bench.predictions.outputs
    base = outputs["probe"]
    scale = max(float(np.abs(base - base.mean(0)).max()), 1e-9 * float(np.abs(base).max()), 1e-30)
    moves = {
        "the same rows gave other outputs the second time": float(np.abs(outputs["again"] - base).max())
        / scale,
        "rows have other outputs alone than in a batch": float(
            np.abs(outputs["alone"] - base[: len(outputs["alone"])]).max()
        )
        / scale,
        "the order of the rows matters": float(np.abs(outputs["reversed"][::-1] - base).max()) / scale,
    }
    worst = max(moves, key=lambda what: moves[what])
    passed = moves[worst] <= 1e-3
    return Measurement(
        passed=passed,
        measured=f"relative |Δ| {moves[worst]:.1g}",
        allowed="≤ 1e-3",
        detail="" if passed else worst,
    )


TRAINED_ROWS_APART = Probe(
    name="trained-rows-apart",
    category=Category.MODEL,
    meaning="the trained model treats each row alone, and twice the same",
    threshold="relative |Δ| ≤ 1e-3 between batches of 1 and 64, orders, and two calls",
    threshold_source=(
        "measured: 2e-7 in twelve sound trainings; batch statistics in eval mode 0.03 on digits, 0.1 on "
        "breast-cancer"
    ),
    usual_causes=("dropout or batch statistics active in eval mode", "state kept between two calls"),
    run=_trained_rows_apart,
)


def _class_order(bench: Trained) -> Measurement:
    import numpy as np

    if not bench.dataset.is_classification:
        return Measurement(passed=True, measured="no classes", allowed="-")
    true = bench.dataset.rows(Split.HELDOUT).targets
    matrix = confusion_matrix(
        true, bench.predictions.outputs[Split.HELDOUT].argmax(1), bench.dataset.num_classes
    )
    target = matrix.argmax(1)
    accuracy = float(np.trace(matrix) / matrix.sum())
    rows = np.flatnonzero(matrix.sum(1))
    permuted = float(matrix[rows, target[rows]].sum() / matrix.sum())
    moved = [index for index in rows if target[index] != index]
    distinct = len(set(target[rows].tolist())) == len(rows)
    wrong = bool(moved) and distinct and permuted > accuracy + 0.3
    names = bench.dataset.manifest.classes or ()
    return Measurement(
        passed=not wrong,
        measured=f"accuracy {accuracy:.3f}, {permuted:.3f} with its classes renamed",
        allowed="no renaming gains 0.3",
        component="the output layer" if wrong else "",
        detail="" if not wrong else f"what is {names[moved[0]]} is called {names[target[moved[0]]]}",
    )


CLASS_ORDER = Probe(
    name="class-order",
    category=Category.ARTIFACT,
    meaning="output c is class c of the manifest",
    threshold="renaming the classes one to one gains less than 0.3 accuracy",
    threshold_source=(
        "measured: 0 in nine sound classifiers, whose most frequent answer to a class is that class; random "
        "answers gain 0.09 on 450 rows, up to 0.4 on 45"
    ),
    usual_causes=(
        "classes sorted otherwise in training",
        "a head loaded from another labelling",
        "labels counted from one",
    ),
    run=_class_order,
)


def _unseen_splits(bench: Trained) -> Measurement:
    losses = {split: bench.losses(split, smoothed=False) for split in Split}
    told, worst = [], (1.0, "")
    (val, val_error), (heldout, heldout_error) = (
        mean_and_error(losses[one]) for one in (Split.VAL, Split.HELDOUT)
    )
    error = max(math.hypot(val_error, heldout_error), 1e-9)
    p = normal_tail(abs(val - heldout) / error) * 2
    lower = "val" if val < heldout else "heldout"
    told.append(f"val {val:.3g} ± {val_error:.1g}, held-out {heldout:.3g} ± {heldout_error:.1g}")
    worst = (p, f"the model knows {lower} better than the other unseen rows")
    passed = worst[0] >= 1e-5
    return Measurement(
        passed=passed,
        measured=f"{told[0]} (p = {p:.1g})",
        allowed="p ≥ 1e-5",
        component="" if passed else bench.dataset.manifest.splits[Split(lower)].inputs.name,
        detail="" if passed else worst[1],
    )


UNSEEN_SPLITS = Probe(
    name="unseen-splits",
    category=Category.DATA,
    meaning="val and held-out rows are equally new to the model",
    threshold="p ≥ 1e-5 that their mean losses are equal",
    threshold_source=(
        "a test's nominal rate: both are samples of one distribution; measured: p ≥ 0.06 in twelve sound "
        "trainings"
    ),
    usual_causes=("val or held-out rows read by training", "a model chosen on the held-out rows"),
    run=_unseen_splits,
)


def _signal(bench: Trained) -> Measurement:
    import numpy as np

    outputs, targets = bench.predictions.outputs[Split.HELDOUT], bench.dataset.rows(Split.HELDOUT).targets
    chance = np.random.default_rng(0)
    drawn = [_agreement(bench.dataset, outputs, chance.permutation(targets)) for _ in range(400)]
    own = _agreement(bench.dataset, outputs, targets)
    better = 1 - (sum(value >= own for value in drawn) + 1) / (len(drawn) + 1)
    return Measurement(
        passed=better >= 0.99,
        measured=f"{own:.3f}, with labels shuffled {float(np.mean(drawn)):.3f} ± {float(np.std(drawn)):.3f}",
        allowed="better than 99 % of 400 shuffles",
        component="" if better >= 0.99 else "ckpts/best.json",
    )


def _agreement(dataset: Dataset, outputs: Floats, targets: Array) -> float:
    """Accuracy, or the correlation of predictions and targets."""
    import numpy as np

    if dataset.is_classification:
        return float((outputs.argmax(1) == targets).mean())
    return float(np.corrcoef(outputs[:, 0], targets)[0, 1]) if outputs[:, 0].std() > 0 else 0.0


SIGNAL = Probe(
    name="shuffled-labels",
    category=Category.MODEL,
    meaning="predictions go with the held-out labels, and not with the same labels shuffled",
    threshold="accuracy, or correlation, above 99 % of 400 shuffles",
    threshold_source="a permutation test: nominally one in a hundred models without signal passes it",
    usual_causes=(
        "training labels that do not belong to their rows",
        "weights that never moved",
        "a constant output",
    ),
    run=_signal,
)
