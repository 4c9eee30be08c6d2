"""A task that no blueprint knows, from sentence to verified model, against a loopback service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

import pytest

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.registry import load
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.judge.smoke import smoke
from ml_intern_cli.runs.files import read_rows
from tests import judged_path
from tests.loopback_models import Act, Call, Incoming, LoopbackModels, Status
from tests.scripted_brain import BUGS, CONFIG, FIX, LEAK, SENTENCE, SLUG, Author, Careless, with_bug
from tests.small_runs import Answer, ml_intern, states

ARGUMENTS = (
    "--max-paths",
    "1",
    "--publish",
    "none",
    "--time-budget",
    "6m",
    "--slug",
    SLUG,
    "--model",
    "scripted",
    "--allow-unsandboxed",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The user's configuration, with a price for the scripted model."""
    file = tmp_path / "config.toml"
    file.write_text("[prices.scripted]\ninput = 3.0\noutput = 15.0\n")
    return file


@pytest.fixture
def service() -> Iterator[LoopbackModels]:
    """The scripted author behind both wire formats."""
    with LoopbackModels(Author()) as server:
        yield server


def environment(wire: str, server: LoopbackModels, config: Path) -> dict[str, str]:
    """What a user would have set."""
    accounts = {
        "anthropic": {"ANTHROPIC_API_KEY": server.key, "ANTHROPIC_BASE_URL": server.anthropic_url},
        # The Hub's client, which carries chat completions, refuses every server when it is offline.
        "openai": {
            "OPENAI_API_KEY": server.key,
            "OPENAI_BASE_URL": server.openai_url,
            "HF_HUB_OFFLINE": "",
            "HF_ENDPOINT": "http://127.0.0.1:9",
        },
    }
    return {"ML_INTERN_CONFIG": str(config), **accounts[wire]}


def run(wire: str, server: LoopbackModels, config: Path, runs_dir: Path, *more: str, tokens: str) -> Answer:
    """The whole chain with that brain."""
    sentence = f"{SENTENCE}, tokens {tokens}"
    return ml_intern(
        "run",
        sentence,
        *ARGUMENTS,
        "--brain",
        wire,
        *more,
        runs_dir=runs_dir,
        env=environment(wire, server, config),
    )


def test_a_planted_leak_is_caught_mended_and_the_run_ends_verified(
    service: LoopbackModels, config: Path, runs_dir: Path
) -> None:
    answer = run("anthropic", service, config, runs_dir, tokens="600k")
    assert answer.code == 0, answer.err
    folder = runs_dir / SLUG

    task = load(folder / "TASK.md")
    assert isinstance(task, Task)
    assert (task.architecture, task.starts_from, task.params) == ("average-decoder", "deepseek-v3", 500_000)
    assert "no queries and keys" in task.restatement

    smoke, mended = (load(folder / name / "SMOKE.md") for name in ("path-a", "path-a2"))
    assert isinstance(smoke, Smoke)
    assert isinstance(mended, Smoke)
    assert next(one.name for one in smoke.probes if one.verdict == "fail") == "causality"
    assert mended.passed
    postmortem = load(folder / "path-a" / "POSTMORTEM.md")
    assert isinstance(postmortem, Postmortem)
    assert (postmortem.probe, postmortem.rewrite, postmortem.retry) == ("causality", True, "a2")
    assert not (folder / "path-a" / "ckpts").exists()  # not a second of training was spent on it

    results = load(folder / "RESULTS.md")
    assert isinstance(results, Results)
    assert results.winner == "a2"
    plan = load(folder / "PLAN.md")
    assert isinstance(plan, Plan)
    assert any(one.number == "measured_tokens_per_s" for one in plan.sources)
    assert any("no cache for generation" in line for line in results.deviations)
    assert ".tril()" in (folder / "path-a2" / "model.py").read_text()

    budget = load(folder / "BUDGET.md")
    assert isinstance(budget, Budget)
    stages = [use.stage for use in budget.model_use]
    assert stages == ["restate", "plan", "implement a", "diagnose a", "implement a2"]
    counted = [one.tokens for one in service.requests if one.tokens]
    assert sum(use.calls for use in budget.model_use) == len(service.requests)
    assert sum(use.tokens_out for use in budget.model_use) == sum(one.output for one in counted)
    assert 0 < budget.usd_used < 0.5
    status = ml_intern("status", SLUG, runs_dir=runs_dir)
    assert "implement a2" in status.out
    assert f"${budget.usd_used:.2f} of $5" in status.out


FAILS = ("causality", "gradients", "param-count", "forward-shape", "batch-independence")  # of each bug


def _written(folder: Path, model: str, *, vocab_size: int) -> Path:
    """A path whose model is small enough to be smoked in a second or two."""
    folder.mkdir(parents=True)
    small = CONFIG | {"vocab_size": vocab_size, "width": 32, "layers": 2, "hidden": 64}
    (folder / "config.json").write_text(json.dumps(small))
    (folder / "model.py").write_text(model)
    return folder


def test_smoke_names_each_of_five_bugs(tmp_path: Path) -> None:
    data = judged_path.write_corpus(tmp_path / "data", vocab_size=512)
    vocab_size = json.loads((data / "manifest.json").read_text())["tokenizer"]["vocab_size"]
    sound = _written(tmp_path / "path-s", with_bug((LEAK, FIX)), vocab_size=vocab_size)
    params = smoke(sound, data_dir=data, target_params=1, progress=str).params
    assert params is not None
    found = []
    for path_id, bug in zip("abcde", BUGS, strict=True):
        path = _written(tmp_path / f"path-{path_id}", with_bug(bug), vocab_size=vocab_size)
        judged = smoke(path, data_dir=data, target_params=params, progress=str)
        found.append(next((one.name for one in judged.probes if one.verdict == "fail"), None))
    assert tuple(found) == FAILS


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, 5])
def test_each_bug_is_caught_before_training_and_named_until_the_code_is_right(
    count: int, config: Path, runs_dir: Path
) -> None:
    made = (*BUGS[: count - 1], BUGS[-1])
    with LoopbackModels(Careless(bugs=made)) as server:
        answer = run("anthropic", server, config, runs_dir, "--max-retries", "5", tokens="20k")
    assert answer.code == 4, answer.err  # so few tokens teach too little for any verification
    folder = runs_dir / SLUG
    caught = []
    for name in ("path-a", *(f"path-a{number}" for number in range(2, count + 1))):
        smoke = load(folder / name / "SMOKE.md")
        assert isinstance(smoke, Smoke)
        caught.append(next((one.name for one in smoke.probes if one.verdict == "fail"), None))
        assert not (folder / name / "ckpts").exists()
    assert caught == [FAILS[BUGS.index(bug)] for bug in made]
    assert (folder / f"path-a{count + 1}" / "ckpts" / "best.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "code"), [("20k", 4), ("600k", 0)]
)  # 20k teach too little for any verification
def test_the_same_author_behind_chat_completions_gets_there_too(
    tokens: str, code: int, service: LoopbackModels, config: Path, runs_dir: Path
) -> None:
    answer = run("openai", service, config, runs_dir, "--max-retries", "1", tokens=tokens)
    assert answer.code == code, answer.err
    verify = load(runs_dir / SLUG / "path-a2" / "VERIFY.md")
    assert isinstance(verify, Verify)
    assert verify.passed == (code == 0)
    research = load(runs_dir / SLUG / "RESEARCH.md")
    assert isinstance(research, Research)
    assert "arxiv.org: no network" in research.not_reached
    stages = [use.stage for use in _budget(runs_dir).model_use]
    assert stages == ["restate", "research", "plan", "implement a", "diagnose a", "implement a2"]


def test_killed_again_and_again_it_asks_nothing_twice_that_was_answered(
    service: LoopbackModels, config: Path, runs_dir: Path
) -> None:
    command = [
        *(sys.executable, "-m", "ml_intern_cli", "run", f"{SENTENCE}, tokens 20k", *ARGUMENTS),
        *("--brain", "anthropic", "--until", "implement", "--runs-dir", str(runs_dir)),
    ]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", **environment("anthropic", service, config)}
    kills = 0
    for patience_s in (2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0, 240.0):
        process = subprocess.Popen(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(patience_s)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 2
    told = [row for row in read_rows(runs_dir / SLUG / "session.jsonl") if row["type"] == "assistant"]
    assert len(told) == len({row["message"]["id"] for row in told}) == 6  # restate, plan, four of implement
    assert len(service.requests) - len(told) <= kills  # a reply on its way when the process died
    counted = [one.tokens for one in service.requests if one.tokens]
    assert sum(use.tokens_out for use in _budget(runs_dir).model_use) >= sum(one.output for one in counted)


@pytest.mark.slow
def test_a_recorded_session_plays_the_run_again_without_a_key(
    service: LoopbackModels, config: Path, runs_dir: Path
) -> None:
    until = ("--until", "implement")
    first = run("anthropic", service, config, runs_dir, *until, tokens="20k")
    assert first.code == 0, first.err
    arguments = [one for one in ARGUMENTS if one not in {"--model", "scripted"}]
    brain = ("--brain", f"replay:{runs_dir / SLUG / 'session.jsonl'}")
    other_dir = runs_dir.with_name("again")
    again = ml_intern("run", f"{SENTENCE}, tokens 20k", *arguments, *until, *brain, runs_dir=other_dir)
    assert again.code == 0, again.err
    for name in ("path-a/model.py", "path-a/config.json", "path-a/CODE.md"):
        assert (other_dir / SLUG / name).read_bytes() == (runs_dir / SLUG / name).read_bytes()
    assert _budget(other_dir).usd_used == 0


@dataclass
class TwoPaths(Author):
    """Names two paths, and writes the code of either only once it is asked for both."""

    both_are_asked_for: Barrier = field(default_factory=lambda: Barrier(2, timeout=120))

    def hand_in_paths(self, incoming: Incoming) -> Act:
        path = super().hand_in_paths(incoming).arguments["paths"][0]
        slow = path | {"variant": "slow-averages", "approach": "averages that forget slowly"}
        return Call("hand_in_paths", {"paths": [path, slow]})

    def hand_in_code(self, incoming: Incoming) -> Act:
        if incoming.turns == 0:
            self.both_are_asked_for.wait()
        return super().hand_in_code(incoming)


@pytest.mark.slow
def test_the_code_of_two_paths_is_written_at_the_same_time_under_one_budget(
    config: Path, runs_dir: Path
) -> None:
    two = ("--max-paths", "2", "--parallel", "2", "--until", "implement")
    with LoopbackModels(TwoPaths()) as service:
        answer = run("anthropic", service, config, runs_dir, *two, tokens="20k")
    assert answer.code == 0, answer.err
    folder = runs_dir / SLUG
    plan = load(folder / "PLAN.md")
    assert isinstance(plan, Plan)
    assert [path.variant for path in plan.paths] == ["dense-averages", "slow-averages"]
    for path in plan.paths:  # each was timed, and neither's numbers got lost in the other's
        train_config = json.loads((folder / f"path-{path.id}" / "train_config.json").read_text())
        assert train_config["steps"] == path.steps
    budget = _budget(runs_dir)
    assert {use.stage: use.calls for use in budget.model_use} == {
        "restate": 1, "plan": 1, "implement a": 4, "implement b": 4,
    }  # fmt: skip
    assert sum(use.tokens_out for use in budget.model_use) == sum(
        one.tokens.output for one in service.requests if one.tokens
    )
    states_now = states(ml_intern("status", SLUG, "--json", runs_dir=runs_dir).json)
    assert {states_now["implement a"], states_now["implement b"]} == {"done"}


def test_without_its_service_a_run_stops_resumable_or_falls_back_where_that_is_honest(
    config: Path, runs_dir: Path
) -> None:
    with LoopbackModels(lambda _: Status(401)) as refusing:
        asked = ("run", SENTENCE, *ARGUMENTS, "--brain", "anthropic")
        surroundings = environment("anthropic", refusing, config)
        answer = ml_intern(*asked, runs_dir=runs_dir, env=surroundings)
        assert answer.code == 3
        assert "could not be asked" in answer.out
        assert "--brain blueprint" in (runs_dir / SLUG / "BLOCKER.md").read_text()
        fallen = ml_intern(*asked, "--fall-back", runs_dir=runs_dir, env=surroundings)
        assert fallen.code == 3  # no blueprint is a decoder with averages, and none is passed off as one
        assert "without a language model only blueprints can be built" in fallen.out + fallen.err


def _budget(runs_dir: Path) -> Budget:
    budget = load(runs_dir / SLUG / "BUDGET.md")
    assert isinstance(budget, Budget)
    return budget
