"""The main job, from a sentence to a published folder, at its smallest honest size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ml_intern_cli.data.shards import load_manifest
from ml_intern_cli.data.stories import generate
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.registry import DOCUMENTS, load
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.notify import EVENTS
from tests.loopback_hub import LoopbackHub
from tests.small_runs import GOOD_SENTENCE, SENTENCE, SLUG, copy_run, ml_intern, states


def test_every_document_is_there_and_parses(good_run: Path) -> None:
    names = {"TASK.md", "BUDGET.md", "RESEARCH.md", "PLAN.md", "EXPERIMENTS.md", "RESULTS.md", "PUBLISHED.md"}
    assert names <= {path.name for path in good_run.glob("*.md")}
    for document in good_run.rglob("*.md"):
        if document.name in DOCUMENTS and "published" not in document.parts:
            load(document)


def test_all_six_verdicts_pass_and_stand_in_the_layout_that_others_read(good_run: Path) -> None:
    text = (good_run / "path-a" / "VERIFY.md").read_text()
    verify = load(good_run / "path-a" / "VERIFY.md")
    assert isinstance(verify, Verify)
    assert verify.passed
    assert text.count("VERDICT: pass") >= 6
    assert "VERDICT: fail" not in text


def test_programs_and_data_are_held_against_hashes_from_before_training(good_run: Path) -> None:
    verify = load(good_run / "path-a" / "VERIFY.md")
    measured = {probe.name: probe.measured for probe in verify.probes}

    assert measured["programs-untouched"] == "model.py, train.py, eval.py, train_config.json unchanged"
    assert measured["config-untouched"] == "config.json unchanged"
    assert measured["data-untouched"].endswith("manifest known from before")


def test_the_log_holds_every_step_once(good_run: Path) -> None:
    lines = (good_run / "path-a" / "train.log").read_text().splitlines()
    last = json.loads((good_run / "path-a" / "ckpts" / "last.json").read_text())
    assert [int(line.split()[0].removeprefix("step=")) for line in lines] == list(range(1, last["step"] + 1))


def test_every_second_of_compute_is_counted(good_run: Path) -> None:
    spent = [
        line.split("=")[1].strip()
        for line in (good_run / "BUDGET.md").read_text().splitlines()
        if line.startswith("gpu_min_used")
    ]
    rows = [json.loads(line) for line in (good_run / "events.jsonl").read_text().splitlines()]
    counted = sum(row["data"]["seconds"] for row in rows if row["event_type"] == "spend")
    assert float(spent[0]) == pytest.approx(counted / 60, abs=0.01)
    assert counted > 20


def test_every_milestone_is_told_once_and_in_order(good_run: Path) -> None:
    rows = [json.loads(line) for line in (good_run / "events.jsonl").read_text().splitlines()]
    told = [row["event_type"] for row in rows if row["event_type"] in EVENTS]
    assert told == [
        *("budget_set", "approval_required", "plan_ready", "code_ready"),
        *("train_started", "published", "train_done"),
    ]


def test_the_published_folder_loads_in_a_fresh_process(good_run: Path) -> None:
    folder = next((good_run / "published").iterdir())
    completed = subprocess.run(
        [sys.executable, "load_test.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1].startswith("load test passed")


def test_the_same_sentence_again_finds_nothing_to_do(good_run: Path, runs_dir: Path) -> None:
    run = copy_run(good_run, runs_dir)
    before = {path: path.read_bytes() for path in run.rglob("*.md")}
    answer = ml_intern("run", GOOD_SENTENCE, "--json", runs_dir=runs_dir)
    assert answer.code == 0, answer.err
    assert answer.json["done"] is True
    assert {path: path.read_bytes() for path in run.rglob("*.md")} == before
    assert [path.name for path in runs_dir.iterdir()] == [SLUG]


def test_new_starts_another_run_of_the_same_sentence(good_run: Path, runs_dir: Path) -> None:
    copy_run(good_run, runs_dir)
    answer = ml_intern("run", GOOD_SENTENCE, "--slug", SLUG, "--new", "--until", "clarify", runs_dir=runs_dir)
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in runs_dir.iterdir()) == [SLUG, f"{SLUG}-2"]


def test_without_a_token_publishing_to_the_hub_blocks_with_two_ways_on(
    good_run: Path, runs_dir: Path
) -> None:
    run = copy_run(good_run, runs_dir)
    answer = ml_intern("publish", SLUG, "--publish", "hub", runs_dir=runs_dir, env={"HF_HUB_OFFLINE": ""})
    assert answer.code == 3
    blocker = (run / "BLOCKER.md").read_text()
    assert "HF_TOKEN" in blocker
    assert "--publish folder" in blocker
    again = ml_intern("publish", SLUG, "--publish", "folder", runs_dir=runs_dir)
    assert again.code == 0, again.err
    assert not (run / "BLOCKER.md").exists()


def test_small_data_are_read_four_times_at_most_unless_asked_otherwise(
    runs_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.txt"
    file.write_text("\n\n".join(generate(0, index).text for index in range(300)))
    arguments = ("--dataset", str(file), "--until", "plan", "--max-paths", "1", "--time-budget", "3m")
    answer = ml_intern("run", SENTENCE, *arguments, runs_dir=runs_dir)
    assert answer.code == 0, answer.err
    plan, manifest = load(runs_dir / SLUG / "PLAN.md"), load_manifest(runs_dir / SLUG / "data")
    assert isinstance(plan, Plan)
    epochs = plan.tokens(plan.paths[0]) / manifest.splits[Split.TRAIN].tokens
    assert 3.5 < epochs < 4.5
    assert "4 passes over the data" in (runs_dir / SLUG / "PLAN.md").read_text()


def test_a_checkpoint_touched_after_verification_is_verified_again(good_run: Path, runs_dir: Path) -> None:
    run = copy_run(good_run, runs_dir)
    best = json.loads((run / "path-a" / "ckpts" / "best.json").read_text())
    weights = run / "path-a" / "ckpts" / best["dir"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    assert states(ml_intern("status", SLUG, "--json", runs_dir=runs_dir).json)["verify a"] == "stale"


def test_publishing_to_a_hub_loads_the_model_back_from_it(good_run: Path, runs_dir: Path) -> None:
    run = copy_run(good_run, runs_dir)
    with LoopbackHub() as hub:
        hub.fail("POST /api/repos/create", status=503)
        surroundings = {"HF_HUB_OFFLINE": "", **hub.environ}
        answer = ml_intern("publish", SLUG, "--publish", "hub", runs_dir=runs_dir, env=surroundings)
        assert answer.code == 0, answer.err
        published = (run / "PUBLISHED.md").read_text()
        name = next(line.split()[-1] for line in published.splitlines() if line.startswith("- name:"))
        assert {"model.safetensors", "config.json", "README.md", "VERIFY.md"} <= hub.files(
            f"me/{name}"
        ).keys()
    assert "load test passed" in published
    for path in run.rglob("*"):
        if path.is_file():
            assert hub.token.encode() not in path.read_bytes(), path
    assert hub.token not in answer.out + answer.err
