"""Sound classifiers and regressors pass; each planted defect fails the probe that is there for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_intern_cli.documents import assessment
from ml_intern_cli.documents.assessment import Assessment
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.judge.artifact import Artifact
from ml_intern_cli.judge.supervised.dataset import Dataset
from ml_intern_cli.judge.supervised.rehearsal.bench import Reading, RehearsalBench
from ml_intern_cli.judge.supervised.rehearsal.replicas import RANKS_APART
from tests import supervised_path
from tests.supervised_path import smoke, table, verify, write_data, write_path

KINDS = {"classification": "RowNet", "regression": "RowNet", "tokens": "TokenNet"}


def new_path(root: Path, kind: str = "classification", *edits: tuple[str, str], **options) -> Path:
    write_data(root / "data", *table(kind))
    settings = options.pop("settings", {})
    if kind == "regression":
        settings = {"task": "regression", "learning_rate": 2e-3} | settings
        options.setdefault("outputs", 1)
    return write_path(root, *edits, model=KINDS[kind], settings=settings, **options)


def failed(result: Smoke | Assessment) -> dict[str, str]:
    return {probe.name: probe.finding for probe in result.probes if probe.failed}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory) -> Path:
    """The root of a run that was trained, one per kind."""
    root = tmp_path_factory.mktemp(request.param)
    supervised_path.train(new_path(root, request.param))
    return root


def test_sound_path_passes_smoke(trained: Path) -> None:
    result = smoke(trained / "path-a")

    assert result.passed, failed(result)


def test_sound_training_passes_verify_and_its_document_reads_back(trained: Path) -> None:
    result = verify(trained / "path-a")

    assert result.passed, result.failures
    assert assessment.parse(assessment.render(result), source="VERIFY.md") == result
    assert next(iter(result.judgements)) == "Held-out predictions"
    assert (trained / "path-a" / "residuals.svg").exists() == (result.task == "regression")


def test_command_dispatches_on_the_task_of_the_manifest(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "smoke.json"
    command = [sys.executable, "-m", "ml_intern_cli.judge", "smoke", "--path", str(trained / "path-a")]
    command += ["--data", str(trained / "data"), "--num-threads", "1", "--out", str(out)]

    subprocess.run(command, check=True, capture_output=True)

    assert Smoke.model_validate_json(out.read_bytes()).passed


def in_turns(root: Path, streams: list[np.ndarray], batch: int) -> RehearsalBench:
    """Two processes that take every second row of each batch, of one stream of rows or of one each."""
    bench = RehearsalBench(Artifact(root / "path-a"), Dataset.open(root / "data"))
    nothing = torch.zeros(0)
    bench.readings = [
        [
            Reading(
                step=step + 1,
                rows=stream[step * batch : (step + 1) * batch][rank::2].tolist(),
                outputs=nothing,
                own_targets=nothing,
                used_targets=nothing,
                factor="mean",
                residual=0.0,
            )
            for step in range(len(stream) // batch)
        ]
        for rank, stream in enumerate(streams)
    ]
    return bench


def test_rows_that_two_epochs_share_within_a_step_go_to_two_processes_soundly(tmp_path: Path) -> None:
    """A small training split ends within a step, whose last rows may be its first ones again."""
    new_path(tmp_path)
    num_rows = Dataset.open(tmp_path / "data").manifest.splits[Split.TRAIN].rows
    epoch, batch = np.random.default_rng(0).permutation(num_rows), 2 * (num_rows // 7)
    twice = np.concatenate([epoch, epoch[::-1]])
    others = np.random.default_rng(1).permutation(num_rows)

    sound = RANKS_APART.run(in_turns(tmp_path, [twice, twice], batch))
    apart = RANKS_APART.run(in_turns(tmp_path, [twice, np.concatenate([others, others])], batch))

    assert sound.passed, sound.measured
    assert not apart.passed, apart.measured
