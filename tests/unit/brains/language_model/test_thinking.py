"""Restating, research and planning by a language model: what it may say, and what goes back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.language_model.planning import paths_with
from ml_intern_cli.brains.language_model.researching import research_with
from ml_intern_cli.brains.language_model.restating import restate_with
from ml_intern_cli.brains.protocol import Overrides
from ml_intern_cli.brains.reader import read
from ml_intern_cli.documents.task import Task
from ml_intern_cli.errors import Blocked
from tests.examples import RESEARCH, TASK
from tests.loopback_models import Act, Call, LoopbackModels
from tests.model_work import Work, recorder
from tests.scripted_brain import SENTENCE

NEW = TASK.model_copy(update={"architecture": "average-decoder", "starts_from": "deepseek-v3"})
RESTATED = {
    "title": "a decoder that mixes by decaying averages",
    "architecture": "average-decoder",
    "starts_from": "deepseek-v3",
    "difference": "Averages instead of attention.",
}
PATH = {"variant": "dense", "approach": "one dense product", "hypothesis": "it is enough", "why": "simple"}


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Any]:
    """Begins a service with a script and gives the agent that talks to it."""
    with ExitStack() as stack:

        def begin(*acts: Act) -> Work:
            server = stack.enter_context(LoopbackModels(list(acts)))
            started = Work(tmp_path / "run", server, "anthropic")
            started.write_budget()
            return started

        yield begin


def _restate(work: Work, sentence: str = SENTENCE, **overrides: Any) -> Task:
    reading = read(sentence, spellings=blueprints.spellings(), arxiv_ids=blueprints.arxiv_ids())
    return restate_with(work.agent(), reading, Overrides(**overrides), root=None)


def _sent_back(work: Work) -> list[str]:
    return [result for one in work.server.requests for result in one.incoming.last_results]


def test_something_new_is_restated_with_what_it_starts_from_and_how_it_differs(work: Any) -> None:
    task = _restate(work(Call("hand_in_task", RESTATED)))
    assert (task.architecture, task.starts_from, task.blueprint) == (
        "average-decoder",
        "deepseek-v3",
        "deepseek-v3",
    )
    assert (task.params, task.dataset) == (500_000, "builtin:stories")  # read by the rules
    assert task.restatement.startswith(
        "Implement a decoder that mixes by decaying averages at 500k parameters"
    )
    assert task.restatement.endswith("Averages instead of attention.")
    assert task.request == SENTENCE


def test_another_number_than_the_sentences_goes_back(work: Any) -> None:
    started = work(Call("hand_in_task", RESTATED | {"params": 5_000_000}), Call("hand_in_task", RESTATED))
    assert _restate(started).params == 500_000
    assert "params: the request says 500000, not 5000000" in _sent_back(started)[0]


def test_a_number_that_only_the_model_read_is_marked_as_its_reading(work: Any) -> None:
    sentence = "implement a decoder with decaying averages as large as a hundredth of GPT-2 medium"
    task = _restate(work(Call("hand_in_task", RESTATED | {"params": 3_550_000})), sentence)
    assert task.params == 3_550_000
    assert ("params", "3550000", "so test-model reads the sentence") in {
        (one.name, one.value, one.why) for one in task.assumptions
    }


def test_options_win_over_what_the_model_read(work: Any) -> None:
    sentence = "implement a decoder with decaying averages"
    task = _restate(work(Call("hand_in_task", RESTATED | {"params": 3_000_000})), sentence, params=1_000_000)
    assert task.params == 1_000_000


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"starts_from": "gpt-9"}, "starts_from: must be one of"),
        ({"difference": " "}, "difference: must be given"),
        ({"architecture": "deepseek-v3"}, "architecture: is a blueprint's name"),
        ({"architecture": "Not a slug"}, "architecture: String should match pattern"),
        ({"params": -4}, "params: Input should be greater than 0"),
    ],
)
def test_what_does_not_hold_goes_back_with_the_reason(work: Any, wrong: dict, reason: str) -> None:
    started = work(Call("hand_in_task", RESTATED | wrong), Call("hand_in_task", RESTATED))
    assert _restate(started).architecture == "average-decoder"
    assert reason in _sent_back(started)[0]


def test_what_the_program_cannot_do_blocks_with_the_models_reason_and_is_paid_once(work: Any) -> None:
    started = work(Call("hand_in_task", {"cannot": "It asks for an image model, and only text is trained."}))
    for _ in range(2):
        with pytest.raises(Blocked, match="only text is trained"):
            _restate(started, "implement a diffusion model of faces at 10M")
    assert len(started.server.requests) == 1


def test_a_blueprint_as_it_is_stays_one(work: Any) -> None:
    plain = {"plain": True, "starts_from": "deepseek-v3", "not_understood": ["with love"]}
    task = _restate(work(Call("hand_in_task", plain)), "implement DeepSeek-V3 at 1M with love")
    assert (task.architecture, task.starts_from, task.not_understood) == ("deepseek-v3", None, ("with love",))


def test_findings_name_only_pages_that_a_tool_showed(work: Any) -> None:
    true = {"text": "the averages are exponential", "url": "https://arxiv.org/abs/2209.10655"}
    invented = {"text": "it always works", "url": "https://example.org/made-up"}
    started = work(
        Call("search_papers", {"word": "averages"}),
        Call("hand_in_findings", {"findings": [true, invented]}),
        Call("hand_in_findings", {"findings": [true], "not_reached": ["github.com: no network"]}),
    )
    papers = recorder("search_papers", [], answers=["Mega <https://arxiv.org/abs/2209.10655>"])
    known = BlueprintBrain().research(TASK)
    research = research_with(
        started.agent(), NEW, known, (papers,), missed=lambda: ["api.github.com: no network"]
    )
    assert "https://example.org/made-up" in _sent_back(started)[1]
    assert "arxiv.org" not in _sent_back(started)[1]
    assert research.findings[0].url == true["url"]
    assert research.findings[1:] == known.findings
    assert research.not_reached == ("github.com: no network", "api.github.com: no network")


def test_paths_are_lettered_and_distinct_and_within_the_budget(work: Any) -> None:
    other = PATH | {"variant": "scan"}
    started = work(
        Call("hand_in_paths", {"paths": [PATH, PATH, PATH | {"variant": "own"}]}),
        Call("hand_in_paths", {"paths": [PATH, other]}),
    )
    paths = paths_with(started.agent(), NEW, RESEARCH, variants=("own", "transformers"), max_paths=2)
    assert [(path.id, path.variant) for path in paths] == [("a", "dense"), ("b", "scan")]
    (refused, *_) = _sent_back(started)
    assert "variant dense: comes twice" in refused
    assert "variant own: exists already" in refused
    assert "paths: at most 2" in refused
