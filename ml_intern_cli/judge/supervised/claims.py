"""Probes of what a training says of itself, and of the model it left: each claim is recomputed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.chance import mean_and_error, normal_tail
from ml_intern_cli.judge.supervised.predictions import confusion_matrix
from ml_intern_cli.judge.supervised.schedule import learning_rate_at

if TYPE_CHECKING:
    from ml_intern_cli.judge.records import Records
    from ml_intern_cli.judge.supervised.dataset import Array, Dataset, Floats
    from ml_intern_cli.judge.supervised.host import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What these probes work on: claims, data, and outputs from the process of the model."""

    artifact: Artifact
    dataset: Dataset
    records: Records
    predictions: Predictions

    def setting(self, name: str, default: float) -> float:
        """A number of train_config.json."""
        value = self.artifact.train_config.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def losses(self, split: Split, *, smoothed: bool) -> Floats:
        """The loss per row; ``smoothed``: with the label smoothing of training."""
        smoothing = self.setting("label_smoothing", 0.0) if smoothed else 0.0
        return row_losses(self.dataset, self.predictions.outputs[split], split, smoothing)


def row_losses(dataset: Dataset, outputs: Floats, split: Split, smoothing: float = 0.0) -> Floats:
    """Cross-entropy in nats, or squared error of scaled targets, per row ``(N,)``."""
    import numpy as np

    targets = dataset.rows(split).targets
    if not dataset.is_classification:
        squared: Floats = ((outputs[:, 0] - targets) / dataset.target_scaling[1]) ** 2
        return squared
    shifted = outputs - outputs.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    own = logs[np.arange(len(targets)), targets]
    losses: Floats = -((1 - smoothing) * own + smoothing * logs.mean(1))
    return losses


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
    constant = bench_constant(bench.dataset)
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


def bench_constant(dataset: Dataset) -> float:
    """What a constant costs on the training rows."""
    from ml_intern_cli.judge.supervised.bench import constant_loss

    return constant_loss(dataset)


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

CLAIM_PROBES: tuple[Probe[Trained], ...] = (
    CHECKPOINT_FITS,
    VAL_CLAIM,
    TRAIN_CLAIM,
    LOG_REPLAYED,
    ROW_RECORDS,
    BEST_STEP,
    CHECKPOINT_KIN,
    TRAINED_ROWS_APART,
    CLASS_ORDER,
    UNSEEN_SPLITS,
    SIGNAL,
)
