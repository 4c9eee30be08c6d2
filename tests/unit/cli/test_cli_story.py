"""`show` tells what the documents hold, at any stage, even damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_intern_cli.__main__ import main
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.experiments import Experiment, Experiments, PathStatus
from ml_intern_cli.documents.model import Model, PublishTarget, Verdict
from ml_intern_cli.documents.plan import PathPlan, Plan, Precision
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.published import Published
from ml_intern_cli.documents.registry import render
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.smoke import ProbeResult, Smoke
from ml_intern_cli.documents.task import Assumption, Task
from ml_intern_cli.documents.verify import GenerationSample, Judgement, Verify

PASS = Judgement(verdict=Verdict.PASS, reason="measured 1, allowed 2")
FAIL = Judgement(verdict=Verdict.FAIL, reason="41 % of the planned tokens, at least 70 %")

TASK = Task(
    request="implement DeepSeek-V3 at 1M",
    restatement="Build and pretrain DeepSeek-V3 at one million parameters.",
    architecture="deepseek-v3",
    assumptions=(Assumption(name="dataset", value="builtin:stories", why="the Hub is not reachable"),),
)


def _path_plan(path_id: str) -> PathPlan:
    return PathPlan(
        id=path_id,
        approach="own module",
        variant="own",
        hypothesis="it learns",
        why="it is ours",
        slice_s=140,
        steps=590,
        micro_batch=8,
        accumulation=1,
        learning_rate=1e-3,
        min_learning_rate=1e-4,
        warmup_steps=10,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        grad_clip=1.0,
        precision=Precision.FP32,
        num_threads=2,
        eval_every=100,
        checkpoint_every=100,
        seed=0,
        measured_tokens_per_s=9900,
    )


PLAN = Plan(
    summary="1 path, 590 steps",
    architecture="deepseek-v3",
    params_target=1_000_000,
    params_planned=1_003_264,
    active_params=700_000,
    dataset="builtin:stories",
    dataset_revision="1",
    tokenizer="byte-level BPE",
    vocab_size=2048,
    seq_len=256,
    tokens_per_path=1_208_320,
    success_criterion="all six checks pass",
    files=(),
    config={"hidden_size": 64},
    sources=(),
    paths=(_path_plan("a"),),
)
SMOKE = Smoke(
    path="a",
    params=1_003_264,
    params_target=1_000_000,
    seconds=6,
    probes=(
        ProbeResult(name="compile", measured="4 files", threshold="all", verdict=Verdict.PASS),
        ProbeResult(name="causality", measured="0.81", threshold="1e-5", verdict=Verdict.FAIL),
    ),
)
VERIFY = Verify(
    samples=(GenerationSample(prompt="The", output="The fox\nran home.", judgement=PASS),),
    generation=PASS,
    final_train_loss=1.4,
    final_eval_loss=1.412,
    plausible_low=0.7,
    plausible_high=7.6,
    loss=PASS,
    eval_train_gap=0.01,
    tracks=PASS,
    planned_tokens=1_208_320,
    consumed_tokens=500_000,
    data=FAIL,
    stderr_findings=(),
    stderr=PASS,
    target_params=1_000_000,
    actual_params=1_003_264,
    params=PASS,
)
EVERYTHING: dict[str, Model] = {
    "TASK.md": TASK,
    "PLAN.md": PLAN,
    "EXPERIMENTS.md": Experiments(
        rows=(
            Experiment(
                path_id="a", approach="own module", status=PathStatus.PASSED, final_loss=1.412, gpu_min=2.3
            ),
        )
    ),
    "path-a/SMOKE.md": SMOKE,
    "path-a/VERIFY.md": VERIFY,
    "path-a/POSTMORTEM.md": Postmortem(
        path="a",
        failed_stage="verify",
        cause="verify:Data consumption",
        symptom="too few tokens",
        root_cause="the slice was spent early",
        fix="fewer steps",
        changes={"steps": 200},
        retry="a2",
    ),
    "RESULTS.md": Results(winner="a", summary="a wins by 0.035", rows=(), deviations=("fewer tokens",)),
    "PUBLISHED.md": Published(
        target=PublishTarget.FOLDER,
        name="ml-intern-x",
        location="published/ml-intern-x",
        revision=None,
        path="a",
        load_test="load test passed",
        published_at="2026-11-20T23:37:00Z",
    ),
    "BLOCKER.md": Blocker(stage="publish", what="no token", why="HF_TOKEN is not set", ways_on=("set it",)),
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
        "Build and pretrain DeepSeek-V3",
        "assumed: dataset = builtin:stories (the Hub is not reachable)",
        "1,003,264 parameters, 700k active per token",
        "1 of 2 probes",
        "✗ causality: 0.81 (allowed 1e-5)",
        "loss 8.000 → 0.200 in 40 steps, eval 0.250",
        "5 of 6",
        "✗ Data consumption: 41 % of the planned tokens, at least 70 %",
        "'The' … The fox ran home.",
        "the slice was spent early",
        "a wins by 0.035",
        "deviation: fewer tokens",
        "published/ml-intern-x · load test passed",
        "no token: HF_TOKEN is not set",
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
    assert "Build and pretrain DeepSeek-V3" in out


def test_show_as_json_holds_documents_and_losses(run_dir, capsys):
    assert main(["show", str(run_dir), "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert story["plan"]["params_planned"] == 1_003_264
    [path] = story["paths"]
    assert path["losses"]["evals"] == [[40, 0.25]]
    assert len(path["losses"]["train"]) == 40
    assert path["verify"]["data"]["verdict"] == "fail"
