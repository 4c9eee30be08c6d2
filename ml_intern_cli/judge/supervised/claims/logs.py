"""Probes of what a training says of itself: every figure that it logged is recomputed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.bench import constant_loss
from ml_intern_cli.judge.supervised.chance import mean_and_error
from ml_intern_cli.judge.supervised.claims.trained import Trained
from ml_intern_cli.judge.supervised.schedule import learning_rate_at


def _metric(bench: Trained, split: Split) -> tuple[str, float]:
    """The name and the value of what people ask for."""
    import numpy as np

    outputs, targets = bench.predictions.outputs[split], bench.dataset.rows(split).targets
    if bench.dataset.is_classification:
        return "accuracy", float((outputs.argmax(1) == targets).mean())
    return "rmse", float(np.sqrt(((outputs[:, 0] - targets) ** 2).mean()))


def _val_claim(bench: Trained) -> Measurement:
    rows = len(bench.dataset.rows(Split.VAL))
    loss = float(bench.losses(Split.VAL, smoothed=True).mean())
    name, score = _metric(bench, Split.VAL)
    step = bench.records.best_step
    claims = [("best.json", bench.records.best)]
    claims += [
        ("metrics.jsonl", row)
        for row in bench.records.metrics
        if row.get("step") == step and "eval_loss" in row
    ]
    loss_slack = 1e-3 * max(0.1, abs(loss))
    score_slack = 1.01 / rows if name == "accuracy" else 1e-3 * score
    problems, component = [], ""
    for file, claim in claims:
        for key, value, slack in (("eval_loss", loss, loss_slack), (name, score, score_slack)):
            said = claim.get(key)
            if not isinstance(said, int | float):
                found = f"{file} has no {key} for step {step}"
            elif abs(said - value) > slack or not math.isfinite(said):
                found = f"{file} claims {key} {said:.4g}, recomputed {value:.4g}"
            else:
                continue
            problems.append(found)
            component = component or file
    for row in bench.records.metrics:
        if "eval_loss" in row and row.get("eval_rows") != rows:
            problems.append(
                f"an evaluation of step {row.get('step')} is on {row.get('eval_rows')} rows of {rows}"
            )
            component = component or "metrics.jsonl"
            break
    if len(claims) < 2:
        problems.append(f"metrics.jsonl has no evaluation of step {step}")
        component = component or "metrics.jsonl"
    return Measurement(
        passed=not problems,
        measured=f"eval_loss {loss:.4g}, {name} {score:.4g} on all {rows:,} rows of val",
        allowed=f"claims within {loss_slack:.1g} and {score_slack:.1g}, on all rows",
        component=component,
        detail="; ".join(problems[:4]),
    )


VAL_CLAIM = Probe(
    name="val-claim",
    category=Category.REPORTING,
    meaning="the eval loss and the metric that are claimed for the checkpoint are those of all of val",
    threshold="loss and rmse within 1e-3 of their value, accuracy within one row",
    threshold_source="measured: sound claims agree to 2e-7; one row may change sides by rounding",
    usual_causes=(
        "a metric on a subset",
        "dropout or batch statistics active in evaluation",
        "a number made up",
        "a checkpoint of another step",
    ),
    run=_val_claim,
)


def _train_claim(bench: Trained) -> Measurement:
    import numpy as np

    step = bench.records.best_step
    logged = np.array([loss for at, loss in bench.records.losses if at <= step])
    if not len(logged):
        raise Unusable("train.log has no loss for the checkpoint")
    if not np.isfinite(logged).all():
        return Measurement(
            passed=False, measured="losses that are not finite", allowed="numbers", component="train.log"
        )
    recent = logged[-min(20, max(1, len(logged) // 10)) :]
    rows = bench.losses(Split.TRAIN, smoothed=True)
    batch = max(1.0, bench.setting("batch_size", 1))
    mean, _ = mean_and_error(rows)
    noise = float(rows.std()) / math.sqrt(batch * len(recent))
    constant = constant_loss(bench.dataset)
    low = mean - 4 * noise - 0.1 * constant
    # Logged losses are of slightly earlier weights, with dropout and batch statistics where there are any.
    high = mean + 4 * noise + 0.5 * constant + (0.5 * constant if bench.artifact.config.get("dropout") else 0)
    end = float(recent.mean())
    problem = ""
    if not low <= end <= high:
        problem = f"the log ends at {end:.3g}, the checkpoint has {mean:.3g} on the training rows"
    half = logged[len(logged) // 2 :]
    expected = float(rows.std()) / math.sqrt(batch) * math.sqrt(max(0.0, 1 - batch / len(rows)))
    wiggle = math.nan
    if len(half) >= 20 and expected > 1e-3:
        wiggle = float(np.median(np.abs(np.diff(half)))) / (0.95 * expected)
        if not problem and wiggle < 0.1:
            problem = "the logged losses are smoother than batches of this size can be"
        if not problem and len(np.unique(half)) < 0.5 * len(half):
            problem = "logged losses repeat each other"
    return Measurement(
        passed=not problem,
        measured=f"log {end:.3g}, recomputed {mean:.3g}; noise {wiggle:.2g} of a batch's",
        allowed=f"[{low:.3g}, {high:.3g}]; noise ≥ 0.1",
        component="train.log" if problem else "",
        detail=problem,
    )


TRAIN_CLAIM = Probe(
    name="train-claim-rows",
    category=Category.REPORTING,
    meaning="the logged training losses end where the checkpoint is, with the noise of real batches",
    threshold=(
        "within 4 standard errors and a tenth (below) or half (above) of a constant's loss; noise ≥ 0.1"
    ),
    threshold_source=(
        "measured: a noise of 0.7 to 4.2 in twelve sound trainings, 0.05 to 1.9 in running means of their "
        "losses: where losses end near zero, log-replayed has to tell"
    ),
    usual_causes=(
        "losses made up or smoothed",
        "the loss of something else logged",
        "the sum of a batch logged as its mean",
    ),
    run=_train_claim,
)


_REPLAYED = 12  # steps


def _log_replayed(bench: Trained) -> Measurement:
    from ml_intern_cli.judge.supervised.rehearsal.rehearse import replay

    again = replay(bench.artifact, bench.dataset, num_steps=_REPLAYED)
    logged = dict(bench.records.losses)
    common = [step for step in sorted(again) if step in logged and step <= _REPLAYED]
    # Other numbers of threads add up in another order; that grows, slowly at first.
    away = {step: abs(again[step] - logged[step]) / max(abs(again[step]), 0.01) for step in common}
    wrong = [step for step in common if not away[step] <= 0.02]
    return Measurement(
        passed=bool(common) and not wrong,
        measured=f"{len(common) - len(wrong)} of the first {len(common)} steps have the logged loss",
        allowed="all, within 2 %",
        component="train.log" if wrong or not common else "",
        detail=f"step {wrong[0]}: logged {logged[wrong[0]]:.4f}, made once more {again[wrong[0]]:.4f}"
        if wrong
        else "",
    )


LOG_REPLAYED = Probe(
    name="log-replayed",
    category=Category.REPORTING,
    meaning="the first steps, made once more by the judge, have the losses that train.log says",
    threshold="the first 12 steps within 2 %",
    threshold_source=(
        "measured: the same digits on the same machine, with one thread and two; the rest is room for other "
        "hardware, where it is not measured"
    ),
    usual_causes=("losses made up, smoothed or sorted", "a log of another seed or another train.py"),
    run=_log_replayed,
)


def _row_records(bench: Trained) -> Measurement:
    records, config = bench.records, bench.artifact.train_config
    problems = list(records.problems)
    steps = [step for step, _ in records.losses]
    if steps != list(range(1, records.step + 1)):
        problems.append(f"train.log's lines are not steps 1 to {records.step:,} in order")
    metrics = {
        row["step"]: row for row in records.metrics if "loss" in row and isinstance(row.get("step"), int)
    }
    if sorted(metrics) != list(range(1, records.step + 1)):
        problems.append(f"metrics.jsonl does not have a row for each of {records.step:,} steps")
    scale = 1.0
    differ = {"loss": 0, "learning_rate": 0, "grad_norm": 0}
    for step, loss in records.losses:
        row: dict[str, Any] = metrics.get(step, {})
        differ["loss"] += not _close(row.get("loss"), loss, 6e-5 + 1e-4 * abs(loss))
        norm = row.get("grad_norm")
        differ["grad_norm"] += not (isinstance(norm, int | float) and math.isfinite(norm) and norm > 0)
        planned = learning_rate_at(step - 1, config)
        rate = row.get("learning_rate")
        if isinstance(rate, int | float) and planned > 0:
            ratio = rate / planned
            if not math.isclose(ratio, scale, rel_tol=1e-4):
                halved = math.log2(scale / ratio) if ratio > 0 else math.nan
                if (
                    bench.records.last.get("skipped")
                    and halved > 0
                    and math.isclose(halved, round(halved), abs_tol=1e-3)
                ):
                    scale = ratio  # a skipped update halves it
                else:
                    differ["learning_rate"] += 1
        elif planned > 0:
            differ["learning_rate"] += 1
    problems += [f"{key} of {count} steps is not what it should be" for key, count in differ.items() if count]
    return Measurement(
        passed=not problems,
        measured=f"{len(steps):,} lines, {len(metrics):,} rows; {sum(differ.values())} differences",
        allowed="one line and one row per step, equal losses, the planned learning rates",
        component=_file_of(problems[0]) if problems else "",
        detail="; ".join(problems[:4]),
    )


def _close(value: Any, other: float, slack: float) -> bool:
    return isinstance(value, int | float) and abs(value - other) <= slack


def _file_of(problem: str) -> str:
    return next((name for name in ("train.log", "ckpts/last.json") if name in problem), "metrics.jsonl")


ROW_RECORDS = Probe(
    name="row-records",
    category=Category.REPORTING,
    meaning="train.log and metrics.jsonl agree step by step, and follow the schedule of train_config.json",
    threshold="losses equal to the printed digits, rates to 1e-4",
    threshold_source="exact; a skipped update may halve the rate",
    usual_causes=("a log edited afterwards", "a schedule that is not stepped", "rows of another run"),
    run=_row_records,
)


def _best_step(bench: Trained) -> Measurement:
    evaluations = [
        row
        for row in bench.records.metrics
        if isinstance(row.get("eval_loss"), int | float) and isinstance(row.get("step"), int)
    ]
    if not evaluations:
        raise Unusable("metrics.jsonl has no evaluation")
    best = min(evaluations, key=lambda row: row["eval_loss"])
    named, last = bench.records.best_step, bench.records.step
    problem = ""
    if named > last:
        problem = f"best.json names step {named}, training ended at {last}"
    elif not any(row["step"] == named and row["eval_loss"] <= best["eval_loss"] for row in evaluations):
        problem = f"best.json names step {named}, the lowest eval loss is that of step {best['step']}"
    elif f"step-{named:08d}" != Path(str(bench.records.best.get("dir"))).name:
        problem = f"best.json names step {named} and the directory {bench.records.best.get('dir')}"
    return Measurement(
        passed=not problem,
        measured=f"step {named}",
        allowed=f"the lowest of {len(evaluations)} evaluations",
        component="ckpts/best.json" if problem else "",
        detail=problem,
    )


BEST_STEP = Probe(
    name="best-step",
    category=Category.REPORTING,
    meaning="the checkpoint that counts is the one with the lowest logged eval loss",
    threshold="equal steps",
    threshold_source="exact",
    usual_causes=("best taken where the metric is highest or first", "a pointer written by hand"),
    run=_best_step,
)
