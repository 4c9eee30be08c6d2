"""Held-out predictions: scores beside two baselines, the confusion matrix or the residuals, a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.documents.assessment import Score
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.verify import Judgement
from ml_intern_cli.judge.checks.criterion import Criterion, judgement
from ml_intern_cli.judge.supervised.baselines import fit_centroids, fit_logistic, fit_ridge
from ml_intern_cli.judge.supervised.chance import mean_and_error

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Dataset, Floats

_SIGMAS = 2.0
"""Standard errors by which a model has to beat a constant; nominally one in 44 worthless models does."""
_LEAST_SKILL = 0.15
"""Of what the simple model gains over a constant. Twelve sound trainings reached 0.99 to 1.15: weak
and honest is a remark, next to nothing is a failure."""
_BIAS = 0.2  # standard deviations of the target
_WIDEST_MATRIX = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """The first section of VERIFY.md."""

    scores: tuple[Score, ...]
    breakdown: str
    judgement: Judgement


def judge_predictions(dataset: Dataset, outputs: dict[Split, Floats]) -> Measured:
    """From outputs ``(N, C)`` or ``(N, 1)`` per split. Raises Unusable when the rows cannot be read."""
    return _classes(dataset, outputs) if dataset.is_classification else _values(dataset, outputs)


def _classes(dataset: Dataset, outputs: dict[Split, Floats]) -> Measured:
    import numpy as np

    train, heldout = dataset.rows(Split.TRAIN).targets, dataset.rows(Split.HELDOUT).targets
    num_classes = dataset.num_classes
    predicted = outputs[Split.HELDOUT].argmax(1)
    majority = np.full(len(heldout), np.bincount(train, minlength=num_classes).argmax())
    simple = _simple_classes(dataset)
    guesses = (predicted, majority, simple)
    accuracies = [float((guess == heldout).mean()) for guess in guesses]
    scores = (
        _score("accuracy", accuracies),
        _score("balanced_accuracy", [_recalls(heldout, guess, num_classes)[0] for guess in guesses]),
        _score("macro_f1", [_macro_f1(heldout, guess, num_classes) for guess in guesses]),
    )
    present = np.bincount(train, minlength=num_classes) > 0
    everywhere = np.bincount(
        np.concatenate([one.argmax(1) for one in outputs.values()]), minlength=num_classes
    )
    never = [(dataset.manifest.classes or ())[one] for one in np.flatnonzero(present & (everywhere == 0))]
    balanced, error = _recalls(heldout, predicted, num_classes)
    correct, constant, linear = ((guess == heldout).astype(np.float64) for guess in guesses)
    ahead, ahead_error = mean_and_error(correct - constant)
    in_classes = int((np.bincount(heldout, minlength=num_classes) > 0).sum())
    beats = ahead > _SIGMAS * ahead_error or balanced - 1 / in_classes > _SIGMAS * error
    criteria = [
        Criterion(
            beats,
            f"accuracy measured {accuracies[0]:.3f} on {len(heldout):,} "
            f"rows, allowed above the majority class "
            f"({accuracies[1]:.3f}) by {_SIGMAS:g} standard errors "
            f"({_SIGMAS * ahead_error:.3f}), or as much in "
            f"balanced accuracy ({balanced:.3f})",
        ),
        _skill("accuracy", accuracies, correct, constant, linear),
        Criterion(not never, f"never predicted: {', '.join(never)}" if never else "every class is predicted"),
    ]
    return Measured(scores, _confusion(dataset, heldout, predicted), judgement(criteria))


def _simple_classes(dataset: Dataset) -> Array:
    """The better one on val of logistic regression and nearest centroid, on the held-out rows."""
    train, val = dataset.rows(Split.TRAIN).targets, dataset.rows(Split.VAL).targets
    features = {split: dataset.features(split) for split in Split}
    models = [fit(features[Split.TRAIN], train, dataset.num_classes) for fit in (fit_logistic, fit_centroids)]
    best = max(models, key=lambda model: float((model(features[Split.VAL]).argmax(1) == val).mean()))
    chosen: Array = best(features[Split.HELDOUT]).argmax(1)
    return chosen


def _skill(measure: str, values: list[float], model: Floats, constant: Floats, simple: Floats) -> Criterion:
    """The model's gain over a constant, as a share of the simple model's; rows are paired."""
    gain, gain_error = mean_and_error(simple - constant)
    if gain <= _SIGMAS * gain_error:
        return Criterion(True, f"the simple model ({values[2]:.3g}) does not beat a constant either")
    short, error = mean_and_error(model - constant - _LEAST_SKILL * (simple - constant))
    behind, behind_error = mean_and_error(simple - model)
    remark = "; weaker than the simple model" if behind > _SIGMAS * behind_error else ""
    return Criterion(
        short > -_SIGMAS * error,
        f"{measure} {values[0]:.3g}, simple model {values[2]:.3g}, allowed ≥ {_LEAST_SKILL:.0%} of its gain "
        f"less {_SIGMAS:g} standard errors{remark}",
    )


def _recalls(true: Array, predicted: Array, num_classes: int) -> tuple[float, float]:
    """Mean recall over the classes that are there, and its standard error."""
    import numpy as np

    recalls, variances = [], []
    for label in range(num_classes):
        hits = predicted[true == label] == label
        if len(hits):
            recalls.append(float(hits.mean()))
            smoothed = (hits.sum() + 1) / (len(hits) + 2)
            variances.append(smoothed * (1 - smoothed) / len(hits))
    return float(np.mean(recalls)), float(np.sqrt(np.sum(variances)) / len(variances))


def _macro_f1(true: Array, predicted: Array, num_classes: int) -> float:
    values = []
    for label in range(num_classes):
        hits = int(((predicted == label) & (true == label)).sum())
        total = int((predicted == label).sum() + (true == label).sum())
        if (true == label).any():
            values.append(2 * hits / total)
    return sum(values) / len(values)


def confusion_matrix(true: Array, predicted: Array, num_classes: int) -> Array:
    """Rows by true class, columns by predicted class."""
    import numpy as np

    matrix: Array = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def _confusion(dataset: Dataset, true: Array, predicted: Array) -> str:
    """The matrix as text, with recall and precision; past 20 classes only those two."""
    names = [name[:12] for name in dataset.manifest.classes or ()]
    matrix = confusion_matrix(true, predicted, len(names))
    wide = len(names) <= _WIDEST_MATRIX
    width = max(9, *(len(name) + 1 for name in names))
    header = ["true \\ predicted", *(names if wide else []), "rows", "recall", "precision"]
    lines = ["".join(cell.rjust(width if index else 16) for index, cell in enumerate(header))]
    for index, name in enumerate(names):
        rows, column = int(matrix[index].sum()), int(matrix[:, index].sum())
        hits = int(matrix[index, index])
        cells = [str(int(one)) for one in matrix[index]] if wide else []
        cells += [str(rows), f"{hits / rows:.3f}" if rows else "-", f"{hits / column:.3f}" if column else "-"]
        lines.append(name.rjust(16) + "".join(cell.rjust(width) for cell in cells))
    return "\n".join(lines)


def _values(dataset: Dataset, outputs: dict[Split, Floats]) -> Measured:
    import numpy as np

    train = dataset.rows(Split.TRAIN).targets.astype(np.float64)
    heldout = dataset.rows(Split.HELDOUT).targets.astype(np.float64)
    predicted = outputs[Split.HELDOUT][:, 0]
    constant = np.full(len(heldout), train.mean())
    simple = fit_ridge(dataset.features(Split.TRAIN), train)(dataset.features(Split.HELDOUT))[:, 0]
    guesses = (predicted, constant, simple)
    squares = [(guess - heldout) ** 2 for guess in guesses]
    roots = [float(np.sqrt(square.mean())) for square in squares]
    spread = float(heldout.var()) or 1.0
    scores = (
        _score("rmse", roots),
        _score("mae", [float(np.abs(guess - heldout).mean()) for guess in guesses]),
        _score("r2", [1 - float(square.mean()) / spread for square in squares]),
    )
    ahead, error = mean_and_error(squares[1] - squares[0])
    bias, bias_error = mean_and_error(predicted - heldout)
    biased = abs(bias) > 4 * bias_error and abs(bias) > _BIAS * float(train.std())
    criteria = [
        Criterion(
            ahead > _SIGMAS * error,
            f"rmse measured {roots[0]:.4g} on {len(heldout):,} rows, allowed below the mean predictor "
            f"({roots[1]:.4g}) by {_SIGMAS:g} standard errors",
        ),
        _skill("rmse", roots, -squares[0], -squares[1], -squares[2]),
        Criterion(
            not biased,
            f"mean residual {bias:+.3g}, allowed ±{_BIAS * float(train.std()):.3g} "
            f"({_BIAS:g} standard deviations)",
        ),
    ]
    return Measured(scores, _residuals(predicted, heldout), judgement(criteria))


def _residuals(predicted: Floats, true: Floats) -> str:
    """Where the errors lie: quantiles, and the mean by thirds of the prediction."""
    import numpy as np

    residuals = predicted - true
    quantiles = np.quantile(residuals, [0.05, 0.25, 0.5, 0.75, 0.95])
    order = np.argsort(predicted, kind="stable")
    thirds = [float(residuals[part].mean()) for part in np.array_split(order, 3) if len(part)]
    worst = int(np.abs(residuals).argmax())
    return "\n".join(
        [
            "residual = predicted - true",
            f"mean {residuals.mean():+.4g}, standard deviation {residuals.std():.4g}",
            "quantiles 5, 25, 50, 75, 95 %: " + ", ".join(f"{value:+.4g}" for value in quantiles),
            "mean by thirds of the prediction, low to high: "
            + ", ".join(f"{value:+.4g}" for value in thirds),
            f"largest: row {worst}, predicted {predicted[worst]:.4g}, true {true[worst]:.4g}",
        ]
    )


def residual_plot(predicted: Floats, true: Floats) -> str:
    """Residuals over predictions as SVG, 480 by 320, at most 2,000 points."""
    import numpy as np

    width, height, margin = 480, 320, 48
    chosen = np.linspace(0, len(true) - 1, min(len(true), 2000)).astype(int)
    x, y = predicted[chosen], (predicted - true)[chosen]
    x_low, x_high = float(x.min()), float(x.max())
    reach = float(np.abs(y).max()) or 1.0

    def across(value: float) -> float:
        return margin + (value - x_low) / ((x_high - x_low) or 1.0) * (width - 2 * margin)

    def up(value: float) -> float:
        return height / 2 - value / reach * (height / 2 - margin)

    points = "".join(
        f'<circle cx="{across(a):.1f}" cy="{up(b):.1f}" r="2"/>'
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    labels = "".join(
        f'<text x="{left:.0f}" y="{top:.0f}" text-anchor="{anchor}">{text}</text>'
        for left, top, anchor, text in (
            (margin, height - margin / 2, "start", f"{x_low:.4g}"),
            (width - margin, height - margin / 2, "end", f"{x_high:.4g}"),
            (width / 2, height - margin / 2, "middle", "predicted"),
            (margin - 4, up(reach) + 4, "end", f"{reach:.3g}"),
            (margin - 4, up(-reach) + 4, "end", f"{-reach:.3g}"),
            (width / 2, margin / 2, "middle", "residual (predicted - true) on held-out rows"),
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/><line x1="{margin}" y1="{up(0):.1f}" '
        f'x2="{width - margin}" y2="{up(0):.1f}" stroke="gray"/>'
        f'<g fill="steelblue" fill-opacity="0.6">{points}</g>'
        f"{labels}</svg>\n"
    )


def _score(measure: str, values: list[float]) -> Score:
    model, constant, simple = values
    return Score(measure=measure, model=model, constant=constant, simple=simple)
