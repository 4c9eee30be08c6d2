"""A rehearsal of train.py finds what is wrong with the loop and the data, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_intern_cli.judge.rehearsal import PROBES
from ml_intern_cli.judge.rehearsal.starting import Launcher
from tests import rehearsed_path


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One interpreter that every rehearsal of the session is forked from."""
    with Launcher() as launcher:
        yield launcher


def test_shipped_program_passes_every_probe(
    tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)

    results = rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher)

    assert rehearsed_path.failed(results) == {}
    assert list(results) == [probe.name for probe in PROBES]
