"""Harmless variations of the classifiers and regressors: whatever alarms on them alarms falsely."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.defects.case import Action, Clean, Edit, Folder
from benchmarks.defects.supervised.data import read_split, replace_split
from benchmarks.defects.supervised.names import PARALLEL, TEMPLATE

SEEDS = (101, 102, 103, 104, 105, 106)
_EVERY = (*TEMPLATE, *PARALLEL)
_WARNING = (
    "torch/storage.py:414: FutureWarning: the argument `wait` will be removed in a later release.\n"
    "  warnings.warn(\n"
)


def _settings(**values: Any) -> Action:
    return lambda folder: folder.set("train_config.json", **values)


def _rate(factor: float) -> Action:
    def action(folder: Folder) -> None:
        rate = folder.json("train_config.json")["learning_rate"]
        folder.set("train_config.json", learning_rate=factor * rate)

    return action


def _steps(factor: float, **values: Any) -> Action:
    def action(folder: Folder) -> None:
        steps = int(factor * folder.json("train_config.json")["steps"])
        folder.set("train_config.json", steps=steps, **values)

    return action


def _config(**values: Any) -> Action:
    return lambda folder: folder.set("config.json", **values)


def _some_rows_twice(folder: Folder) -> None:
    """One training row in twenty is there twice."""
    inputs, targets = read_split(folder.data, "train")
    again = np.random.default_rng(2).permutation(len(targets))[: len(targets) // 20]
    replace_split(
        folder.data,
        "train",
        np.concatenate([inputs, inputs[again]]),
        np.concatenate([targets, targets[again]]),
    )


def _two_easy_classes(folder: Folder) -> None:
    """Zeros and ones only, which anybody can tell apart."""
    for split in ("train", "val", "heldout"):
        inputs, targets = read_split(folder.data, split)
        replace_split(folder.data, split, inputs[targets < 2], targets[targets < 2])
    manifest = json.loads((folder.data / "manifest.json").read_text())
    pixels = read_split(folder.data, "train")[0].astype(np.float64)
    scaling = {"mean": [[[pixels.mean()]]], "std": [[[pixels.std()]]], "fitted_on": "train"}
    manifest |= {"classes": ["0", "1"], "scaling": scaling}
    (folder.data / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    folder.set("config.json", num_classes=2)


def _unscaled_images(folder: Folder) -> None:
    """Pixels divided by 16 in every split beforehand."""
    for split in ("train", "val", "heldout"):
        inputs, targets = read_split(folder.data, split)
        replace_split(folder.data, split, inputs / np.float32(16), targets)
    manifest = json.loads((folder.data / "manifest.json").read_text())
    pixels = read_split(folder.data, "train")[0].astype(np.float64)
    manifest["scaling"] = {"mean": [[[pixels.mean()]]], "std": [[[pixels.std()]]], "fitted_on": "train"}
    (folder.data / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _fewer_of_one_class(folder: Folder) -> None:
    """Every split keeps a third of class 0: unbalanced, and alike everywhere."""
    for split in ("train", "val", "heldout"):
        inputs, targets = read_split(folder.data, split)
        kept = (targets != 0) | (np.arange(len(targets)) % 3 == 0)
        replace_split(folder.data, split, inputs[kept], targets[kept])
    manifest = json.loads((folder.data / "manifest.json").read_text())
    if manifest["scaling"]:
        pixels = read_split(folder.data, "train")[0].astype(np.float64)
        scaling = {"mean": [[[pixels.mean()]]], "std": [[[pixels.std()]]], "fitted_on": "train"}
        (folder.data / "manifest.json").write_text(json.dumps(manifest | {"scaling": scaling}) + "\n")


def _freeze(program: str, layer: str) -> Clean:
    """A layer that is frozen on purpose: config.json says so, and model.py does it."""
    head = "        self.head = "
    return Clean(
        name=f"frozen-{program.replace('_', '-')}",
        what="a layer is frozen on purpose and config.json says so",
        programs=(program,),
        edits=(
            Edit(
                "model.py",
                "        self.head = ",
                f"        self.{layer}.requires_grad_(False)\n{head}",
            ),
        ),
        before=_config(freeze=[layer]),
    )


CLEAN = (
    *(
        Clean(name=f"seed-{seed}", what="another seed", programs=_EVERY, before=_settings(seed=seed))
        for seed in SEEDS
    ),
    Clean(
        name="rows-interrupted",
        what="stopped by a signal in the middle, and started again",
        programs=_EVERY,
        interrupt=True,
    ),
    Clean(
        name="labels-smoothed",
        what="label smoothing of 0.1, as train_config.json says",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "text_encoder", "cancer_mlp", "digits_ddp"),
        before=_settings(label_smoothing=0.1),
    ),
    Clean(
        name="dropout-of-half",
        what="dropout of 0.5: the eval loss is below the training loss",
        programs=("digits_cnn", "wine_mlp", "cancer_mlp", "digits_mixer"),
        before=_config(dropout=0.5),
    ),
    Clean(
        name="dropout-none",
        what="no dropout",
        programs=("digits_cnn", "wine_mlp", "text_encoder", "cells_mlp"),
        before=_config(dropout=0.0),
    ),
    Clean(
        name="rate-threefold",
        what="an aggressive learning rate that works",
        programs=(*TEMPLATE, "digits_ddp"),
        before=_rate(3.0),
    ),
    Clean(
        name="rate-of-a-third",
        what="a cautious learning rate",
        programs=("digits_cnn", "digits_mixer", "cells_mlp"),
        before=_rate(1 / 3),
    ),
    Clean(
        name="rate-constant",
        what="no decay and no warm-up",
        programs=("digits_mixer", "wine_mlp", "cells_mlp", "digits_cnn", "text_encoder", "wine_ddp"),
        before=_settings(schedule="constant", warmup_steps=0),
    ),
    Clean(
        name="rows-short-run",
        what="half of the steps, as planned",
        programs=("digits_cnn", "digits_mixer", "text_encoder", "cells_mlp"),
        before=_steps(0.5),
        replan=True,
    ),
    Clean(
        name="rows-small-batch",
        what="batches of 16, as planned",
        programs=("digits_cnn", "digits_mixer", "cells_mlp", "cancer_mlp", "digits_ddp"),
        before=_steps(1.5, batch_size=16),
        replan=True,
    ),
    Clean(
        name="decay-none",
        what="no weight decay and no clipping",
        programs=("wine_mlp", "cancer_mlp", "digits_cnn", "cells_mlp"),
        before=_settings(weight_decay=0.0, grad_clip=0.0),
    ),
    Clean(
        name="rows-repeated-in-train",
        what="one training row in twenty is there twice",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "text_encoder", "cells_mlp", "cancer_mlp"),
        before=_some_rows_twice,
    ),
    Clean(
        name="easy-classes",
        what="zeros and ones only: a truly low loss, and no error",
        programs=("digits_mixer", "digits_cnn"),
        before=_two_easy_classes,
        replan=True,
    ),
    Clean(
        name="pixels-up-to-one",
        what="pixels divided by 16 in every split",
        programs=("digits_mixer", "digits_cnn"),
        before=_unscaled_images,
    ),
    Clean(
        name="classes-unbalanced-everywhere",
        what="a class is three times as rare in every split",
        programs=("digits_mixer", "digits_cnn", "text_encoder"),
        before=_fewer_of_one_class,
    ),
    Clean(
        name="rows-benign-warning",
        what="a deprecation warning of a library on stderr",
        programs=("digits_mixer", "digits_cnn", "diabetes_mlp"),
        stderr=_WARNING,
    ),
    Clean(
        name="head-from-zero",
        what="the last layer starts at zero",
        programs=("wine_mlp", "cancer_mlp", "diabetes_mlp", "digits_cnn"),
        edits=(
            Edit(
                "model.py",
                "    def set_scaling(",
                "        nn.init.zeros_(self.head.weight)\n"
                "        nn.init.zeros_(self.head.bias)\n\n"
                "    def set_scaling(",
            ),
        ),
    ),
    Clean(
        name="activation-silu",
        what="another activation",
        programs=("digits_cnn", "cancer_mlp"),
        edits=(Edit("model.py", "functional.relu(self.", "functional.silu(self."),),
    ),
    Clean(
        name="steps-told-aloud",
        what="train.py prints more, and says so in a comment",
        programs=("wine_mlp", "cells_mlp", "digits_cnn"),
        edits=(
            Edit(
                "train.py",
                "        self.logs.metrics(\n            step=step,\n",
                "        # For whoever watches.\n"
                '        print(f"step {step}: {self.state.cursor} rows so far", flush=True)\n'
                "        self.logs.metrics(\n            step=step,\n",
            ),
        ),
    ),
    Clean(
        name="evaluated-often",
        what="an evaluation after every tenth step",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp"),
        before=_settings(eval_every=10),
    ),
    Clean(
        name="twice-as-wide",
        what="hidden layers of twice the width, as planned",
        programs=("wine_mlp", "cells_mlp", "cancer_mlp", "diabetes_mlp"),
        before=lambda folder: folder.set(
            "config.json", hidden_size=2 * folder.json("config.json")["hidden_size"]
        ),
        replan=True,
    ),
    _freeze("wine_mlp", "first"),
    _freeze("text_encoder", "positions"),
    _freeze("digits_cnn", "blocks[0]"),
    _freeze("digits_mixer", "patches"),
)
