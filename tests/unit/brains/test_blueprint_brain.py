from __future__ import annotations

import json
from typing import Any

import pytest

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.protocol import Brain, Overrides
from ml_intern_cli.documents.model import PublishTarget, RunMode
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.task import Impact, Task
from ml_intern_cli.errors import Blocked, InvalidInput
from ml_intern_cli.quantities import parse_duration, parse_params
from tests.examples import PLAN, RESEARCH, path_plan

BRAIN: Brain = BlueprintBrain()


def restate(sentence: str, **overrides: Any) -> Task:
    return BRAIN.restate(sentence, overrides=Overrides(**overrides))


def high_unknowns(task: Task) -> list[str]:
    return [unknown.name for unknown in task.unknowns if unknown.impact is Impact.HIGH]


def test_a_full_sentence_leaves_nothing_but_the_metric_open() -> None:
    task = restate("DeepSeekV3 ~10m on data/my.txt tokens 5M, seq 256, seed 7, for 20 minutes, don't publish")
    assert task.architecture == "deepseek-v3"
    assert (task.params, task.tokens, task.seq_len, task.seed) == (10_000_000, 5_000_000, 256, 7)
    assert (task.dataset, task.time_budget_s, task.publish) == ("data/my.txt", 1200, PublishTarget.NONE)
    assert high_unknowns(task) == ["metric"]
    assert task.not_understood == ()
    assert task.several_paths


def test_the_restatement_is_one_paragraph_that_names_what_was_said_and_what_was_not() -> None:
    full = restate(
        "DeepSeek-V3 at 1M on builtin:stories for 5m with 2M tokens, 300 steps, seq 128, under $5"
    ).restatement
    for part in (
        "DeepSeek-V3",
        "1M parameters",
        "builtin:stories",
        "128 tokens",
        "2M tokens",
        "300 steps",
        "5 min",
        "$5",
    ):
        assert part in full
    bare = restate("implement DeepSeek-V3").restatement
    for part in ("size that is not said", "dataset that is not said", "budget that is not said"):
        assert part in bare
    assert "\n" not in full + bare


def test_every_high_impact_unknown_has_one_question_with_a_default_that_parses() -> None:
    task = restate("implement DeepSeek-V3")
    questions = {question.name: question for question in BRAIN.questions(task)}
    assert list(questions) == high_unknowns(task) == ["dataset", "params", "time_budget_s", "metric"]
    assert parse_params(questions["params"].default) == 10_000_000
    assert parse_duration(questions["time_budget_s"].default) == 7200
    assert questions["metric"].default == task.metric
    assert all(question.why_default for question in questions.values())


@pytest.mark.parametrize("limit", ["for 5 minutes", "5M tokens", "300 steps"])
def test_any_limit_settles_the_budget(limit: str) -> None:
    assert "time_budget_s" not in high_unknowns(restate(f"DeepSeek-V3 at 1M {limit}"))


def test_options_win_over_the_sentence_and_what_they_replace_is_kept() -> None:
    task = restate(
        "DeepSeek-V3 at 100M on a.txt, seed 3, push to the hub",
        params=1_000_000,
        dataset="builtin:stories",
        seed=0,
        publish=PublishTarget.FOLDER,
        mode=RunMode.INTERACTIVE,
        seq_len=64,
        time_budget_s=60.0,
        dataset_column="text",
    )
    assert (task.params, task.dataset, task.seed, task.seq_len) == (1_000_000, "builtin:stories", 0, 64)
    assert (task.publish, task.mode, task.time_budget_s) == (PublishTarget.FOLDER, RunMode.INTERACTIVE, 60.0)
    assert task.dataset_column == "text"
    assert {one.name: one.why for one in task.assumptions} == {
        "params": "--params wins over the sentence, which says '100M'",
        "dataset": "--dataset wins over the sentence, which says 'on a.txt'",
        "seed": "--seed wins over the sentence, which says 'seed 3'",
        "publish": "--publish wins over the sentence, which says 'push to the hub'",
    }


def test_an_option_that_agrees_with_the_sentence_is_no_assumption() -> None:
    assert restate("DeepSeek-V3 at 1M", params=1_000_000).assumptions == ()


def test_what_was_not_understood_is_kept() -> None:
    assert restate("DeepSeek-V3 at 1M with a nice tune overnight").not_understood == ("tune overnight",)


@pytest.mark.parametrize(
    ("sentence", "what", "suggestion"),
    [
        (
            "implement Llama 3 at 100M",
            "no blueprint for 'Llama 3'",
            'ml-intern run "implement DeepSeek-V3 at 100M"',
        ),
        ("implement DeepSek-V3x", "'DeepSek-V3x'", "such as DeepSeek-V3"),
        ("implement DeepSeek-V2", "the sentence does not name one known architecture", "such as DeepSeek-V3"),
        ("make it good", "the sentence names no architecture", "ml-intern run"),
        ("", "the sentence names no architecture", "ml-intern run"),
    ],
)
def test_an_unknown_architecture_blocks_and_names_every_way_on(
    sentence: str, what: str, suggestion: str
) -> None:
    with pytest.raises(Blocked) as caught:
        restate(sentence)
    blocked = caught.value
    assert blocked.exit_code == 3
    assert what in blocked.what + blocked.why
    assert suggestion in blocked.ways_on[0]
    assert "ml-intern blueprints" in blocked.ways_on[1]
    assert "ANTHROPIC_API_KEY" in blocked.ways_on[2]
    assert "OPENAI_BASE_URL" in blocked.ways_on[2]


@pytest.mark.parametrize("method", ["fine-tune", "LoRA training of", "DPO on", "distill"])
def test_a_method_that_is_no_pretraining_blocks(method: str) -> None:
    with pytest.raises(Blocked, match="cannot be done from a blueprint"):
        restate(f"{method} DeepSeek-V3 at 100M")


def test_a_contradiction_blocks_until_an_option_decides_it() -> None:
    sentence = "DeepSeek-V3 with 5M params and 10M params"
    with pytest.raises(Blocked, match="does not say one number of parameters") as caught:
        restate(sentence)
    assert "--params" in caught.value.ways_on[0]
    assert restate(sentence, params=5_000_000).params == 5_000_000


def test_a_dataset_that_is_meant_but_not_named_blocks() -> None:
    with pytest.raises(Blocked, match="does not say which data"):
        restate("DeepSeek-V3 at 1M on my data")


@pytest.mark.parametrize("size", ["-5M", "0M", "1k", "900B", "5 params"])
def test_a_size_that_cannot_be_built_is_invalid(size: str) -> None:
    with pytest.raises(InvalidInput):
        restate(f"DeepSeek-V3 at {size}")


def test_research_names_a_url_for_every_finding_without_a_network() -> None:
    research = BRAIN.research(restate("DeepSeek-V3 at 1M"))
    urls = [finding.url for finding in research.findings]
    assert "https://arxiv.org/abs/2412.19437" in urls
    assert all(urls)
    recipe = blueprints.load("deepseek-v3").recipe(blueprints.load("deepseek-v3").solve(1_000_000))
    assert len(research.findings) == len(blueprints.load("deepseek-v3").SOURCES) + len(recipe.sources)


def test_paths_are_the_variants_within_the_budget() -> None:
    task = restate("DeepSeek-V3 at 1M")
    assert [(path.id, path.variant) for path in BRAIN.paths(task, RESEARCH, max_paths=2)] == [
        ("a", "own"),
        ("b", "transformers"),
    ]
    assert [path.id for path in BRAIN.paths(task, RESEARCH, max_paths=1)] == ["a"]
    assert len(BRAIN.paths(task, RESEARCH, max_paths=9)) == 2


def test_something_new_is_not_built_as_the_blueprint_it_would_start_from() -> None:
    task = restate("DeepSeek-V3 at 1M").model_copy(
        update={"architecture": "new", "starts_from": "deepseek-v3"}
    )
    with pytest.raises(Blocked, match="no blueprint for new"):
        BRAIN.paths(task, RESEARCH, max_paths=2)


def plan_of(variant: str = "own") -> Plan:
    sizing = blueprints.load("deepseek-v3").solve(1_000_000)
    path = path_plan(
        variant=variant,
        slice_s=60,
        judging_s=10,
        steps=100,
        accumulation=2,
        learning_rate=0.001,
        min_learning_rate=0.0001,
        warmup_steps=5,
        eval_every=20,
        checkpoint_every=20,
        seed=7,
    )
    return PLAN.model_copy(update={"config": sizing.config, "seq_len": 128, "paths": (path,)})


@pytest.mark.parametrize("variant", ["own", "transformers"])
def test_implement_gives_complete_programs_that_compile_and_the_plans_numbers(variant: str) -> None:
    plan = plan_of(variant)
    files = BRAIN.start(plan.paths[0], plan)
    assert set(files) == {"model.py", "train.py", "eval.py", "config.json", "train_config.json"}
    for name in ("model.py", "train.py", "eval.py"):
        compile(files[name], name, "exec")
        assert "import ml_intern_cli" not in files[name]
    config = json.loads(files["config.json"])
    assert config.pop("_model_class") == "DeepseekV3"
    assert config.pop("model_type") == "deepseek_v3"
    assert config.pop("architectures") == ["DeepseekV3ForCausalLM"]
    assert config == plan.config
    assert json.loads(files["train_config.json"]) == {
        "data_dir": "../data",
        "seq_len": 128,
        "steps": 100,
        "micro_batch": 8,
        "accumulation": 2,
        "learning_rate": 0.001,
        "min_learning_rate": 0.0001,
        "warmup_steps": 5,
        "schedule": "cosine",
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "grad_clip": 1.0,
        "precision": "fp32",
        "compile": False,
        "num_threads": 2,
        "eval_every": 20,
        "checkpoint_every": 20,
        "seed": 7,
        "time_limit_s": 60.0,
    }


def test_a_variant_that_there_is_not_is_named_with_those_that_there_are() -> None:
    plan = plan_of("jax")
    with pytest.raises(InvalidInput, match=r"PLAN.md: path a: variant: DeepSeek-V3 has no 'jax'") as caught:
        BRAIN.start(plan.paths[0], plan)
    assert caught.value.hint == "write one of: own, transformers"
