"""Smoke of a classifier or regressor: data, untrained model, and train.py rehearsed on a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.supervised.dataset import Dataset
from ml_intern_cli.judge.supervised.probes import probes_before_training
from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


def smoke_rows(
    path_dir: Path, *, data_dir: Path, target_params: int | None, progress: Callable[[str], None]
) -> Smoke:
    """Runs all probes. A model that cannot be built fails them; it does not stop the judge.

    Args:
        path_dir: ``path-<id>/``.
        data_dir: ``data/`` of the same run.
        target_params: The size that was asked for, if one was.
        progress: Gets a line before each probe.

    Raises:
        InvalidInput: the manifest cannot be read, which no path is to blame for.
    """
    started = time.monotonic()
    artifact = Artifact(path_dir)
    bench = RehearsalBench(artifact, Dataset.open(data_dir), target_params=target_params)
    probes = probes_before_training(has_target=target_params is not None)
    results: list[ProbeResult] = []
    for number, probe in enumerate(probes, start=1):
        progress(f"{number}/{len(probes)} {probe.name}")
        results.append(run_probe(probe, bench, describe=artifact.describe))
    try:
        params = count_parameters(bench.model()) or None
    except Unusable:
        params = None
    return Smoke(
        path=artifact.path_id,
        params=params,
        params_target=target_params or params or 1,
        seconds=round(time.monotonic() - started, 2),
        probes=tuple(results),
    )
