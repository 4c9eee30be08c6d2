"""The verdicts on one path's train.py, as smoke lists them after those on the untrained model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probe import run_probe
from ml_intern_cli.judge.rehearsal import PROBES
from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
from ml_intern_cli.judge.rehearsal.starting import Launcher

TRAIN_PY = "train.py"


def rehearsed(
    artifact: Artifact,
    corpus: Corpus,
    *,
    num_parameters: int | None,
    scratch: Path | None,
    progress: Callable[[str], None],
) -> list[ProbeResult]:
    """Rehearse train.py and run every probe on what it did. Nothing where a path has no train.py.

    Args:
        artifact: The path.
        corpus: Its data.
        num_parameters: Of the model; None when it cannot be built, which fails every probe unrun.
        scratch: A folder with room for a few checkpoints, emptied afterwards; None: a temporary one.
        progress: Gets a line before each start and probe.
    """
    if not (artifact.directory / TRAIN_PY).is_file():
        return []
    scratch_folder = tempfile.TemporaryDirectory(dir=scratch, prefix="rehearsal-", ignore_cleanup_errors=True)
    with scratch_folder as folder, Launcher() as launcher:
        bench = RehearsalBench(
            artifact,
            corpus,
            scratch=Path(folder),
            num_parameters=num_parameters or 0,
            launcher=launcher,
            progress=lambda line: progress(f"0/{len(PROBES)} rehearsal, {line}"),
        )
        if num_parameters is None:
            bench.give_up(Unusable("the model cannot be built"))
        results = []
        for number, probe in enumerate(PROBES, start=1):
            progress(f"{number}/{len(PROBES)} {probe.name}")
            results.append(run_probe(probe, bench, describe=artifact.describe))
    return results
