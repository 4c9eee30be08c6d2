"""Money, tokens and calls: asked for before each call, from records that only the program writes."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from ml_intern_cli.brains.models.prices import Price
from ml_intern_cli.errors import Blocked
from ml_intern_cli.runs.money import model_use
from tests.loopback_models import Act, Call, Incoming
from tests.model_work import PRICE, Work, job, recorder

READING = [Call("look", {"word": str(number)}) for number in range(50)]


def test_a_call_that_could_cost_more_than_is_left_is_not_made(begin: Any) -> None:
    work: Work = begin(READING, max_usd=0.02)  # a reply of 1,024 tokens costs 0.01
    with pytest.raises(Blocked, match="no money") as stopped:
        work.agent().work(job(recorder("look", [])))
    assert stopped.value.exit_code == 3
    assert "--max-usd" in stopped.value.ways_on[0]
    assert 0 < len(work.server.requests) < len(READING)
    assert work.served_usd() <= work.budget.usd_used + 1e-9 <= 0.02
    # Whatever the reply had come to, it would have been within the cap.
    last = work.server.requests[-1]
    assert last.body.get("max_tokens", last.body.get("max_completion_tokens")) < 2000


@pytest.mark.parametrize("cap_usd", [0.03, 5.0])
def test_conversations_side_by_side_share_the_money(begin: Any, cap_usd: float) -> None:
    both_talk = Barrier(2, timeout=60)

    def script(incoming: Incoming) -> Act:
        if incoming.turns == 0 and cap_usd > 1.0:
            both_talk.wait()
        if incoming.turns < 15:
            return Call("look", {"word": f"{incoming.first_text} {incoming.turns}"})
        return Call("hand_in", {"value": 42})

    work: Work = begin(script, max_usd=cap_usd)
    agent = work.agent()

    def talk(stage: str) -> int | None:
        try:
            return agent.work(job(recorder("look", []), stage=stage, task=f"Find it for {stage}."))
        except Blocked:
            return None

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(talk, ("implement a", "implement b")))
    budget = work.budget
    assert work.served_usd() <= budget.usd_used + 1e-9 <= cap_usd
    if cap_usd < 1.0:  # a first call sets all of it aside, and yet both got on with what came back
        assert None in answers
        assert {use.stage for use in budget.model_use if use.calls > 3} == {"implement a", "implement b"}
        return
    assert answers == [42, 42]
    assert {use.stage: use.calls for use in budget.model_use} == {"implement a": 16, "implement b": 16}
    assert len(work.server.requests) == 32
    assert budget.usd_used == pytest.approx(work.served_usd(), abs=1e-6)
    assert budget.usd_used == pytest.approx(sum(use.usd for use in budget.model_use), abs=1e-6)
    # Each goes on from its own rows, however they are mixed in the file.
    talks = {row["agentId"] for row in work.rows()}
    assert len(talks) == 2
    for one in talks:
        rows = [row for row in work.rows() if row["agentId"] == one]
        assert [row["parentUuid"] for row in rows] == [None, *(row["uuid"] for row in rows[:-1])]


def test_with_more_money_it_goes_on_from_there(begin: Any) -> None:
    work: Work = begin([*READING[:2], Call("hand_in", {"value": 42})], max_usd=0.011)
    calls: list[str] = []
    with pytest.raises(Blocked, match="no money"):
        work.agent().work(job(recorder("look", calls)))
    text = (work.root / "BUDGET.md").read_text().replace("= 0.011 ", "= 5 ")
    (work.root / "BUDGET.md").write_text(text)
    assert work.agent().work(job(recorder("look", calls))) == 42
    assert calls == ["0", "1"]


def test_no_money_at_all_means_no_call(begin: Any) -> None:
    work: Work = begin(READING, max_usd=0)
    with pytest.raises(Blocked, match="no money"):
        work.agent().work(job())
    assert work.server.requests == []


def test_a_free_model_is_called_without_money_or_consent(begin: Any) -> None:
    work: Work = begin([Call("hand_in", {"value": 42})], max_usd=0)
    work.prices = {"test-*": Price(input=0, output=0, cache_read=0, cache_write=0)}
    assert work.agent().work(job()) == 42
    assert work.approved == []


def test_a_model_without_a_known_price_is_not_called(begin: Any) -> None:
    work: Work = begin(READING)
    work.prices = {}
    with pytest.raises(Blocked, match="price of test-model is not known") as stopped:
        work.agent().work(job())
    assert '[prices."test-model"]' in stopped.value.ways_on[0]
    assert work.server.requests == []


def test_somebody_at_the_terminal_is_asked_once_before_money_is_spent(begin: Any) -> None:
    work: Work = begin([*READING[:2], Call("hand_in", {"value": 42})])
    assert work.agent().work(job(recorder("look", []))) == 42
    assert work.approved == [f"spend up to $5 on {work.model().service} test-model"]

    unwilling: Work = begin(READING)
    unwilling.consent = False
    with pytest.raises(Blocked, match="you said no"):
        unwilling.agent().work(job(stage="plan"))
    assert unwilling.server.requests == []


def test_the_calls_of_a_conversation_are_capped_across_restarts(begin: Any) -> None:
    work: Work = begin(READING, max_model_calls=3)
    for _ in range(2):
        with pytest.raises(Blocked, match="has called the language model 3 times"):
            work.agent().work(job(recorder("look", [])))
    assert len(work.server.requests) == 3


def test_tokens_are_capped(begin: Any) -> None:
    work: Work = begin(READING, max_model_tokens=4000)
    with pytest.raises(Blocked, match="max_model_tokens"):
        work.agent().work(job(recorder("look", [])))
    assert sum(one.tokens_in + one.tokens_out for one in model_use(work.layout)) <= 4000


def test_the_budget_shows_tokens_and_dollars_by_stage(begin: Any) -> None:
    work: Work = begin([READING[0], Call("hand_in", {"value": 42})])
    work.agent().work(job(recorder("look", [])))
    (use,) = work.budget.model_use
    counted = [one.tokens for one in work.server.requests]
    assert (use.stage, use.calls) == ("implement a", 2)
    assert use.tokens_in == sum(one.fresh + one.read + one.written for one in counted)
    assert use.tokens_out == sum(one.output for one in counted)
    assert use.usd == pytest.approx(work.served_usd(), abs=1e-6)
    assert work.budget.usd_used == use.usd
    assert "implement a = 2 calls, " in (work.root / "BUDGET.md").read_text()


def test_a_lowered_sum_in_the_budget_buys_nothing(begin: Any) -> None:
    work: Work = begin(READING, max_usd=0.02)
    with pytest.raises(Blocked):
        work.agent().work(job(recorder("look", [])))
    text = (work.root / "BUDGET.md").read_text()
    lowered = re.sub(r"(?m)^usd_used .*$", "usd_used = 0", text)
    assert lowered != text
    (work.root / "BUDGET.md").write_text(lowered)
    before = len(work.server.requests)
    with pytest.raises(Blocked, match="no money"):
        work.agent().work(job(recorder("look", [])))
    assert len(work.server.requests) == before


@pytest.mark.parametrize(
    "row",
    [
        {"event_type": "model_call", "data": {"id": "x", "stage": "plan", "usd": -5}},
        {"event_type": "model_call", "data": {"id": "x", "stage": "../plan", "usd": 1}},
        {"event_type": "model_reply", "data": {"id": "never asked", "usd": 1}},
        {"event_type": "model_call", "data": {"id": ["x"], "usd": 1}},
        {"event_type": "model_call", "data": None},
    ],
)
def test_what_others_wrote_into_the_events_neither_counts_nor_stops(begin: Any, row: Any) -> None:
    work: Work = begin([Call("hand_in", {"value": 42})])
    work.layout.events.write_text(json.dumps(row) + "\n")
    assert work.agent().work(job()) == 42
    assert work.budget.usd_used == pytest.approx(work.served_usd(), abs=1e-6)


def test_the_cap_counts_the_dearer_price_of_a_long_prompt(begin: Any) -> None:
    dear = Price(input=100.0, output=1000.0, cache_read=100.0, cache_write=100.0)
    work: Work = begin(READING, max_usd=0.05)
    work.prices = {
        "test-model": Price(
            input=PRICE.input,
            output=PRICE.output,
            cache_read=PRICE.cache_read,
            cache_write=PRICE.cache_write,
            long_above=10,
            long=dear,
        )
    }
    with pytest.raises(Blocked, match="no money"):
        work.agent().work(job())
    assert work.server.requests == []
