"""Probes of the rows: whole, as prepared, apart and alike across splits, scaled by the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.chance import (
    binomial_tail,
    class_drift,
    kolmogorov_smirnov,
)
from ml_intern_cli.judge.supervised.data_probes.bench import CHANCE, MOST_ROWS, DataBench
from ml_intern_cli.judge.supervised.dataset import Dataset, fit_scaling

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Floats


def _rows_sound(bench: DataBench) -> Measurement:
    import numpy as np

    problems, component = [], ""
    dataset = bench.dataset
    info = dataset.manifest.inputs
    for split in Split:
        rows, names = dataset.rows(split), dataset.manifest.splits[split]
        found = []
        if not np.isfinite(rows.inputs).all():
            found.append((names.inputs.name, "holds NaN or infinity"))
        if not np.isfinite(rows.targets).all():
            found.append((names.targets.name, "holds NaN or infinity"))
        if dataset.is_tokens and not (
            rows.inputs.min() >= 0 and (info.vocab_size is None or rows.inputs.max() < info.vocab_size)
        ):
            found.append((names.inputs.name, f"has token ids outside 0 to {info.vocab_size}"))
        if dataset.is_classification and not (
            0 <= rows.targets.min() <= rows.targets.max() < dataset.num_classes
        ):
            found.append((names.targets.name, f"has classes outside 0 to {dataset.num_classes - 1}"))
        if len(np.unique(rows.targets)) < 2:
            found.append((names.targets.name, "has one target only"))
        problems += [f"{name} {what}" for name, what in found]
        component = component or (found[0][0] if found else "")
    if dataset.is_classification:
        absent = set(range(dataset.num_classes)) - set(np.unique(dataset.rows(Split.TRAIN).targets).tolist())
        names_ = dataset.manifest.classes or ()
        if absent:
            problems.append(f"no training row of class {', '.join(names_[one] for one in sorted(absent))}")
            component = component or dataset.manifest.splits[Split.TRAIN].targets.name
    sizes = {split: dataset.manifest.splits[split].rows for split in Split}
    if sizes[Split.TRAIN] < max(sizes[Split.VAL], sizes[Split.HELDOUT]):
        problems.append(f"{sizes[Split.TRAIN]:,} training rows are fewer than those that are to judge them")
        component = component or dataset.manifest.splits[Split.TRAIN].inputs.name
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} problems",
        allowed="0",
        component=component,
        detail="; ".join(problems[:4]),
    )


ROWS_SOUND = Probe(
    name="rows-sound",
    category=Category.DATA,
    meaning="values are finite and in range, every class has training rows, and train is the largest split",
    threshold="no exception",
    threshold_source="the contract of data/manifest.json",
    usual_causes=(
        "a division by a zero std",
        "classes counted from one",
        "a class lost while rows were filtered",
    ),
    run=_rows_sound,
)


def _rows_untouched(bench: DataBench) -> Measurement:
    damaged = bench.dataset.damaged_files()
    return Measurement(
        passed=not damaged,
        measured=f"{len(damaged)} of {6} files differ from the manifest",
        allowed="0",
        component=damaged[0] if damaged else "",
        detail="; ".join(f"{name} is not what the manifest recorded" for name in damaged),
    )


ROWS_UNTOUCHED = Probe(
    name="rows-untouched",
    category=Category.DATA,
    meaning="every array is byte for byte what the manifest recorded",
    threshold="equal SHA-256",
    threshold_source="exact",
    usual_causes=("a file written again after the manifest", "held-out rows or labels tampered with"),
    run=_rows_untouched,
)


def _split_overlap(bench: DataBench) -> Measurement:
    dataset = bench.dataset
    train = _comparable(dataset, Split.TRAIN)
    within, radius = _twins(train, train, same=True, radius=None)
    rate = (within + 1) / (len(train) + 2)
    told, worst = [], (1.0, "")
    for split, other in ((Split.HELDOUT, Split.TRAIN), (Split.VAL, Split.TRAIN), (Split.HELDOUT, Split.VAL)):
        rows, against = _comparable(dataset, split), _comparable(dataset, other)
        found, _ = _twins(rows, against, same=False, radius=radius)
        p = binomial_tail(found, len(rows), rate * min(1.0, 1.2 * len(against) / len(train) + 0.02))
        told.append(f"{found} of {len(rows)} {split} rows in {other}")
        worst = min(worst, (p, f"{split} and {other}"))
    passed = worst[0] >= CHANCE
    return Measurement(
        passed=passed,
        measured=f"{'; '.join(told)}; {within} of {len(train)} inside train",
        allowed=f"p ≥ {CHANCE:g} at the rate inside train",
        component="" if passed else dataset.manifest.splits[Split.TRAIN].inputs.name,
        detail="" if passed else f"{worst[1]} share rows (p = {worst[0]:.1g})",
    )


def _comparable(dataset: Dataset, split: Split) -> Floats:
    """Rows scaled with train's statistics; token ids as they are."""
    import numpy as np

    if dataset.is_tokens:
        return dataset.rows(split).inputs[:MOST_ROWS].astype(np.float64)
    return dataset.features(split)[:MOST_ROWS]


def _twins(rows: Floats, against: Floats, *, same: bool, radius: float | None) -> tuple[int, float]:
    """Rows that have a twin: one at a tenth of the usual distance to the nearest, or equal.

    Returns the count, and the radius that was used: a tenth of the median nearest distance.
    """
    import numpy as np
    import torch

    nearest = []
    reference = torch.from_numpy(against)
    for start in range(0, len(rows), 512):
        distances = torch.cdist(torch.from_numpy(rows[start : start + 512]), reference)
        if same:
            index = torch.arange(len(distances))
            distances[index, start + index] = torch.inf
        nearest.append(distances.min(1).values.numpy())
    closest = np.concatenate(nearest)
    if radius is None:
        radius = 0.1 * float(np.median(closest))
    return int((closest <= max(radius, 1e-6)).sum()), radius


SPLIT_OVERLAP = Probe(
    name="split-overlap",
    category=Category.DATA,
    meaning=(
        "held-out and val rows are not in the training split, nor "
        "nearly so, more often than train repeats itself"
    ),
    threshold=(
        "p ≥ 1e-4 (binomial) at the rate of twins inside train; a twin: a tenth of the usual nearest distance"
    ),
    threshold_source=(
        "natural duplicates show inside train too; 1e-4 is the test's nominal rate per pair of splits"
    ),
    usual_causes=(
        "rows duplicated before the split",
        "held-out rows appended to train",
        "one subject in two splits",
    ),
    run=_split_overlap,
)


def _split_drift(bench: DataBench) -> Measurement:
    import numpy as np

    dataset, told = bench.dataset, []
    worst: tuple[float, str, str] = (1.0, "", "")
    train = dataset.rows(Split.TRAIN)
    for split in (Split.VAL, Split.HELDOUT):
        other = dataset.rows(split)
        if dataset.is_classification:
            p, label = class_drift(train.targets, other.targets, dataset.num_classes)
            what = f"class {(dataset.manifest.classes or ())[label]}"
        else:
            p, what = kolmogorov_smirnov(train.targets, other.targets), "targets"
        told.append(f"{split} targets p = {p:.2g}")
        worst = min(worst, (p, split, what))
        if not dataset.is_tokens:
            mine, theirs = (one.inputs.reshape(len(one), -1) for one in (train, other))
            columns = np.flatnonzero(mine.std(0) > 0)[:512]
            values = [kolmogorov_smirnov(mine[:, column], theirs[:, column]) for column in columns]
            p = min(1.0, min(values, default=1.0) * len(values))
            told.append(f"{split} inputs p = {p:.2g}")
            worst = min(worst, (p, split, f"input {columns[int(np.argmin(values))]}" if values else ""))
    passed = worst[0] >= CHANCE
    return Measurement(
        passed=passed,
        measured="; ".join(told),
        allowed=f"p ≥ {CHANCE:g}",
        component="" if passed else _drifted(dataset, worst[2]),
        detail="" if passed else f"{worst[1]} is distributed otherwise than train: {worst[2]}",
    )


def _drifted(dataset: Dataset, what: str) -> str:
    """The training file that differs, and the column where there is one."""
    info = dataset.manifest.splits[Split.TRAIN]
    return f"{info.inputs.name}, {what}" if what.startswith("input ") else info.targets.name


SPLIT_DRIFT = Probe(
    name="split-drift",
    category=Category.DATA,
    meaning="the splits are samples of one distribution: targets, and each input",
    threshold="p ≥ 1e-4: chi-square of class shares, Kolmogorov-Smirnov of targets and inputs (Bonferroni)",
    threshold_source=(
        "the nominal rate per split and kind; measured: p ≥ 1e-3 in 1,200 tests of random splits of wine, "
        "breast-cancer and diabetes; splits by time would need their own"
    ),
    usual_causes=(
        "rows of a class deleted or added",
        "noise or scaling in one split only",
        "a sorted file cut in three",
    ),
    run=_split_drift,
)


def _scaling_fit(bench: DataBench) -> Measurement:
    import numpy as np

    dataset = bench.dataset
    problems = []
    scaling, target = dataset.manifest.scaling, dataset.manifest.target_scaling
    if scaling is not None and not dataset.is_tokens:
        claimed = [np.asarray(one, dtype=np.float64) for one in (scaling.mean, scaling.std)]
        problems += _explain(dataset, claimed, "inputs")
    if target is not None and not dataset.is_classification:
        problems += _explain(dataset, [np.asarray(target.mean), np.asarray(target.std)], "targets")
    return Measurement(
        passed=not problems,
        measured="no scaling" if scaling is None and target is None else f"{len(problems)} differ",
        allowed="mean and std of the training rows, to 1e-3",
        component="manifest.json" if problems else "",
        detail="; ".join(problems),
    )


def _explain(dataset: Dataset, claimed: list[Floats], what: str) -> list[str]:
    """Empty when the statistics are those of train; else a line that says whose they are."""
    import numpy as np

    def matches(splits: tuple[Split, ...]) -> bool:
        values = np.concatenate([getattr(dataset.rows(split), what) for split in splits]).astype(np.float64)
        means, stds = fit_scaling(values, claimed[0].shape)
        size = np.where(stds > 0, stds, 1.0)
        unbiased = stds * np.sqrt(len(values) / max(1, len(values) - 1))
        close = [np.abs(claimed[1] - one) <= 1e-3 * size for one in (stds, unbiased)]
        return bool(
            (np.abs(claimed[0] - means) <= 1e-3 * size).all()
            and ((close[0] | close[1]) | (stds <= 1e-6 * (1 + np.abs(means)))).all()
        )

    if matches((Split.TRAIN,)):
        return []
    for splits in (
        tuple(Split),
        (Split.TRAIN, Split.VAL),
        (Split.TRAIN, Split.HELDOUT),
        (Split.HELDOUT,),
        (Split.VAL,),
    ):
        if matches(splits):
            return [f"{what} are scaled with statistics of {' and '.join(splits)}"]
    return [f"{what} are scaled with statistics that are not those of the training rows"]


SCALING_FIT = Probe(
    name="scaling-fit",
    category=Category.DATA,
    meaning="what inputs and targets are scaled with was measured on the training rows alone",
    threshold="mean and std within 1e-3 std of the judge's own",
    threshold_source=(
        "measured: float32 means agree to 3e-6 std; statistics of all splits are 3e-3 std away for the "
        "pixels of digits, 0.04 to 0.2 for columns of tables"
    ),
    usual_causes=(
        "a scaler fitted before the split (Kapoor & Narayanan: preprocessing leak)",
        "statistics of other data",
    ),
    run=_scaling_fit,
)
