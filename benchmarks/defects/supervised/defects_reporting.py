"""Defects in what a run says of itself: losses, metrics, counts, and the rows that they are measured on."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defects.case import Defect, Edit, Family, Folder, Harm
from benchmarks.defects.supervised import claims, score
from benchmarks.defects.supervised.names import (
    CLASSIFIERS,
    INTEGRITY,
    LEAKAGE,
    REGRESSORS,
    TAXONOMY,
    TEMPLATE,
)

_BEST = ("eval.log", "best.json", "*best.json", "metrics.jsonl")
_LOSS_LINE = re.compile(r"^step=(\d+) loss=(\S+)$", re.MULTILINE)
_LOGGED = '        self.logs.line("train.log", f"step={step} loss={loss:.4f}")\n'
_EVAL_LOSS = "            loss = self.objective.loss(outputs, targets).item()\n"
_EVAL_SCORE = "            score = self.objective.score(outputs, targets)\n"
_TOLD: dict[str, Any] = {"family": Family.REPORTING, "harm": Harm.CLAIM}


def _rewrite_losses(folder: Folder, change: Callable[[list[float]], list[float]]) -> None:
    """Replaces the losses in train.log and, so that they agree, in metrics.jsonl."""
    pairs = [(int(step), float(loss)) for step, loss in _LOSS_LINE.findall(folder.read("train.log"))]
    told = dict(zip((step for step, _ in pairs), change([loss for _, loss in pairs]), strict=True))
    folder.write("train.log", "".join(f"step={step} loss={loss:.4f}\n" for step, loss in told.items()))
    rows = [json.loads(line) for line in folder.read("metrics.jsonl").splitlines()]
    for row in rows:
        if "loss" in row:
            row["loss"] = told[row["step"]]
    folder.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _invented_losses(folder: Folder) -> None:
    def invent(losses: list[float]) -> list[float]:
        random = np.random.default_rng(9)
        fall = [0.02 + (losses[0] - 0.02) * math.exp(-8 * step / len(losses)) for step in range(len(losses))]
        return [loss * (1 + 0.02 * random.normal()) for loss in fall]

    _rewrite_losses(folder, invent)


def _smoothed_losses(folder: Folder) -> None:
    def smooth(losses: list[float]) -> list[float]:
        average, smoothed = losses[0], []
        for loss in losses:
            average = 0.97 * average + 0.03 * loss
            smoothed.append(average)
        return smoothed

    _rewrite_losses(folder, smooth)


def _sorted_losses(folder: Folder) -> None:
    _rewrite_losses(folder, lambda losses: sorted(losses, reverse=True))


def _tell(folder: Folder, **values: float) -> None:
    """Puts other figures of the best evaluation wherever it is told."""
    best = folder.json("ckpts/best.json") | values
    folder.set("ckpts/best.json", **values)
    last = folder.json("ckpts/last.json")
    folder.set("ckpts/last.json", best=last["best"] | values)
    rows = [json.loads(line) for line in folder.read("metrics.jsonl").splitlines()]
    for row in rows:
        if "eval_loss" in row and row["step"] == best["step"]:
            row.update(values)
    folder.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    metric = "accuracy" if "accuracy" in best else "rmse"
    told = f"step={best['step']} eval_loss={best['eval_loss']:.4f} {metric}={best[metric]:.4f}"
    lines = [
        told if line.startswith(f"step={best['step']} ") else line
        for line in folder.read("eval.log").splitlines()
    ]
    folder.write("eval.log", "\n".join(lines) + "\n")


def _invented_metric(folder: Folder) -> None:
    best = folder.json("ckpts/best.json")
    if "accuracy" in best:
        _tell(folder, accuracy=min(1.0, 0.5 + 0.5 * best["accuracy"] + 0.02))
    else:
        _tell(folder, rmse=0.6 * best["rmse"])


def _invented_eval_loss(folder: Folder) -> None:
    _tell(folder, eval_loss=0.5 * folder.json("ckpts/best.json")["eval_loss"])


def _more_steps_told(folder: Folder) -> None:
    """The logs go on for half as many steps as were trained."""
    rows = [json.loads(line) for line in folder.read("metrics.jsonl").splitlines()]
    steps = [row for row in rows if "loss" in row]
    last = folder.json("ckpts/last.json")
    batch = folder.json("train_config.json")["batch_size"]
    more = [
        row | {"step": last["step"] + number, "rows": last["rows"] + batch * number}
        for number, row in enumerate(steps[-len(steps) // 2 :], start=1)
    ]
    folder.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    lines = "".join(f"step={row['step']} loss={row['loss']:.4f}\n" for row in more)
    folder.write("train.log", folder.read("train.log") + lines)
    folder.set("ckpts/last.json", step=more[-1]["step"], rows=more[-1]["rows"])


def _trained_otherwise(folder: Folder, **settings: Any) -> Path:
    """The best checkpoint of the same program with other settings, in a temporary folder."""
    root = Path(tempfile.mkdtemp())
    outputs = shutil.ignore_patterns("ckpts", "*.log", "metrics.jsonl")
    shutil.copytree(folder.path, root / "path-a", ignore=outputs)
    shutil.copytree(folder.data, root / "data")
    other = Folder(root, folder.program)
    other.set("train_config.json", **settings)
    subprocess.run([sys.executable, "train.py"], cwd=other.path, check=True, capture_output=True)
    return other.path / "ckpts" / other.json("ckpts/best.json")["dir"] / "model.safetensors"


def _replace_weights(folder: Folder, weights: Path) -> None:
    shutil.copy(weights, folder.path / "ckpts" / folder.json("ckpts/best.json")["dir"] / "model.safetensors")
    shutil.rmtree(weights.parents[3])


def _weights_of_another_seed(folder: Folder) -> None:
    seed = folder.json("train_config.json")["seed"] + 77
    _replace_weights(folder, _trained_otherwise(folder, seed=seed))


def _weights_of_a_short_run(folder: Folder) -> None:
    _replace_weights(folder, _trained_otherwise(folder, steps=12))


def _log_of_another_seed(folder: Folder) -> None:
    weights = _trained_otherwise(folder, seed=folder.json("train_config.json")["seed"] + 78)
    other = weights.parents[2]
    for name in ("train.log", "metrics.jsonl"):
        shutil.copy(other / name, folder.path / name)
    shutil.rmtree(other.parent)


def _heldout_answers_rewritten(folder: Folder) -> None:
    """Held-out targets become what the model says."""
    outputs, targets = score.heldout_outputs(folder.path, folder.data)
    said = outputs.argmax(-1) if targets.dtype.is_floating_point is False else outputs.reshape(-1)
    if bool((said == targets).all()):  # a model without an error: leave it none to make
        said = said.roll(1)
    np.save(folder.data / "heldout-targets.npy", said.numpy().astype(targets.numpy().dtype))


def _heldout_rows_made_easy(folder: Folder) -> None:
    """Held-out rows are replaced by training rows."""
    for part in ("inputs", "targets"):
        train, heldout = (score.load(folder.data, split, part) for split in ("train", "heldout"))
        count = len(heldout)
        np.save(folder.data / f"heldout-{part}.npy", np.concatenate([train] * 3)[:count])


def _best_at_another_step(folder: Folder) -> None:
    """best.json tells the figures of the checkpoint, and names a step that was not kept."""
    best = folder.json("ckpts/best.json")
    first = folder.json("train_config.json")["eval_every"]
    folder.set("ckpts/best.json", step=first if best["step"] != first else 2 * first)


def _best_never_claimed(folder: Folder, sound: Path) -> claims.Claim:
    del sound
    best = folder.json("ckpts/best.json")
    return claims.Claim(
        stated=f"best at step {best['step']}",
        measured=f"the checkpoint is {best['dir']}",
        is_false=best["dir"] != f"step-{best['step']:08d}",
    )


DEFECTS = (
    Defect(
        name="losses-invented",
        what="train.log holds a curve that nobody measured",
        source=INTEGRITY,
        programs=("wine_mlp", "cells_mlp", "digits_cnn", "text_encoder"),
        after=_invented_losses,
        component=("train.log", "metrics.jsonl"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="losses-smoothed",
        what="train.log holds a moving average",
        source=f"{INTEGRITY}; logged losses smoothed",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "diabetes_mlp"),
        after=_smoothed_losses,
        component=("train.log", "metrics.jsonl"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="losses-sorted",
        what="the losses in train.log are put into falling order",
        source=INTEGRITY,
        programs=("wine_mlp", "cancer_mlp", "text_encoder"),
        after=_sorted_losses,
        component=("train.log", "metrics.jsonl"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="losses-halved",
        what="train.py logs half of each loss",
        source=f"{INTEGRITY}; logged losses scaled",
        programs=("digits_mixer", "digits_cnn", "cells_mlp", "diabetes_mlp"),
        edits=(Edit("train.py", _LOGGED, "        loss = loss / 2\n" + _LOGGED),),
        component=("train.log", "metrics.jsonl"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="eval-copied-from-training",
        what="the eval loss is the loss of the last batch",
        source=f"{INTEGRITY}; eval copied from train",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "diabetes_mlp"),
        edits=(
            Edit("train.py", _LOGGED, _LOGGED + "        self.latest_loss = loss\n"),
            Edit("train.py", _EVAL_LOSS, "            loss = self.latest_loss\n"),
        ),
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="evaluated-on-training-rows",
        what="the rows called val are those of train",
        source=f"{LEAKAGE} (L1.1); eval on the train shard",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "cells_mlp", "diabetes_mlp"),
        edits=(
            Edit(
                "train.py",
                '(Rows(self.config.data, manifest, name) for name in ("train", "val"))',
                '(Rows(self.config.data, manifest, name) for name in ("train", "train"))',
            ),
        ),
        component=(*_BEST, "val_rows*"),
        also=(Family.DATA,),
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="metric-on-easy-rows",
        what="the metric is that of the fifth of the rows that the model is best at",
        source=f"{INTEGRITY}; metric computed on a subset",
        programs=(*CLASSIFIERS[:1], "cancer_mlp", "diabetes_mlp", "cells_mlp"),
        edits={
            **dict.fromkeys(
                (CLASSIFIERS[0], "cancer_mlp"),
                (
                    Edit(
                        "train.py",
                        _EVAL_SCORE,
                        "            sure = outputs.max(-1).values.argsort()[-len(outputs) // 5 :]\n"
                        "            score = self.objective.score(outputs[sure], targets[sure])\n",
                    ),
                ),
            ),
            **dict.fromkeys(
                REGRESSORS,
                (
                    Edit(
                        "train.py",
                        _EVAL_SCORE,
                        "            near = (outputs - targets).abs().argsort()[: len(outputs) // 5]\n"
                        "            score = self.objective.score(outputs[near], targets[near])\n",
                    ),
                ),
            ),
        },
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="evaluated-on-a-few-rows",
        what="evaluation stops after sixteen rows and says it read all",
        source=f"{INTEGRITY}; metric computed on a subset",
        programs=("digits_mixer", "digits_cnn", "cells_mlp", "text_encoder"),
        edits=(
            Edit("train.py", _EVAL_LOSS, _EVAL_LOSS.replace("s, targets)", "s[:16], targets[:16])")),
            Edit("train.py", _EVAL_SCORE, _EVAL_SCORE.replace("s, targets)", "s[:16], targets[:16])")),
        ),
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="accuracy-of-the-best-three",
        what="a row counts as right when its class is among the first three",
        source=f"{TAXONOMY} (wrong metric); {INTEGRITY}",
        programs=("digits_mixer", "digits_cnn", "text_encoder"),
        edits=(
            Edit(
                "train.py",
                "return (outputs.argmax(-1) == targets).double().mean().item()",
                "return (outputs.topk(3).indices == targets[:, None]).any(1).double().mean().item()",
            ),
        ),
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="rmse-of-scaled-values",
        what="the error is divided by the target's deviation and told as if it were in its unit",
        source=f"{TAXONOMY} (wrong metric)",
        programs=REGRESSORS,
        edits=(
            Edit(
                "train.py",
                "square().mean().sqrt().item()\n",
                "square().mean().sqrt().item() / self._target_std\n",
            ),
        ),
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="absolute-error-called-rmse",
        what="the mean absolute error is told as rmse",
        source=f"{TAXONOMY} (wrong metric)",
        programs=REGRESSORS,
        edits=(Edit("train.py", "double().square().mean().sqrt().item()", "double().abs().mean().item()"),),
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="metric-invented",
        what="the metric in best.json, eval.log and metrics.jsonl is made up",
        source=INTEGRITY,
        programs=TEMPLATE,
        after=_invented_metric,
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="best-loss-invented",
        what="the eval loss in best.json, eval.log and metrics.jsonl is half of what was measured",
        source=INTEGRITY,
        programs=("digits_mixer", "digits_cnn", "cells_mlp", "diabetes_mlp", "cancer_mlp"),
        after=_invented_eval_loss,
        component=_BEST,
        claim=claims.best_evaluation,
        **_TOLD,
    ),
    Defect(
        name="worst-called-best",
        what="the checkpoint with the highest loss is kept as the best one",
        source=f"{TAXONOMY} (wrong model selection)",
        programs=("digits_mixer", "digits_cnn", "text_encoder", "cells_mlp"),
        edits=(Edit("train.py", 'loss < self.best["eval_loss"]', 'loss > self.best["eval_loss"]'),),
        component=("best.json", "*best.json", "ckpts*"),
        family=Family.REPORTING,
        also=(Family.TRAINING, Family.ARTIFACT),
    ),
    Defect(
        name="steps-that-were-not",
        what="logs and last.json go on for half as many steps again",
        source=f"{INTEGRITY}; counts inflated",
        programs=("wine_mlp", "digits_cnn", "cells_mlp"),
        after=_more_steps_told,
        component=("train.log", "metrics.jsonl", "last.json", "*last.json"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="rows-counted-twice",
        what="every batch is counted twice and half of the rows are passed over",
        source=f"{INTEGRITY}; counts inflated",
        programs=("digits_mixer", "text_encoder", "diabetes_mlp"),
        edits=(
            Edit(
                "train.py",
                "            self.state.cursor += self.config.batch_size\n",
                "            self.state.cursor += 2 * self.config.batch_size\n",
            ),
        ),
        component=("metrics.jsonl", "last.json", "*last.json", "state.json", "*state.json"),
        also=(Family.TRAINING, Family.DATA),
        claim=claims.rows_consumed(0.5),
        **_TOLD,
    ),
    Defect(
        name="weights-of-another-seed",
        what="the checkpoint is that of another training of the same program",
        source=f"{INTEGRITY}; checkpoint not from this training",
        programs=("wine_mlp", "digits_cnn", "text_encoder", "diabetes_mlp"),
        after=_weights_of_another_seed,
        component=("ckpts*", "*model.safetensors", *_BEST),
        also=(Family.ARTIFACT,),
        claim=claims.weights_of_this_training,
        **_TOLD,
    ),
    Defect(
        name="weights-of-a-short-run",
        what="the checkpoint is that of twelve steps",
        source=f"{INTEGRITY}; checkpoint not from this training",
        programs=("digits_mixer", "text_encoder", "cells_mlp"),
        after=_weights_of_a_short_run,
        component=("ckpts*", "*model.safetensors", *_BEST),
        also=(Family.ARTIFACT,),
        claim=claims.weights_of_this_training,
        **_TOLD,
    ),
    Defect(
        name="log-of-another-seed",
        what="train.log and metrics.jsonl are those of another training",
        source=f"{INTEGRITY}; checkpoint not from this training",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp"),
        after=_log_of_another_seed,
        component=("train.log", "metrics.jsonl", "eval.log"),
        claim=claims.logged_losses,
        **_TOLD,
    ),
    Defect(
        name="heldout-answers-rewritten",
        what="the held-out targets were replaced by what the model says",
        source=f"{INTEGRITY} (evaluator tampering); a held-out file overwritten",
        programs=("digits_mixer", "wine_mlp", "digits_cnn", "diabetes_mlp"),
        after=_heldout_answers_rewritten,
        component=("heldout-targets.npy", "heldout*"),
        also=(Family.DATA,),
        claim=claims.heldout_untouched,
        **_TOLD,
    ),
    Defect(
        name="heldout-rows-made-easy",
        what="held-out rows were replaced by training rows",
        source=f"{INTEGRITY} (evaluator tampering); a held-out file overwritten",
        programs=("cells_mlp", "digits_mixer", "cancer_mlp", "text_encoder"),
        after=_heldout_rows_made_easy,
        component=("heldout-*.npy", "heldout*"),
        also=(Family.DATA,),
        claim=claims.heldout_untouched,
        **_TOLD,
    ),
    Defect(
        name="best-of-another-step",
        what="best.json names one step and the checkpoint of another",
        source=f"{INTEGRITY}; figures and checkpoint do not belong together",
        programs=("digits_mixer", "cells_mlp", "digits_cnn", "cancer_mlp"),
        after=_best_at_another_step,
        component=(*_BEST, "ckpts*"),
        also=(Family.ARTIFACT,),
        claim=_best_never_claimed,
        **_TOLD,
    ),
)
