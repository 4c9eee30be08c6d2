"""Fixtures of the judge's tests: one corpus and one trained path per session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ml_intern_cli.documents.verify import Verify
from tests import judged_path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are too small for more to help
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_path.write_corpus(tmp_path_factory.mktemp("run") / "data")


@pytest.fixture(scope="session")
def vocab_size(data: Path) -> int:
    return json.loads((data / "manifest.json").read_text())["tokenizer"]["vocab_size"]


@dataclass(frozen=True)
class Trained:
    """A path that was trained well, and what the judge says of it."""

    path: Path
    params: int
    verify: Verify


@pytest.fixture(scope="session")
def trained(data: Path, vocab_size: int, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    path = judged_path.write_path(root, vocab_size=vocab_size, hidden_size=64, num_layers=2)
    params = judged_path.train(path, data, steps=300)
    verdict = judged_path.judge(path, data, params=params, planned_tokens=300 * 1024)
    return Trained(path, params, verdict)
