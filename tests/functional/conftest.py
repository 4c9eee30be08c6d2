"""Real runs, made once and copied by every test that looks at or spoils them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.small_runs import GOOD_SENTENCE, QUICK, SENTENCE, SLUG, copy_run, ml_intern


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all workers of this test run, and for no other."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-runs"


@pytest.fixture(scope="session")
def short_run(shared_dir: Path) -> Path:
    """A run of 12 steps: trained, honestly found wanting by verification, diagnosed, reported."""
    runs_dir = shared_dir / "short"
    with once(runs_dir) as is_new:
        if is_new:
            answer = ml_intern("run", f"{SENTENCE} for 12 steps", *QUICK, "--slug", SLUG, runs_dir=runs_dir)
            assert answer.code == 4, answer.err
    return runs_dir / SLUG


@pytest.fixture(scope="session")
def good_run(shared_dir: Path) -> Path:
    """The main job at its smallest: trained long enough to pass, published to a folder."""
    runs_dir = shared_dir / "good"
    arguments = ("--max-paths", "1", "--publish", "folder", "--time-budget", "10m", "--slug", SLUG)
    with once(runs_dir) as is_new:
        if is_new:
            answer = ml_intern("run", GOOD_SENTENCE, *arguments, runs_dir=runs_dir)
            assert answer.code == 0, answer.err
    return runs_dir / SLUG


@pytest.fixture
def untrained(short_run: Path, runs_dir: Path) -> Path:
    """A smoked run whose training starts anew, long enough to be interrupted: 12 steps, slowed down."""
    run = copy_run(short_run, runs_dir)
    for name in ("ckpts", "train.log", "metrics.jsonl", "VERIFY.md", "POSTMORTEM.md", "train.stderr"):
        path = run / "path-a" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in ("RESULTS.md",):
        (run / name).unlink(missing_ok=True)
    for receipt in ("train.a", "verify.a", "diagnose.a", "report"):
        (run / ".receipts" / f"{receipt}.json").unlink(missing_ok=True)
    return run


class once:  # noqa: N801, reads as a phrase
    """Whether this process is the first to get here; the others wait for it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder.with_suffix(".lock"))
        self._done = folder.with_suffix(".done")

    def __enter__(self) -> bool:
        self._lock.acquire()
        return not self._done.exists()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._done.touch()
        self._lock.release()
