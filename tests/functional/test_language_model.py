"""A task that no blueprint knows, from sentence to verified model, against a loopback service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.registry import load
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.task import Task
from tests.loopback_models import LoopbackModels
from tests.scripted_brain import SENTENCE, SLUG, Author
from tests.small_runs import Answer, ml_intern

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
