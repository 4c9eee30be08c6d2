"""Defects in data/: labels, rows and columns that are wrong, and what leaks between the splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.defects.case import Action, Defect, Edit, Family, Folder, Harm
from benchmarks.defects.supervised import claims
from benchmarks.defects.supervised.data import read_split, replace_split
from benchmarks.defects.supervised.names import (
    CLASSIFIERS,
    DEEP_CHECKER,
    DEEP_CRIME,
    IMAGES,
    LEAKAGE,
    REGRESSORS,
    TABLES,
    TAXONOMY,
)

Rows = tuple[NDArray[Any], NDArray[Any]]
_TRAIN_FILES = ("train-inputs.npy", "train-targets.npy", "train")


def _on_train(change: Callable[[NDArray[Any], NDArray[Any], np.random.Generator], Rows]) -> Action:
    """Rewrites the training rows, and the manifest with them, as a program that prepares data would."""

    def action(folder: Folder) -> None:
        inputs, targets = read_split(folder.data, "train")
        replace_split(folder.data, "train", *change(inputs, targets, np.random.default_rng(3)))

    return action


def _manifest(folder: Folder, **values: Any) -> None:
    path = folder.data / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")


def _noisy_labels(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    chosen = random.random(len(targets)) < 0.4
    drawn = (
        random.permutation(targets)
        if targets.dtype.kind == "f"
        else random.integers(targets.max() + 1, size=len(targets))
    )
    return inputs, np.where(chosen, drawn, targets).astype(targets.dtype)


def _shifted_labels(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs, np.roll(targets, 1)


def _next_class(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs, (targets + 1) % (targets.max() + 1)


def _without_last_class(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    kept = targets != targets.max()
    return inputs[kept], targets[kept]


def _thinned_classes(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    kept = (targets % 2 == 0) | (random.random(len(targets)) < 0.06)
    kept[[np.flatnonzero(targets == label)[0] for label in np.unique(targets)]] = True
    return inputs[kept], targets[kept]


def _noisy_inputs(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    noise = random.normal(size=inputs.shape) * 3 * inputs.std(0)
    return (inputs + noise).astype(np.float32), targets


def _overlapping_classes(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    """Half of the rows a second time, with the label of another class."""
    chosen = random.random(len(targets)) < 0.5
    other = (targets[chosen] + 1) % (targets.max() + 1)
    return np.concatenate([inputs, inputs[chosen]]), np.concatenate([targets, other])


def _few_rows(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs[: len(inputs) // 12], targets[: len(inputs) // 12]


def _rolled_columns(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return np.roll(inputs, 1, axis=1), targets


def _other_unit(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs * np.float32(1 / 16), targets


def _missing_values(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    holes = random.random(inputs.shape) < 0.01
    return np.where(holes, np.float32("nan"), inputs), targets


def _other_token_ids(inputs: NDArray[Any], targets: NDArray[Any], random: np.random.Generator) -> Rows:
    ids = np.append(random.permutation(inputs.max()), inputs.max())
    return ids[inputs], targets


def _cut_short(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    shortened = inputs.copy()
    shortened[:, 3:] = inputs.max()
    return shortened, targets


def _transposed_images(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs.swapaxes(-1, -2).copy(), targets


def _flattened_extremes(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs, np.minimum(targets, np.float32(np.quantile(targets, 0.3)))


def _other_unit_of_target(inputs: NDArray[Any], targets: NDArray[Any], _: np.random.Generator) -> Rows:
    return inputs, targets * np.float32(2.54)


def _append(split: str, *, noise: float = 0.0) -> Action:
    """Puts the rows of another split into the training split."""

    def action(folder: Folder) -> None:
        inputs, targets = read_split(folder.data, "train")
        more, labels = read_split(folder.data, split)
        if noise:
            spread = inputs.std(0) * noise
            more = (more + np.random.default_rng(4).normal(size=more.shape) * spread).astype(more.dtype)
        order = np.random.default_rng(5).permutation(len(targets) + len(labels))
        replace_split(
            folder.data,
            "train",
            np.concatenate([inputs, more])[order],
            np.concatenate([targets, labels])[order],
        )

    return action


def _duplicated_before_the_split(folder: Folder) -> None:
    """Half of val and held-out rows are replaced by training rows, as over-sampling before a split does."""
    inputs, targets = read_split(folder.data, "train")
    for split in ("val", "heldout"):
        own, labels = read_split(folder.data, split)
        half = len(labels) // 2
        own[:half], labels[:half] = inputs[:half], targets[:half]
        replace_split(folder.data, split, own, labels)


def _scaled_on_everything(folder: Folder) -> None:
    """The scaling is fitted on all rows, and said to be fitted on train."""
    inputs = np.concatenate([read_split(folder.data, name)[0] for name in ("train", "val", "heldout")])
    scaling = json.loads((folder.data / "manifest.json").read_text())["scaling"]
    shape = np.asarray(scaling["mean"]).shape
    axes = tuple(range(inputs.ndim)) if np.prod(shape) == 1 else (0,)
    mean, std = inputs.astype(np.float64).mean(axes), inputs.astype(np.float64).std(axes)
    told = {"mean": np.reshape(mean, shape).tolist(), "std": np.reshape(std, shape).tolist()}
    _manifest(folder, scaling=told | {"fitted_on": "train"})


def _target_among_the_inputs(folder: Folder) -> None:
    """Column 0 of every split is the target, with a little noise."""
    for split in ("train", "val", "heldout"):
        inputs, targets = read_split(folder.data, split)
        noise = np.random.default_rng(6).normal(size=len(targets)) * 0.1 * targets.std()
        inputs[:, 0] = targets + noise
        replace_split(folder.data, split, inputs, targets)
    train = read_split(folder.data, "train")[0].astype(np.float64)
    told = {"mean": train.mean(0).tolist(), "std": train.std(0).tolist(), "fitted_on": "train"}
    _manifest(folder, scaling=told)


def _target_in_a_pixel(folder: Folder) -> None:
    """A corner pixel of every split tells the class."""
    for split in ("train", "val", "heldout"):
        inputs, targets = read_split(folder.data, split)
        inputs[:, 0, 0, 0] = targets * np.float32(16 / 9)
        replace_split(folder.data, split, inputs, targets)


def _wrong_target_scaling(folder: Folder) -> None:
    """The statistics of another unit of the target: a hundredth of its deviation, and a mean of zero."""
    told = json.loads((folder.data / "manifest.json").read_text())["target_scaling"]
    _manifest(folder, target_scaling={"mean": 0.0, "std": told["std"] / 100})


def _bytes_changed(folder: Folder) -> None:
    """Labels of the training file are changed and the manifest is not."""
    inputs, targets = read_split(folder.data, "train")
    np.save(folder.data / "train-targets.npy", _noisy_labels(inputs, targets, np.random.default_rng(8))[1])


def _data(
    name: str,
    what: str,
    source: str,
    programs: tuple[str, ...],
    before: Action,
    component: tuple[str, ...] = _TRAIN_FILES,
    **more: Any,
) -> Defect:
    return Defect(
        name=name,
        family=Family.DATA,
        what=what,
        source=source,
        programs=programs,
        before=before,
        component=(*component, "manifest.json"),
        **more,
    )


_LEAK: dict[str, Any] = {"harm": Harm.CLAIM, "claim": claims.evaluation_rows_unseen}
_SPLITS = ("train-inputs.npy", "heldout-inputs.npy", "val-inputs.npy", "train", "heldout", "val")
_COLUMN = ("*-inputs.npy", "input 0", "input 0,*", "column 0", "train")

DEFECTS = (
    _data(
        "labels-drawn-at-random",
        "two labels in five are drawn at random",
        f"{DEEP_CRIME} (TCL); {DEEP_CHECKER} (labels)",
        (*CLASSIFIERS, *REGRESSORS),
        _on_train(_noisy_labels),
    ),
    _data(
        "labels-of-the-row-before",
        "training labels are shifted by one row",
        f"{DEEP_CHECKER} (labels); {TAXONOMY} (wrong pairing)",
        ("digits_mixer", "wine_mlp", "cells_mlp", "digits_cnn", "text_encoder", "diabetes_mlp"),
        _on_train(_shifted_labels),
    ),
    _data(
        "labels-renumbered-in-train",
        "training labels count the classes from another one on",
        f"{TAXONOMY} (label encoding); {DEEP_CRIME} (TCL)",
        ("digits_mixer", "wine_mlp", "text_encoder"),
        _on_train(_next_class),
    ),
    _data(
        "class-deleted",
        "no training row of the last class",
        f"{DEEP_CRIME} (TRD)",
        ("digits_cnn", "wine_mlp", "text_encoder", "cancer_mlp"),
        _on_train(_without_last_class),
    ),
    _data(
        "classes-thinned-in-train",
        "every other class keeps one training row in seventeen",
        f"{DEEP_CRIME} (TUD); {DEEP_CHECKER} (unbalanced data)",
        ("digits_cnn", "digits_mixer", "text_encoder"),
        _on_train(_thinned_classes),
    ),
    _data(
        "inputs-noisy-in-train",
        "training inputs carry noise of three deviations",
        f"{DEEP_CRIME} (TAN)",
        ("digits_mixer", "wine_mlp", "diabetes_mlp", "digits_cnn", "cancer_mlp"),
        _on_train(_noisy_inputs),
    ),
    _data(
        "classes-overlap",
        "half of the rows are there twice, the second time with another class",
        f"{DEEP_CRIME} (TCO)",
        ("digits_mixer", "digits_cnn", "text_encoder", "cancer_mlp"),
        _on_train(_overlapping_classes),
    ),
    _data(
        "rows-deleted",
        "a twelfth of the training rows is left",
        f"{DEEP_CRIME} (TRD)",
        ("digits_mixer", "digits_cnn", "text_encoder", "diabetes_mlp"),
        _on_train(_few_rows),
    ),
    _data(
        "columns-in-another-order",
        "the columns of train are rotated by one, those of val and held-out are not",
        f"{TAXONOMY} (wrong preprocessing); training-serving skew",
        TABLES,
        _on_train(_rolled_columns),
        ("train-inputs.npy", "val", "heldout", "input *", "train"),
    ),
    _data(
        "pixels-in-another-unit",
        "training pixels go to 1, those of val and held-out to 16",
        f"{TAXONOMY} (wrong preprocessing); {DEEP_CHECKER} (normalisation)",
        IMAGES,
        _on_train(_other_unit),
        ("train-inputs.npy", "val", "heldout", "input *", "train"),
    ),
    _data(
        "images-transposed-in-train",
        "rows and columns of the training images are swapped",
        f"{TAXONOMY} (channel and axis order)",
        IMAGES,
        _on_train(_transposed_images),
        ("train-inputs.npy", "val", "heldout", "input *", "train"),
    ),
    _data(
        "values-missing",
        "one value in a hundred is NaN",
        f"{TAXONOMY} (missing values)",
        ("wine_mlp", "diabetes_mlp", "cancer_mlp"),
        _on_train(_missing_values),
        ("train-inputs.npy", "input *", "train"),
    ),
    _data(
        "tokens-of-another-tokenizer",
        "training texts have the token ids of another vocabulary",
        "tokenizer mismatch, defects of language models",
        ("text_encoder",),
        _on_train(_other_token_ids),
        ("train-inputs.npy", "tokenizer*", "train"),
    ),
    _data(
        "texts-cut-short",
        "training texts end after three tokens",
        f"{TAXONOMY} (wrong truncation)",
        ("text_encoder",),
        _on_train(_cut_short),
        ("train-inputs.npy", "train"),
    ),
    _data(
        "targets-clipped",
        "training targets above their lowest third are cut off",
        f"{TAXONOMY} (wrong labels); censored targets",
        REGRESSORS,
        _on_train(_flattened_extremes),
        ("train-targets.npy", "targets", "train"),
    ),
    _data(
        "targets-in-another-unit",
        "training targets are in another unit than those of val and held-out",
        f"{TAXONOMY} (wrong labels); training-serving skew",
        REGRESSORS,
        _on_train(_other_unit_of_target),
        ("train-targets.npy", "targets", "train", "val", "heldout"),
    ),
    _data(
        "target-scaling-of-another-unit",
        "the target is scaled with a hundredth of its deviation and a mean of zero",
        f"{DEEP_CHECKER} (over-scaled outputs)",
        REGRESSORS,
        _wrong_target_scaling,
        ("manifest.json", "target_scaling*"),
    ),
    _data(
        "heldout-rows-in-train",
        "all held-out rows are training rows too",
        f"{LEAKAGE} (L1.1 no test set)",
        ("digits_mixer", "wine_mlp", "cells_mlp", "digits_cnn", "text_encoder", "cancer_mlp"),
        _append("heldout"),
        _SPLITS,
        **_LEAK,
    ),
    _data(
        "heldout-rows-nearly-in-train",
        "training holds all held-out rows with a hundredth of a deviation of noise",
        f"{LEAKAGE} (L1.4 duplicates)",
        ("wine_mlp", "cells_mlp", "cancer_mlp", "digits_cnn"),
        _append("heldout", noise=0.01),
        _SPLITS,
        **_LEAK,
    ),
    _data(
        "val-rows-in-train",
        "all rows of val are training rows too: the best checkpoint is chosen on seen rows",
        f"{LEAKAGE} (L1.1); Yang et al., ASE 2022 (overlap)",
        ("digits_mixer", "wine_mlp", "diabetes_mlp", "text_encoder"),
        _append("val"),
        _SPLITS,
        **_LEAK,
    ),
    _data(
        "duplicated-before-the-split",
        "half of val and of held-out are copies of training rows",
        f"{LEAKAGE} (L1.4 duplicates); Yang et al. (over-sampling before the split)",
        ("digits_cnn", "cells_mlp", "text_encoder", "cancer_mlp"),
        _duplicated_before_the_split,
        _SPLITS,
        **_LEAK,
    ),
    _data(
        "scaling-of-all-rows",
        "mean and deviation are those of all rows, val and held-out among them",
        f"{LEAKAGE} (L1.2 preprocessing); Yang et al. (preprocessing before the split)",
        ("wine_mlp", "cells_mlp", "digits_cnn", "cancer_mlp", "diabetes_mlp"),
        _scaled_on_everything,
        ("manifest.json", "scaling*"),
        harm=Harm.CLAIM,
        claim=claims.scaling_of_train,
    ),
    _data(
        "target-among-the-inputs",
        "a column is the target with some noise, which nobody has in use",
        f"{LEAKAGE} (L2 illegitimate features)",
        TABLES,
        _target_among_the_inputs,
        _COLUMN,
    ),
    _data(
        "class-in-a-pixel",
        "a corner pixel tells the class, which nobody has in use",
        f"{LEAKAGE} (L2 illegitimate features)",
        IMAGES,
        _target_in_a_pixel,
        _COLUMN,
    ),
    _data(
        "labels-changed-behind-the-manifest",
        "the file of training labels is not the one that the manifest has the hash of",
        f"{DEEP_CRIME} (TCL); data changed after it was recorded",
        ("digits_mixer", "diabetes_mlp", "text_encoder"),
        _bytes_changed,
        ("train-targets.npy", "train"),
    ),
    Defect(
        name="trained-on-val",
        family=Family.DATA,
        what="train.py opens val as its training split as well",
        source=f"{LEAKAGE} (L1.1); Yang et al. (overlap)",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "diabetes_mlp"),
        edits=(
            Edit(
                "train.py",
                '(Rows(self.config.data, manifest, name) for name in ("train", "val"))',
                '(Rows(self.config.data, manifest, name) for name in ("val", "val"))',
            ),
        ),
        component=("val-inputs.npy", "val", "eval.log", "*best.json", "rows*"),
        also=(Family.REPORTING, Family.TRAINING),
    ),
)
