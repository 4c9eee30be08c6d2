"""A run may die at any instant, anywhere; the next one ends with the same documents."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_runs import QUICK, SENTENCE, SLUG, children_of, copy_run, losses, ml_intern

# Copies the run after every write that state rests on: what a kill at that instant would leave.
_SNAPSHOTS = """
import itertools, shutil, sys
from pathlib import Path
from ml_intern_cli.runs import events, files, ledger, compute, outputs, pipeline, receipts, service
run, into = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
number = itertools.count()
def snapshotting(write):
    def wrapped(*arguments):
        write(*arguments)
        shutil.copytree(run, into / f"{next(number):03d}" / run.name, copy_function=shutil.copy2)
    return wrapped
for module in (events, files, ledger, compute, outputs, pipeline, receipts, service):
    for name in ("write_atomic", "append_line"):
        if hasattr(module, name):
            setattr(module, name, snapshotting(getattr(module, name)))
from ml_intern_cli.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The run after each of its writes, up to smoke."""
    base = tmp_path_factory.mktemp("snapshots")
    runs_dir, into = base / "runs", base / "after"
    completed = subprocess.run(
        [
            sys.executable, "-c", _SNAPSHOTS, str(runs_dir / SLUG), str(into),
            "run", f"{SENTENCE} for 12 steps", *QUICK, "--slug", SLUG, "--until", "smoke",
            "--runs-dir", str(runs_dir),
        ],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return sorted(into.iterdir())


def _finish_and_compare(snapshot: Path, finished: Path, runs_dir: Path) -> None:
    run = copy_run(snapshot / SLUG, runs_dir)
    target = SLUG if (run / "TASK.md").exists() else f"{SENTENCE} for 12 steps"
    answer = ml_intern("run", target, *QUICK, "--slug", SLUG, runs_dir=runs_dir)
    assert answer.code == 4, answer.err
    expected = {path.relative_to(finished) for path in finished.rglob("*.md") if ".history" not in path.parts}
    found = {path.relative_to(run) for path in run.rglob("*.md") if ".history" not in path.parts}
    assert found == expected
    for name in ("TASK.md", "RESEARCH.md", "path-a/model.py", "path-a/config.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name
    if _plan_is_done(snapshot / SLUG):
        # The plan measures the machine, so until it stands two runs may differ in their numbers.
        planned = (snapshot / SLUG / "PLAN.md").read_bytes()
        assert (run / "PLAN.md").read_bytes() == planned
        assert len(losses(run)) == len(losses(finished))


def _plan_is_done(run: Path) -> bool:
    receipt = run / ".receipts" / "plan.json"
    return receipt.exists() and json.loads(receipt.read_text())["state"] == "done"


def test_a_kill_after_a_write_is_made_good_by_the_next_run(
    snapshots: list[Path], short_run: Path, tmp_path: Path
) -> None:
    for snapshot in random.sample(snapshots, 1):
        _finish_and_compare(snapshot, short_run, tmp_path / snapshot.name)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_kill_after_any_write_is_made_good_by_the_next_run(
    snapshots: list[Path], short_run: Path, tmp_path: Path
) -> None:
    for snapshot in snapshots:
        _finish_and_compare(snapshot, short_run, tmp_path / snapshot.name)


def _start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ml_intern_cli", "run", SLUG, "--runs-dir", str(run.parent)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        # A shell starts background jobs, so perhaps these tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip


def _wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = run / "path-a" / "train.log"
        if log.exists() and len(log.read_text().splitlines()) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"no step {count}: {process.poll()}")


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)
def test_training_goes_on_with_the_same_losses_after(
    number: signal.Signals, untrained: Path, short_run: Path
) -> None:
    process = _start(untrained)
    _wait_for_steps(untrained, random.randint(1, 8), process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number is signal.SIGKILL else 130)
    answer = ml_intern("run", SLUG, runs_dir=untrained.parent)
    assert answer.code == 4, answer.err
    assert losses(untrained) == losses(short_run)
    assert children_of(untrained) == []


def test_a_killed_program_leaves_no_training_behind(untrained: Path) -> None:
    process = _start(untrained)
    _wait_for_steps(untrained, 1, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while children_of(untrained) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children_of(untrained) == []


def test_an_interrupted_run_says_so_and_how_to_go_on(untrained: Path) -> None:
    process = _start(untrained)
    _wait_for_steps(untrained, 1, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert f"ml-intern run {SLUG}" in errors
    status = ml_intern("status", SLUG, "--json", runs_dir=untrained.parent).json
    train = next(stage for stage in status["stages"] if stage["stage"] == "train")
    assert train["state"] == "started"
    assert json.loads((untrained / "path-a" / "ckpts" / "last.json").read_text())["status"] == "stopped"
