"""Verify of a classifier or regressor: six checks and the probes, from outputs that carry no label back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents.assessment import Assessment
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.verify import Judgement
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.checks.criterion import Criterion, failure, judgement
from ml_intern_cli.judge.checks.stderr import judge_stderr
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.records import Records
from ml_intern_cli.judge.supervised.bench import constant_loss
from ml_intern_cli.judge.supervised.chance import mean_and_error
from ml_intern_cli.judge.supervised.claims import CLAIM_PROBES
from ml_intern_cli.judge.supervised.claims.trained import Trained, row_losses
from ml_intern_cli.judge.supervised.claims.weights import CHECKPOINT_FITS
from ml_intern_cli.judge.supervised.data_probes import DATA_PROBES
from ml_intern_cli.judge.supervised.dataset import Dataset
from ml_intern_cli.judge.supervised.host import Predictions, predict
from ml_intern_cli.judge.supervised.predictions import Measured, judge_predictions, residual_plot

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array

TIME_LIMIT_S = 120.0
"""For the process of the model."""
_LARGEST_DRIFT = 0.15
_LEAST_SHARE = 0.7  # of the planned rows
_LARGEST_GAP = 0.5  # of a constant's loss, held-out above train
_LARGEST_LEAD = 0.25  # held-out below train, beside 4 standard errors
RESIDUALS = "residuals.svg"


def verify_rows(
    path_dir: Path,
    *,
    data_dir: Path,
    planned_rows: int,
    target_params: int | None,
    seed: int,
    progress: Callable[[str], None],
    time_limit_s: float = TIME_LIMIT_S,
) -> Assessment:
    """Judges the checkpoint of ``ckpts/best.json``; for regression, writes ``residuals.svg`` beside it.

    Args:
        path_dir: ``path-<id>/``.
        data_dir: ``data/`` of the same run.
        planned_rows: Rows of training in PLAN.md, epochs counted as often as they are made.
        target_params: The size that was asked for, if one was.
        seed: Of the rows that are looked at twice.
        progress: Gets a line before each part of the work.
        time_limit_s: For the process of the model.

    Raises:
        InvalidInput: the manifest cannot be read, which no path is to blame for.
    """
    artifact, dataset = Artifact(path_dir), Dataset.open(data_dir)
    records = Records.read(artifact)
    progress("outputs of the checkpoint")
    predictions, broken = _predict(artifact, dataset, seed=seed, time_limit_s=time_limit_s)
    measured = Measured((), "", failure(broken))
    loss = tracks = failure(broken)
    train_loss = eval_loss = None
    high = math.log(dataset.num_classes) if dataset.is_classification else 1.0
    if predictions is not None:
        progress("held-out predictions")
        outputs = {split: predictions.outputs[split] for split in Split}
        measured = judge_predictions(dataset, outputs)
        losses = {split: row_losses(dataset, outputs[split], split) for split in Split}
        high = _constant_on_heldout(dataset)
        train_loss, train_error = mean_and_error(losses[Split.TRAIN])
        eval_loss, error = mean_and_error(losses[Split.HELDOUT])
        loss = _judge_loss(dataset, eval_loss, high)
        tracks = _judge_gap(eval_loss - train_loss, math.hypot(error, train_error), constant_loss(dataset))
        if not dataset.is_classification:
            plot = residual_plot(outputs[Split.HELDOUT][:, 0], dataset.rows(Split.HELDOUT).targets)
            (path_dir / RESIDUALS).write_text(plot, encoding="utf-8")
    consumed = _consumed(records)
    findings, stderr = judge_stderr(artifact)
    actual = predictions.params if predictions else 0
    return Assessment(
        task=dataset.manifest.task,
        heldout_rows=dataset.manifest.splits[Split.HELDOUT].rows,
        scores=measured.scores,
        breakdown=measured.breakdown,
        predictions=measured.judgement,
        final_train_loss=_number(train_loss),
        final_eval_loss=_number(eval_loss),
        plausible_high=high,
        loss=loss,
        eval_train_gap=_number(None if train_loss is None or eval_loss is None else eval_loss - train_loss),
        tracks=tracks,
        planned_rows=planned_rows,
        consumed_rows=consumed,
        data=_judge_consumption(artifact, records, planned_rows),
        stderr_findings=findings,
        stderr=stderr,
        target_params=target_params,
        actual_params=actual,
        params=_judge_params(actual, target_params) if predictions else failure(broken),
        probes=_probes(artifact, dataset, records, predictions, broken, progress),
    )


def _predict(
    artifact: Artifact, dataset: Dataset, *, seed: int, time_limit_s: float
) -> tuple[Predictions | None, str]:
    """The outputs on every split and on a few rows in other batches, or why there are none."""
    import numpy as np
    import torch

    try:
        batches: dict[str, tuple[Array, int]] = {split: (dataset.rows(split).inputs, 256) for split in Split}
        heldout = dataset.rows(Split.HELDOUT).inputs
        few = heldout[np.random.default_rng(seed).permutation(len(heldout))[:64]]
        batches |= {
            "probe": (few, 64),
            "again": (few, 64),
            "alone": (few[:16], 1),
            "reversed": (few[::-1].copy(), 64),
        }
        found = predict(
            artifact.directory, batches, time_limit_s=time_limit_s, threads=torch.get_num_threads()
        )
    except Unusable as error:
        return None, f"not run: {error}"
    columns = dataset.num_classes or 1
    for name, outputs in found.outputs.items():
        if outputs.shape[1] != columns:
            return None, f"not run: the model gives {outputs.shape[1]} outputs per row, expected {columns}"
        if not np.isfinite(outputs).all():
            return None, f"not run: the outputs on {name} rows are not finite"
    return found, ""


def _constant_on_heldout(dataset: Dataset) -> float:
    """The loss on held-out rows of always giving the training shares, or the training mean."""
    import numpy as np

    train, heldout = dataset.rows(Split.TRAIN).targets, dataset.rows(Split.HELDOUT).targets
    if dataset.is_classification:
        counts = np.bincount(train, minlength=dataset.num_classes) + 0.5
        return float(-np.log(counts / counts.sum())[heldout].mean())
    return float(((heldout - train.astype(np.float64).mean()) ** 2).mean()) / dataset.target_scaling[1] ** 2


def _judge_loss(dataset: Dataset, measured: float, high: float) -> Judgement:
    criteria = [
        Criterion(False, f"{name} is not what the manifest recorded") for name in dataset.damaged_files()
    ]
    text = f"held-out loss measured {measured:.3f}, allowed [0, {high:.3f}) (above: a constant prediction)"
    return judgement([*criteria, Criterion(0 <= measured < high, text)])


def _judge_gap(gap: float, error: float, constant: float) -> Judgement:
    high, low = _LARGEST_GAP * constant + 3 * error, -_LARGEST_LEAD * constant - 4 * error
    text = f"held-out less train measured {gap:+.3f}, allowed [{low:.3f}, {high:.3f}]"
    return judgement([Criterion(low <= gap <= high, text)])


def _consumed(records: Records) -> int:
    rows = records.last.get("rows")
    return rows if isinstance(rows, int) and rows > 0 else 0


def _judge_consumption(artifact: Artifact, records: Records, planned_rows: int) -> Judgement:
    """Rows against the plan, the cursor, the steps; epochs for the reader."""
    consumed = _consumed(records)
    try:
        size = artifact.train_config.get("batch_size")
    except Unusable as error:
        return failure(str(error))
    batch = size if isinstance(size, int) else 0
    by_steps, skipped = records.step * batch, records.last.get("skipped", 0)
    most = by_steps + (skipped if isinstance(skipped, int) else 0) * batch
    share = consumed / planned_rows
    status = records.last.get("status")
    return judgement(
        [
            *(Criterion(False, problem) for problem in records.problems),
            Criterion(
                share >= _LEAST_SHARE,
                f"consumed {consumed:,} of {planned_rows:,} planned rows "
                f"= {share:.1%}, allowed ≥ {_LEAST_SHARE:.0%}",
            ),
            Criterion(
                consumed == records.cursor,
                f"last.json says {consumed:,} rows, the data cursor {records.cursor:,}",
            ),
            Criterion(
                consumed == most,
                f"{records.step:,} steps of {batch} rows make {most:,}, consumed {consumed:,}",
            ),
            Criterion(
                len(records.losses) == records.step,
                f"train.log has {len(records.losses):,} lines for {records.step:,} steps",
            ),
            Criterion(status in {"done", "stopped"}, f"last.json says {status!r}"),
        ]
    )


def _judge_params(actual: int, target: int | None) -> Judgement:
    if target is None:
        return judgement([Criterion(True, f"measured {actual:,}; no size was asked for")])
    drift = actual / target - 1
    text = f"measured {actual:,}, drift {drift:+.1%}, allowed ±{_LARGEST_DRIFT:.0%}"
    return judgement([Criterion(abs(drift) <= _LARGEST_DRIFT, text)])


def _probes(
    artifact: Artifact,
    dataset: Dataset,
    records: Records,
    predictions: Predictions | None,
    broken: str,
    progress: Callable[[str], None],
) -> tuple[ProbeResult, ...]:
    results = []
    total = len(DATA_PROBES) + len(CLAIM_PROBES)
    bench = None
    if predictions is not None:
        bench = Trained(artifact=artifact, dataset=dataset, records=records, predictions=predictions)
    holder = _Holder(dataset)
    for number, probe in enumerate(DATA_PROBES, start=1):
        progress(f"{number}/{total} {probe.name}")
        results.append(run_probe(probe, holder, describe=artifact.describe))
    for number, claim in enumerate(CLAIM_PROBES, start=len(DATA_PROBES) + 1):
        progress(f"{number}/{total} {claim.name}")
        if bench is not None:
            results.append(run_probe(claim, bench, describe=artifact.describe))
        else:
            results.append(
                ProbeResult(
                    name=claim.name,
                    measured="not run",
                    threshold=claim.threshold,
                    verdict=Verdict.FAIL,
                    component=_blamed(broken) if claim is CHECKPOINT_FITS else "",
                    detail=broken.removeprefix("not run: ") if claim is CHECKPOINT_FITS else broken,
                )
            )
    return tuple(results)


def _blamed(broken: str) -> str:
    """The tensor that a checkpoint's refusal names, and the checkpoint."""
    found = re.search(r"(?:missing|unexpected) tensor ([\w.]+)|([\w.]+) (?:has shape|holds)", broken)
    tensor = next((name for name in found.groups() if name), "") if found else ""
    return f"{tensor}, model.safetensors" if tensor else "model.safetensors"


class _Holder:
    """A bench of data alone."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
