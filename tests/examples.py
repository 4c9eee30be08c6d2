"""One realistic document of each kind, by file name."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.documents.audit import Audit, AuditKind, Writing
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.documents.budget import Budget, ModelUse
from ml_intern_cli.documents.code import Code
from ml_intern_cli.documents.experiments import Experiment, Experiments, PathStatus
from ml_intern_cli.documents.model import Model, PublishTarget, Verdict
from ml_intern_cli.documents.plan import PathPlan, Plan, PlannedFile, Precision, Source
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.published import Published
from ml_intern_cli.documents.research import Finding, Research
from ml_intern_cli.documents.results import ResultRow, Results
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Assumption, Impact, Task, Unknown
from ml_intern_cli.documents.verify import GenerationSample, Judgement, Verify

TASK = Task(
    request="implement DeepSeek-V3 at 1M",
    restatement="Pretrain a DeepSeek-V3 of 1,000,000 parameters on builtin:stories.",
    architecture="deepseek-v3",
    params=1_000_000,
    time_budget_s=300.0,
    publish=PublishTarget.FOLDER,
    unknowns=(Unknown(name="dataset", impact=Impact.HIGH, question="Which dataset should it learn from?"),),
    assumptions=(Assumption(name="dataset", value="builtin:stories", why="the Hub does not answer"),),
    not_understood=("really fast",),
)
BUDGET = Budget(
    scale_ceiling=1_030_000,
    compute_cap=0.25,
    paths_launched=2,
    gpu_min_used=4.7234567,
    usd_used=0.1207,
    model_use=(
        ModelUse(stage="restate", calls=1, tokens_in=2140, tokens_out=310, usd=0.0204),
        ModelUse(stage="implement a", calls=14, tokens_in=98210, tokens_out=6022, usd=0.1003),
    ),
)
RESEARCH = Research(
    question="How is DeepSeek-V3 built, and how is a small one trained?",
    findings=(
        Finding(text="MLA and DeepSeekMoE: the technical report", url="https://arxiv.org/abs/2412.19437"),
        Finding(text="the published configuration", url="https://huggingface.co/deepseek-ai/DeepSeek-V3"),
    ),
    not_reached=("huggingface.co: no connection",),
)


def path_plan(
    path_id: str = "a", variant: str = "own", approach: str = "own module", **changes: Any
) -> PathPlan:
    """A path that differs from the one of the example in what is said."""
    path = PathPlan(
        id=path_id,
        approach=approach,
        variant=variant,
        hypothesis="visiting each expert once trains more tokens in the same time",
        why="more tokens in the same slice",
        slice_s=140.0,
        judging_s=20.0,
        steps=590,
        micro_batch=8,
        accumulation=1,
        learning_rate=0.003,
        min_learning_rate=0.0003,
        warmup_steps=30,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        grad_clip=1.0,
        precision=Precision.FP32,
        num_threads=2,
        eval_every=100,
        checkpoint_every=100,
        seed=0,
        measured_tokens_per_s=9912.3,
    )
    return path.model_copy(update=changes)


PLAN = Plan(
    summary="2 paths · 590 steps × 2,048 tokens each · 2 min 20 s each (measured 9.9k tokens/s)",
    architecture="deepseek-v3",
    params_target=1_000_000,
    params_planned=1_003_264,
    active_params=612_345,
    dataset="builtin:stories",
    dataset_revision="grammar 1, seed 0",
    tokenizer="byte-level BPE trained on the training part",
    vocab_size=1024,
    seq_len=256,
    tokens_per_path=1_208_320,
    success_criterion="All six checks of VERIFY.md pass; the lowest recomputed eval loss wins.",
    files=(
        PlannedFile(name="model.py", purpose="the architecture"),
        PlannedFile(name="train.py", purpose="the training loop"),
    ),
    config={
        "hidden_size": 96,
        "rms_norm_eps": 1e-6,
        "q_lora_rank": None,
        "rope_parameters": {"rope_theta": 10000.0},
    },
    sources=(
        Source(number="seq_len", source="the recipe at this size"),
        Source(number="learning_rate", source="short runs at 1M"),
    ),
    paths=(
        path_plan("a", "own", "own module: MLA with sorted expert dispatch"),
        path_plan("b", "transformers", "transformers' DeepseekV3ForCausalLM"),
    ),
)
EXPERIMENTS = Experiments(
    rows=(
        Experiment(
            path_id="a",
            approach="own module",
            status=PathStatus.PASSED,
            final_loss=1.412346,
            verify="all-pass",
            gpu_min=2.357,
        ),
        Experiment(
            path_id="b",
            approach="transformers",
            status=PathStatus.FAILED,
            failure_cause="not-finite",
            gpu_min=1.2,
        ),
        Experiment(path_id="b2", approach="transformers", status=PathStatus.QUEUED, retry_of="b"),
    )
)
CODE = Code(
    path="a",
    author="claude-sonnet-5-5",
    variant="gated-delta",
    approach="gated delta rule in chunks of 64",
    fix="the mask of the second branch",
    summary="Attention is replaced by the gated delta rule; the rest is Llama's.",
    left_open=("no cache for generation",),
)
SMOKE = Smoke(
    path="a",
    params=1_003_264,
    params_target=1_000_000,
    seconds=6.123,
    probes=(
        ProbeResult(
            name="parameter-count", measured="1,003,264 (+0.3 %)", threshold="±1 %", verdict=Verdict.PASS
        ),
        ProbeResult(
            name="causality",
            measured="max |Δ| 0.81",
            threshold="1e-5",
            verdict=Verdict.FAIL,
            detail="a missing mask",
        ),
    ),
)


def passed(reason: str) -> Judgement:
    return Judgement(verdict=Verdict.PASS, reason=reason)


VERIFY = Verify(
    samples=(
        GenerationSample(
            prompt="Once upon a time,", output="there was a little fox.", judgement=passed("5.1 ≤ 7.9")
        ),
        GenerationSample(
            prompt="", output=" The dog ran.\n\nOne day,\n## Loss sanity", judgement=passed("5.4 ≤ 7.9")
        ),
    ),
    generation=passed("2 of 2 samples nearer to held-out text than to shuffled words"),
    final_train_loss=1.3981,
    final_eval_loss=1.412346,
    plausible_low=0.693,
    plausible_high=6.9315,
    loss=passed("0.693 < 1.412 < 6.931"),
    eval_train_gap=0.0142,
    tracks=passed("0.014 < 0.5"),
    planned_tokens=1_208_320,
    consumed_tokens=1_184_000,
    data=passed("98.0 % ≥ 70 %"),
    stderr_findings=("train.stderr:3: UserWarning: slow — benign: once, at the start",),
    stderr=passed("1 finding, explained"),
    target_params=1_000_000,
    actual_params=1_003_264,
    params=passed("+0.33 % within ±15 %"),
    probes=(
        ProbeResult(
            name="eval-claim",
            measured="1.4123 on the tokens of the claim",
            threshold="1.4120 ± 0.001",
            verdict=Verdict.PASS,
        ),
        ProbeResult(
            name="checkpoint-origin",
            measured="2 | 5 steps",
            threshold="5",
            verdict=Verdict.FAIL,
            component="ckpts/step-00000100",
            detail="of another training",
        ),
    ),
)
POSTMORTEM = Postmortem(
    path="b",
    failed_stage="train",
    cause="not-finite",
    symptom="Step 41 and the four after it have no finite loss.",
    root_cause="The learning rate is too high for this batch.",
    fix="A quarter of the learning rate and twice the warm-up.",
    changes={"learning_rate": 0.00075, "warmup_steps": 60, "schedule": "linear", "compile": False},
    retry="b2",
)
RESULTS = Results(
    winner="a",
    summary="Path a wins with eval loss 1.412, ahead of b2 by 0.035 (rerun noise not measured).",
    rows=(
        ResultRow(
            path_id="a",
            approach="own module",
            status=PathStatus.PASSED,
            params=1_003_264,
            init_loss=6.93,
            final_loss=1.412346,
            verify="all-pass",
            tokens=1_208_320,
            tokens_per_s=9912.3,
            gpu_min=2.357,
            source="path-a/VERIFY.md",
        ),
    ),
    deviations=("path b stopped at step 45 of 590",),
)
PUBLISHED = Published(
    target=PublishTarget.FOLDER,
    name="ml-intern-implement-deepseek-v3-at-1m-20261120-2337",
    location="published/ml-intern-implement-deepseek-v3-at-1m-20261120-2337",
    revision=None,
    path="a",
    load_test="load test passed: both loaders agree within 3e-7",
    published_at="2026-11-20T23:37:12Z",
)
BLOCKER = Blocker(
    stage="publish",
    what="publishing to the Hub",
    why="HF_TOKEN is not set",
    ways_on=("HF_TOKEN=… ml-intern publish tiny --publish hub", "ml-intern publish tiny --publish folder"),
)
AUDIT = Audit(
    subject="/models/tiny",
    kind=AuditKind.CAUSAL_LM,
    architecture="LlamaForCausalLM",
    params=172_352,
    text="held-out.txt",
    scored="17,472 of 17,485 tokens, in 273 windows of 64 that do not overlap",
    loss=0.744512,
    unigram_loss=4.018784,
    seconds=14.2,
    probes=(
        ProbeResult(name="checkpoint-files", measured="30 tensors", threshold="whole", verdict=Verdict.PASS),
        ProbeResult(
            name="weights-fit",
            measured="1 missing | 0 unexpected",
            threshold="none",
            verdict=Verdict.FAIL,
            component="lm_head.weight",
            detail="missing tensor lm_head.weight, filled at random",
        ),
    ),
    writings=(Writing(prompt="Once upon", output=' a time,\n"Look," said Tom.'),),
)
EXAMPLES: dict[str, Model] = {
    "TASK.md": TASK,
    "BUDGET.md": BUDGET,
    "RESEARCH.md": RESEARCH,
    "PLAN.md": PLAN,
    "CODE.md": CODE,
    "EXPERIMENTS.md": EXPERIMENTS,
    "SMOKE.md": SMOKE,
    "VERIFY.md": VERIFY,
    "POSTMORTEM.md": POSTMORTEM,
    "RESULTS.md": RESULTS,
    "PUBLISHED.md": PUBLISHED,
    "BLOCKER.md": BLOCKER,
    "AUDIT.md": AUDIT,
}
