"""`show` tells what the documents hold, at any stage, even damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_intern_cli.__main__ import main
from ml_intern_cli.documents.model import Model, Verdict
from ml_intern_cli.documents.registry import render
from ml_intern_cli.documents.verify import Judgement
from tests.examples import (
    BLOCKER,
    EXPERIMENTS,
    PLAN,
    POSTMORTEM,
    PUBLISHED,
    RESULTS,
    SMOKE,
    TASK,
    VERIFY,
)

FAIL = Judgement(verdict=Verdict.FAIL, reason="41 % of the planned tokens, at least 70 %")
EVERYTHING: dict[str, Model] = {
    "TASK.md": TASK,
    "PLAN.md": PLAN.model_copy(update={"paths": PLAN.paths[:1]}),
    "EXPERIMENTS.md": EXPERIMENTS.model_copy(update={"rows": EXPERIMENTS.rows[:1]}),
    "path-a/SMOKE.md": SMOKE,
    "path-a/VERIFY.md": VERIFY.model_copy(update={"data": FAIL}),
    "path-a/POSTMORTEM.md": POSTMORTEM.model_copy(update={"path": "a", "retry": "a2"}),
    "RESULTS.md": RESULTS,
    "PUBLISHED.md": PUBLISHED,
    "BLOCKER.md": BLOCKER,
}


@pytest.fixture
def run_dir(runs_dir: Path) -> Path:
    """A run that has every document, a training log with evaluations, and a torn last line."""
    run_dir = runs_dir / "my-run"
    for name, document in EVERYTHING.items():
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(render(document))
    rows = [{"step": step, "loss": 8.0 / step, "lr": 1e-3} for step in range(1, 41)]
    rows.append({"step": 40, "eval_loss": 0.25, "eval_tokens": 100})
    (run_dir / "path-a/metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 41, "lo')
    return run_dir


def test_show_tells_the_whole_story(run_dir, capsys):
    assert main(["show", str(run_dir)]) == 0
    out = capsys.readouterr().out
    for fact in (
        TASK.restatement,
        "assumed: dataset = builtin:stories (the Hub does not answer)",
        "1,003,264 parameters, 612k active per token",
        "1 of 2 probes",
        "✗ causality: max |Δ| 0.81 (allowed 1e-5)",
        "loss 8.000 → 0.200 in 40 steps, eval 0.250",
        "5 of 6",
        "✗ Data consumption: 41 % of the planned tokens, at least 70 %",
        "'Once upon a time,' … there was a little fox.",
        POSTMORTEM.root_cause,
        RESULTS.summary,
        f"deviation: {RESULTS.deviations[0]}",
        PUBLISHED.location,
        "load test passed",
        "publishing to the Hub: HF_TOKEN is not set",
    ):
        assert fact in out
    assert "   8.000 |." in out


@pytest.mark.parametrize("kept", range(1, len(EVERYTHING)))
def test_show_works_at_any_stage(kept, run_dir, capsys):
    for name in list(EVERYTHING)[kept:]:
        (run_dir / name).unlink()
    assert main(["show", str(run_dir)]) == 0
    assert "next: ml-intern status my-run" in capsys.readouterr().out


def test_show_names_what_does_not_parse_and_tells_the_rest(run_dir, capsys):
    (run_dir / "PLAN.md").write_text("# Plan\n\nlost\n")
    (run_dir / "RESULTS.md").write_bytes(b"\xff")
    assert main(["show", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert "unreadable  PLAN.md" in out
    assert "RESULTS.md:1: is not UTF-8 text" in out
    assert TASK.restatement in out


def test_show_as_json_holds_documents_and_losses(run_dir, capsys):
    assert main(["show", str(run_dir), "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert story["plan"]["params_planned"] == 1_003_264
    [path] = story["paths"]
    assert path["losses"]["evals"] == [[40, 0.25]]
    assert len(path["losses"]["train"]) == 40
    assert path["verify"]["data"]["verdict"] == "fail"
