"""Two paths at a time: really at the same time, stopped together, resumed to the same losses."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.registry import load, render
from ml_intern_cli.runs.files import read_rows
from tests.functional.conftest import once
from tests.small_runs import SLUG, children_of, copy_run, losses, ml_intern, states

STEPS = 30
PATHS = ("a", "b")


@pytest.fixture(scope="session")
def pair(short_run: Path, shared_dir: Path) -> Path:
    """Two smoked paths of 30 steps that differ in their learning rate."""
    runs_dir = shared_dir / "pair"
    with once(runs_dir) as is_new:
        if is_new:
            run = copy_run(short_run, runs_dir)
            for leftover in ("path-a", "RESULTS.md", "EXPERIMENTS.md", "events.jsonl"):
                path = run / leftover
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(run / ".receipts")  # or the larger budget would be planned for anew
            _plan_two(run)
            answer = ml_intern("run", SLUG, "--until", "smoke", "--parallel", "2", runs_dir=runs_dir)
            assert answer.code == 0, answer.err
    return runs_dir / SLUG


def _plan_two(run: Path) -> None:
    plan, budget = load(run / "PLAN.md"), load(run / "BUDGET.md")
    assert isinstance(plan, Plan)
    assert isinstance(budget, Budget)
    changes = {"steps": STEPS, "checkpoint_every": 3, "eval_every": 15, "num_threads": 1, "slice_s": 120.0}
    first = plan.paths[0].model_copy(update=changes)
    second = first.model_copy(update={"id": "b", "learning_rate": first.learning_rate / 2})
    (run / "PLAN.md").write_text(render(plan.model_copy(update={"paths": (first, second)})))
    more = {"max_paths": 2, "compute_cap": 0.5, "gpu_min_used": 0.0}
    (run / "BUDGET.md").write_text(render(budget.model_copy(update=more)))


@pytest.fixture(scope="session")
def in_turn(pair: Path, shared_dir: Path) -> Path:
    """The same, trained one after the other."""
    runs_dir = shared_dir / "in-turn"
    with once(runs_dir) as is_new:
        if is_new:
            copy_run(pair, runs_dir)
            answer = ml_intern("run", SLUG, "--until", "train", "--parallel", "1", runs_dir=runs_dir)
            assert answer.code == 0, answer.err
    return runs_dir / SLUG


def _spans(run: Path, stage: str) -> dict[str, tuple[datetime, datetime]]:
    """When that stage began first and ended last, by path."""
    spans: dict[str, tuple[datetime, datetime]] = {}
    for event in read_rows(run / "events.jsonl"):
        data, when = event["data"], datetime.fromisoformat(event["timestamp"])
        if data.get("stage") == stage and event["event_type"] in {"stage_started", "stage_finished"}:
            spans[data["path"]] = (spans.get(data["path"], (when, when))[0], when)
    return spans


def _overlap_s(run: Path, stage: str) -> float:
    spans = _spans(run, stage).values()
    return (min(end for _, end in spans) - max(begin for begin, _ in spans)).total_seconds()


def _assert_trained_as(run: Path, expected: Path) -> None:
    for path_id in PATHS:
        name = f"path-{path_id}"
        assert losses(run, name) == losses(expected, name)
        assert len(losses(run, name)) == STEPS
        assert _weights(run / name) == _weights(expected / name)
    assert losses(run, "path-a") != losses(run, "path-b")


def _weights(path: Path) -> bytes:
    last = json.loads((path / "ckpts" / "last.json").read_text())
    return (path / "ckpts" / last["dir"] / "model.safetensors").read_bytes()


def _start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ml_intern_cli", "run", SLUG, "--until", "train", "--parallel", "2"),
            *("--runs-dir", str(run.parent)),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        # A shell starts background jobs, so perhaps these tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip


def _wait_for_steps(run: Path, count: int, process: subprocess.Popen[str], *paths: str) -> None:
    logs = [run / f"path-{path_id}" / "train.log" for path_id in paths]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if all(log.exists() and len(log.read_text().splitlines()) >= count for log in logs):
            return
        time.sleep(0.005)
    raise AssertionError(f"no step {count}: {process.poll()}")


def test_two_paths_train_at_the_same_time_to_the_losses_of_one_after_the_other(
    pair: Path, in_turn: Path, runs_dir: Path
) -> None:
    run = copy_run(pair, runs_dir)
    answer = ml_intern("run", SLUG, "--until", "train", "--parallel", "2", runs_dir=runs_dir)
    assert answer.code == 0, answer.err
    assert _overlap_s(run, "train") > 0 > _overlap_s(in_turn, "train")
    _assert_trained_as(run, in_turn)
    spent = [row["data"] for row in read_rows(run / "events.jsonl") if row["event_type"] == "spend"]
    budget = load(run / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert budget.gpu_min_used == pytest.approx(sum(one["seconds"] for one in spent) / 60, abs=0.001)
    assert {one["path"] for one in spent} == set(PATHS)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_both_are_stopped_at_any_instant_and_go_on_with_the_same_losses(
    number: signal.Signals, pair: Path, in_turn: Path, runs_dir: Path
) -> None:
    run = copy_run(pair, runs_dir)
    process = _start(run)
    _wait_for_steps(run, random.randint(1, STEPS // 2), process, random.choice(PATHS))
    if number is signal.SIGINT:  # others may look meanwhile
        running = states(ml_intern("status", SLUG, "--json", runs_dir=runs_dir).json)
        assert {running["train a"], running["train b"]} <= {"started", "done"}
        assert ml_intern("show", SLUG, runs_dir=runs_dir).code == 0
        assert ml_intern("run", SLUG, runs_dir=runs_dir).code == 2  # locked
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-number if number is signal.SIGKILL else 130)
    if number is signal.SIGKILL:
        deadline = time.monotonic() + 30
        while children_of(run) and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        assert f"ml-intern run {SLUG}" in errors
    assert children_of(run) == []
    answer = ml_intern("run", SLUG, "--until", "train", runs_dir=runs_dir)  # still two at a time
    assert answer.code == 0, answer.err
    _assert_trained_as(run, in_turn)
    assert list((run / ".receipts").glob("child*.json")) == []


def _out_of_memory_killer(run: Path, path_id: str) -> None:
    """End a path's program the way the kernel does: SIGKILL, to it alone."""
    child = json.loads((run / ".receipts" / f"child.{path_id}.json").read_text())["child"]["pid"]
    program = psutil.Process(child)
    for process in (program, *program.children(recursive=True)):
        if process.name() != "bwrap":
            process.kill()


@pytest.mark.slow
def test_a_path_that_lacks_memory_beside_another_goes_on_alone(
    pair: Path, in_turn: Path, runs_dir: Path
) -> None:
    run = copy_run(pair, runs_dir)
    process = _start(run)
    _wait_for_steps(run, 4, process, "b")
    _out_of_memory_killer(run, "b")
    process.communicate(timeout=240)
    assert process.returncode == 0
    events: list[dict[str, Any]] = list(read_rows(run / "events.jsonl"))
    kinds = [(one["event_type"], one["data"].get("path")) for one in events]
    assert ("serialised", "b") in kinds
    # Nothing was written of it, nobody told that it failed, and it began anew when the other had ended.
    assert not any(kind == "path_failed" for kind, _ in kinds)
    assert not (run / "path-b" / "POSTMORTEM.md").exists()
    crowded = kinds.index(("serialised", "b"))
    begins_again = next(
        index
        for index, one in enumerate(events)
        if index > crowded and one["event_type"] == "stage_started" and one["data"]["path"] == "b"
    )
    ended = next(
        index
        for index, one in enumerate(events)
        if one["event_type"] == "stage_finished"
        and one["data"] | {"stage": "train", "path": "a"} == one["data"]
    )
    assert ended < begins_again
    assert json.loads((run / ".receipts" / "parallel.json").read_text()) == {"most": "1"}
    _assert_trained_as(run, in_turn)


@pytest.mark.slow
def test_an_interrupt_at_a_question_of_one_path_ends_the_run_at_once(pair: Path, runs_dir: Path) -> None:
    run = copy_run(pair, runs_dir)
    for path_id in PATHS:
        model = run / f"path-{path_id}" / "model.py"
        model.write_text(model.read_text() + "\n# by hand\n")
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ml_intern_cli", "run", SLUG, "--until", "smoke", "--parallel", "2"),
            *("--wall", "none", "--runs-dir", str(runs_dir)),
        ],
        stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    os.close(terminal)
    said = b""
    with suppress(OSError):  # the terminal is gone with the program
        while chunk := os.read(master, 4096):
            said += chunk
            if said.endswith(b"[no] > "):
                process.send_signal(signal.SIGINT)
    os.close(master)
    assert process.wait(timeout=20) == 130
    assert b"is not one of the shipped programs" in said
    assert f"ml-intern run {SLUG}".encode() in said
    assert children_of(run) == []
    assert not (run / "BLOCKER.md").exists()
