"""The judge of classifiers and regressors: labelled rows instead of text, the same two verdicts.

``dataset`` rows as the judge reads them · ``bench`` and the probes of an untrained model · ``rehearsal``
train.py on a copy · ``host`` the trained model in a process of its own, which never sees a label ·
``baselines`` and ``chance`` what the figures are compared with · ``smoke`` and ``verify`` the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_intern_cli.documents.assessment import Assessment
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.supervised.dataset import is_supervised

__all__ = ["is_supervised", "judge"]


def judge(
    path_dir: Path,
    *,
    data_dir: Path,
    target_params: int | None,
    planned_rows: int | None,
    seed: int,
    progress: Callable[[str], None],
) -> Smoke | Assessment:
    """Smoke; verify where ``planned_rows`` says what was to be trained on. Raises InvalidInput."""
    import torch

    from ml_intern_cli.judge.supervised.process import smoke_apart
    from ml_intern_cli.judge.supervised.verify import verify_rows

    data_dir = data_dir.resolve()
    if planned_rows is None:
        return smoke_apart(
            path_dir, data_dir=data_dir, target_params=target_params, threads=torch.get_num_threads()
        )
    return verify_rows(
        path_dir,
        data_dir=data_dir,
        planned_rows=planned_rows,
        target_params=target_params,
        seed=seed,
        progress=progress,
    )
