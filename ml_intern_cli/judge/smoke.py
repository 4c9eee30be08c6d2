"""Smoke: every probe on one path, before a second of training is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.probes import PROBES
from ml_intern_cli.judge.probes.bench import Bench
from ml_intern_cli.judge.rehearsal.verdicts import rehearsed


def smoke(
    path_dir: Path,
    *,
    data_dir: Path,
    target_params: int,
    progress: Callable[[str], None],
    scratch: Path | None = None,
) -> Smoke:
    """Runs all probes. A model that cannot be built fails them; it does not stop the judge.

    Args:
        path_dir: ``path-<id>/``.
        data_dir: ``data/`` of the same run.
        target_params: The size that was asked for.
        progress: Gets a line before each probe, ``4/13 causality``.
        scratch: Where train.py is rehearsed; None: a temporary folder.

    Raises:
        InvalidInput: the data cannot be read, which no path is to blame for.
    """
    started = time.monotonic()
    artifact = Artifact(path_dir)
    bench = Bench(artifact, Corpus.open(data_dir), target_params=target_params)
    results = []
    for number, probe in enumerate(PROBES, start=1):
        progress(f"{number}/{len(PROBES)} {probe.name}")
        results.append(run_probe(probe, bench, describe=artifact.describe))
    results += rehearsed(
        artifact, bench.corpus, num_parameters=_params(bench), scratch=scratch, progress=progress
    )
    return Smoke(
        path=artifact.path_id,
        params=_params(bench),
        params_target=target_params,
        seconds=round(time.monotonic() - started, 2),
        probes=tuple(results),
    )


def _params(bench: Bench) -> int | None:
    try:
        return count_parameters(bench.model()) or None
    except Unusable:
        return None
