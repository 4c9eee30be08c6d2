"""Probes of the labels: predictable from the rows, the same for the same rows, and not among the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.baselines import fit_logistic, fit_ridge, out_of_fold
from ml_intern_cli.judge.supervised.chance import (
    mean_and_error,
    normal_tail,
)
from ml_intern_cli.judge.supervised.data_probes.bench import CHANCE, MOST_ROWS, DataBench

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Floats


def _label_signal(bench: DataBench) -> Measurement:
    """Each label predicted from other rows: train's must not be harder than those of the other splits."""
    import numpy as np

    dataset = bench.dataset
    features = {split: dataset.features(split)[:MOST_ROWS] for split in Split}
    targets = {split: dataset.rows(split).targets[:MOST_ROWS] for split in Split}
    own = out_of_fold(features[Split.TRAIN], targets[Split.TRAIN], dataset.num_classes)
    others = np.concatenate([features[Split.VAL], features[Split.HELDOUT]])
    labels = np.concatenate([targets[Split.VAL], targets[Split.HELDOUT]])
    across = _errors(features[Split.TRAIN], targets[Split.TRAIN], others, labels, dataset.num_classes)
    among = out_of_fold(others, labels, dataset.num_classes)
    reference = min(across, among, key=lambda errors: float(errors.mean()))
    (mine, my_error), (theirs, their_error) = mean_and_error(own), mean_and_error(reference)
    (far, far_error) = mean_and_error(across)
    # A class that is never wrong has no spread to estimate an error from: half a row stands for it.
    least = max(0.5 / len(labels), 1e-12) if dataset.is_classification else 1e-12
    p = normal_tail((mine - theirs) / max(np.hypot(my_error, their_error), least))
    # The other way round: what train teaches holds inside train, and not for the other rows.
    p_across = normal_tail((far - mine) / max(np.hypot(my_error, far_error), least))
    unit = "error rate" if dataset.is_classification else "mean squared error"
    passed = min(p, p_across) >= CHANCE / 10
    other_way = p_across < p
    return Measurement(
        passed=passed,
        measured=(
            f"{unit} {mine:.3g} on train's own labels, {theirs:.3g} on val's and held-out's (p = {p:.1g}), "
            f"{far:.3g} from train to those (p = {p_across:.1g})"
        ),
        allowed=f"p ≥ {CHANCE / 10:g}",
        component="" if passed else dataset.manifest.splits[Split.TRAIN].targets.name,
        detail=""
        if passed
        else "what holds in the training rows does not hold in the others"
        if other_way
        else "training labels follow their rows less than the other labels do",
    )


def _errors(x: Floats, y: Array, new_x: Floats, new_y: Array, num_classes: int) -> Floats:
    """Errors per row of a simple model fitted on (x, y): 0/1, or squared."""
    import numpy as np

    if num_classes:
        wrong: Floats = (fit_logistic(x, y, num_classes)(new_x).argmax(1) != new_y).astype(np.float64)
        return wrong
    squared: Floats = (fit_ridge(x, y.astype(np.float64))(new_x)[:, 0] - new_y) ** 2
    return squared


LABEL_SIGNAL = Probe(
    name="label-signal",
    category=Category.DATA,
    meaning="a simple model finds train's labels in train's rows as well as the other labels in theirs",
    threshold=(
        "p ≥ 1e-5 that errors inside train (three folds) are those "
        "among the other rows, and from train to them"
    ),
    threshold_source="two samples of one labelling differ by chance only; source: DeepCrime's label noise",
    usual_causes=("training labels shifted by a row, shuffled or flipped", "noise added to training rows"),
    run=_label_signal,
)


def _label_conflict(bench: DataBench) -> Measurement:
    import numpy as np

    dataset = bench.dataset
    rows = dataset.rows(Split.TRAIN)
    keys = [row.tobytes() for row in np.ascontiguousarray(rows.inputs)]
    first: dict[bytes, float] = {}
    repeated = conflicts = 0
    allowed_gap = 0.0 if dataset.is_classification else 3.0 * float(rows.targets.std())
    for key, target in zip(keys, rows.targets.tolist(), strict=True):
        if key in first:
            repeated += 1
            conflicts += abs(first[key] - target) > allowed_gap
        first.setdefault(key, target)
    share = conflicts / len(rows)
    return Measurement(
        passed=share <= 0.01,
        measured=f"{conflicts} of {repeated} repeated rows have another label",
        allowed="≤ 1 % of the training rows",
        component="" if share <= 0.01 else dataset.manifest.splits[Split.TRAIN].targets.name,
    )


LABEL_CONFLICT = Probe(
    name="label-conflict",
    category=Category.DATA,
    meaning="training rows that are equal have equal labels",
    threshold="≤ 1 % of the training rows",
    threshold_source=(
        "measured: 0 in digits, wine, breast-cancer, diabetes and labelled stories; a bound, not a test"
    ),
    usual_causes=(
        "overlapping classes added (DeepCrime)",
        "a join that multiplied rows",
        "text cut to nothing",
    ),
    run=_label_conflict,
)


def _target_leak(bench: DataBench) -> Measurement:
    import numpy as np

    dataset = bench.dataset
    rows = dataset.rows(Split.TRAIN)
    if dataset.is_tokens:
        return Measurement(passed=True, measured="no features", allowed="-")
    leaks = []
    x = rows.inputs.reshape(len(rows), -1).astype(np.float64)
    for column in np.flatnonzero(x.std(0) > 0):
        values = x[:, column]
        if not dataset.is_classification:
            score = float(np.corrcoef(values, rows.targets)[0, 1] ** 2)
        else:
            order = np.argsort(values, kind="stable")
            labels, sorted_values = rows.targets[order], values[order]
            # Runs of one label; a value shared by two labels breaks a run.
            runs = 1 + int((labels[1:] != labels[:-1]).sum())
            mixed = bool(((labels[1:] != labels[:-1]) & (sorted_values[1:] == sorted_values[:-1])).any())
            score = 1.0 if runs == len(np.unique(labels)) and not mixed else 0.0
        if score >= 0.97:
            leaks.append(int(column))
    return Measurement(
        passed=not leaks,
        measured=f"{len(leaks)} features give the target away",
        allowed="0",
        component=f"input {leaks[0]}" if leaks else "",
    )


TARGET_LEAK = Probe(
    name="target-leak",
    category=Category.DATA,
    meaning="no single feature is the target in another form",
    threshold="no feature that sorts all training rows by class, or has R² ≥ 0.97 with the target",
    threshold_source=(
        "measured: sorted by any one feature, the rows of wine have 24 runs of a class and more, of "
        "breast-cancer 18; R² is at most 0.40 in diabetes and 0.57 for a column of breast-cancer"
    ),
    usual_causes=("the target column left among the features", "a feature recorded after the outcome"),
    run=_target_leak,
)
