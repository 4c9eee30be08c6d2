"""What a model has to beat, fitted by the judge on the training split: a constant, and a simple model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.dataset import Array, Floats

_RIDGE = 1.0  # penalty on weights of scaled features
_NEWTON_STEPS = 80
_MOST_FEATURES = 2_000


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weights + bias``: class scores ``(N, C)``, or values ``(N, 1)``."""

    weights: Floats
    bias: Floats
    columns: Array

    def __call__(self, features: Floats) -> Floats:
        """Scores of rows ``(N, F)``."""
        scores: Floats = features[:, self.columns] @ self.weights + self.bias
        return scores


def fit_ridge(features: Floats, targets: Floats) -> Linear:
    """Ridge regression, the bias not penalised."""
    import numpy as np

    columns = _columns(features)
    x = features[:, columns]
    center, mean = x.mean(0), targets.mean()
    gram = (x - center).T @ (x - center) + _RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - center).T @ (targets - mean))[:, None]
    return Linear(weights, np.array([mean - center @ weights[:, 0]]), columns)


def fit_logistic(features: Floats, labels: Array, num_classes: int) -> Linear:
    """Multinomial logistic regression with a ridge penalty, by L-BFGS."""
    import numpy as np
    import torch

    columns = _columns(features)
    x = torch.from_numpy(np.ascontiguousarray(features[:, columns]))
    y = torch.from_numpy(np.ascontiguousarray(labels))
    weights = torch.zeros(x.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=_NEWTON_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weights + bias, y)
        loss = loss + _RIDGE / 2 * weights.square().sum() / len(x)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Linear(weights.detach().numpy(), bias.detach().numpy(), columns)


def fit_centroids(features: Floats, labels: Array, num_classes: int) -> Linear:
    """Nearest class mean, as scores; a class without rows is never chosen."""
    import numpy as np

    columns = _columns(features)
    x = features[:, columns]
    centers = np.stack(
        [x[labels == label].mean(0) if (labels == label).any() else x.mean(0) for label in range(num_classes)]
    )
    absent = np.array([not (labels == label).any() for label in range(num_classes)])
    return Linear(2 * centers.T, -(centers**2).sum(1) - np.where(absent, 1e12, 0), columns)


def out_of_fold(features: Floats, targets: Array, num_classes: int, *, folds: int = 3) -> Floats:
    """Simple model's error per row, each row predicted by a model that did not see it: 0/1, or squared."""
    import numpy as np

    order = np.random.default_rng(0).permutation(len(targets))
    errors = np.zeros(len(targets))
    for fold in range(folds):
        test = order[fold::folds]
        train = np.setdiff1d(order, test)
        if num_classes:
            model = fit_logistic(features[train], targets[train], num_classes)
            errors[test] = model(features[test]).argmax(1) != targets[test]
        else:
            model = fit_ridge(features[train], targets[train].astype(np.float64))
            errors[test] = (model(features[test])[:, 0] - targets[test]) ** 2
    return errors


def _columns(features: Floats) -> Array:
    """The columns that vary, at most a few thousand of them, those that vary most."""
    import numpy as np

    spread = features.std(0)
    varying = np.flatnonzero(spread > 0)
    return np.sort(varying[np.argsort(-spread[varying], kind="stable")[:_MOST_FEATURES]])
