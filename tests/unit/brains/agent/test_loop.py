"""The loop: tools, handing in, circles, limits, and what a service can do wrong; over both wire formats."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from ml_intern_cli.brains.agent.loop import ServiceFailed
from ml_intern_cli.brains.tools.tool import ToolFailed, tool
from ml_intern_cli.errors import Blocked, StorageFailed
from tests.loopback_models import (
    BadArguments,
    Call,
    Calls,
    CutShort,
    Drop,
    ErrorEvent,
    Incoming,
    Overflow,
    Refuse,
    Say,
    Status,
)
from tests.model_work import Word, Work, job, recorder

DONE = Call("hand_in", {"value": 42})


def test_tools_are_run_and_what_is_handed_in_comes_back(begin: Any) -> None:
    calls: list[str] = []
    work: Work = begin([Call("look", {"word": "fox"}), DONE])
    assert work.agent().work(job(recorder("look", calls))) == 42
    assert calls == ["fox"]
    assert work.server.requests[-1].incoming.last_results == ("look saw fox",)


def test_what_does_not_validate_goes_back_with_all_reasons(begin: Any) -> None:
    work: Work = begin([Call("hand_in", {"value": 3, "extra": 1}), Call("hand_in", {"value": 13}), DONE])
    assert work.agent().work(job()) == 42
    first, second = (one.incoming.last_results[0] for one in work.server.requests[1:])
    assert "value: Input should be greater than or equal to 10" in first
    assert "extra: Extra inputs are not permitted" in first
    assert second.endswith("13 is not taken")


def test_what_never_validates_is_stopped_after_four_times_and_begins_afresh(begin: Any) -> None:
    work: Work = begin([Call("hand_in", {"value": number}) for number in range(4)] + [DONE])
    with pytest.raises(Blocked, match="did not hold 4 times"):
        work.agent().work(job())
    assert len(work.server.requests) == 4
    assert work.agent().work(job()) == 42
    assert len(work.server.requests[-1].incoming.messages) == 1  # nothing of the first attempt is told


def test_arguments_that_are_no_json_are_told_to_the_model(begin: Any) -> None:
    work: Work = begin([BadArguments("hand_in", '{"value": 4'), DONE])
    assert work.agent().work(job()) == 42
    assert "value: Field required" in work.server.requests[-1].incoming.last_results[0]


def test_an_unknown_tool_is_answered_with_those_there_are(begin: Any) -> None:
    work: Work = begin([Call("fly", {}), DONE])
    assert work.agent().work(job(recorder("look", []))) == 42
    (answer,) = work.server.requests[-1].incoming.last_results
    assert answer.endswith("there is no tool 'fly'; there are: look, hand_in")


def test_a_tool_that_fails_is_an_answer(begin: Any) -> None:
    def fail(_: Word) -> str:
        raise ToolFailed("no such file")

    work: Work = begin([Call("look", {"word": "x"}), DONE])
    assert work.agent().work(job(tool("look", "", Word, fail, read_only=True))) == 42
    (answer,) = work.server.requests[-1].incoming.last_results
    assert answer.endswith("no such file")


def test_a_tool_that_breaks_is_an_answer_too_and_a_full_disk_is_none(begin: Any) -> None:
    def broken(_: Word) -> str:
        raise KeyError("nobody thought of that")

    work: Work = begin([Call("look", {"word": "x"}), DONE])
    assert work.agent().work(job(tool("look", "", Word, broken, read_only=True))) == 42
    (answer,) = work.server.requests[-1].incoming.last_results
    assert "look failed: KeyError" in answer

    def full(_: Word) -> str:
        raise StorageFailed("the disk is full")

    other: Work = begin([Call("look", {"word": "x"}), DONE])
    with pytest.raises(StorageFailed):
        other.agent().work(job(tool("look", "", Word, full, read_only=True), stage="implement b"))


def test_read_only_tools_run_side_by_side_and_writing_ones_in_order(begin: Any) -> None:
    together = threading.Barrier(2, timeout=5)
    order: list[str] = []

    def read(given: Word) -> str:
        together.wait()  # each waits for the other
        return given.word

    def write(given: Word) -> str:
        order.append(given.word)
        time.sleep(0.01)
        return given.word

    tools = (
        tool("read", "", Word, read, read_only=True),
        tool("write", "", Word, write, read_only=False),
    )
    calls = (*(Call("read", {"word": one}) for one in "ab"), *(Call("write", {"word": one}) for one in "cd"))
    work: Work = begin([Calls(calls), DONE])
    assert work.agent().work(job(*tools)) == 42
    assert order == ["c", "d"]
    assert work.server.requests[-1].incoming.last_results == ("a", "b", "c", "d")


def test_secrets_do_not_reach_the_model(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "x"}), DONE])
    leak = recorder("look", [], answers=["the key is hunter2hunter2, the token hf_" + "a1" * 17])
    work.agent(secrets=("hunter2hunter2",)).work(job(leak))
    answer = work.server.requests[-1].incoming.last_results[0]
    assert "hunter2" not in answer
    assert "hf_a1" not in answer
    assert "hunter2" not in work.layout.session.read_text()


def test_words_alone_are_asked_to_act_and_stopped_after_three(begin: Any) -> None:
    work: Work = begin([Say("I have done it all."), Say("It works."), DONE])
    assert work.agent().work(job()) == 42
    assert "Nothing is done until a tool does it" in work.server.requests[1].incoming.text
    assert [one.incoming.forced for one in work.server.requests] == [None, "hand_in", "hand_in"]

    claims = begin([Say("Done, all tests pass."), Say("Done."), Say("Done!"), DONE])
    with pytest.raises(Blocked, match="talks and does nothing"):
        claims.agent().work(job(stage="implement b"))


def test_a_reply_that_was_cut_is_said_to_be(begin: Any) -> None:
    work: Work = begin([CutShort("and then"), DONE])
    assert work.agent().work(job()) == 42
    assert "cut off at its limit" in work.server.requests[-1].incoming.text


def test_the_same_call_with_the_same_result_is_redirected_once_then_stopped(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "x"})] * 6)
    with pytest.raises(Blocked, match="goes in circles"):
        work.agent().work(job(recorder("look", [])))
    assert len(work.server.requests) == 6
    assert "You are going in circles" in work.server.requests[3].incoming.text
    assert all("circles" not in one.incoming.text for one in work.server.requests[:3])


def test_a_cycle_of_several_calls_is_a_circle_too(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": one}) for one in "abcabcabc"] + [DONE])
    assert work.agent().work(job(recorder("look", []))) == 42
    assert "You are going in circles" in work.server.requests[9].incoming.text


def test_polling_something_that_changes_is_no_circle(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "log"})] * 8 + [DONE])
    answers = [f"step {number}" for number in range(8)]
    assert work.agent().work(job(recorder("look", [], answers=answers))) == 42
    assert not any("circles" in one.incoming.text for one in work.server.requests)


@pytest.mark.parametrize("fault", [Status(529), Status(500), Drop(Say("half"), 2), ErrorEvent()])
def test_what_passes_is_asked_again(begin: Any, fault: Any) -> None:
    work: Work = begin([fault, fault, DONE])
    assert work.agent().work(job()) == 42
    assert len(work.waits) == 2


def test_the_service_says_how_long_to_wait(begin: Any) -> None:
    work: Work = begin([Status(429, retry_after=7), DONE])
    assert work.agent().work(job()) == 42
    assert work.waits == [7.0]


def test_a_service_that_stays_away_stops_the_work_which_later_goes_on(begin: Any) -> None:
    calls: list[str] = []
    script = [Call("look", {"word": "x"}), *[Status(529)] * 6, DONE]
    work: Work = begin(script)
    with pytest.raises(ServiceFailed) as stopped:
        work.agent().work(job(recorder("look", calls)))
    assert stopped.value.exit_code == 3
    assert work.agent().work(job(recorder("look", calls))) == 42
    assert calls == ["x"]  # not done again


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_waiting_does_not_help_is_asked_once(begin: Any, status: int) -> None:
    work: Work = begin([Status(status), DONE])
    with pytest.raises(ServiceFailed):
        work.agent().work(job())
    assert len(work.server.requests) == 1
    assert work.waits == []


def test_a_refusal_stops_with_its_words(begin: Any) -> None:
    work: Work = begin([Refuse("I will not build that.")])
    with pytest.raises(Blocked, match="refuses"):
        work.agent().work(job())


def _overflowing(most_chars: int) -> Any:
    """A service whose context is that short: it reads a word many times before it hands in."""

    def act(incoming: Incoming) -> Any:
        if "write notes" in incoming.text.lower() or not incoming.tools:
            return Say("words were read; the number is 42")
        size = sum(len(str(message)) for message in incoming.messages)
        if size > most_chars:
            return Overflow()
        if "the number is 42" in incoming.first_text:
            return DONE
        return Call("look", {"word": f"page {incoming.turns}"})

    return act


def test_a_conversation_that_outgrows_the_context_is_told_again_shorter(begin: Any) -> None:
    work: Work = begin(_overflowing(12_000))
    pages = recorder("look", [], answers=[f"{number} " + "text " * 400 for number in range(50)])
    assert work.agent().work(job(pages, task="Find the number.\nPLAN: read on.")) == 42
    last = work.server.requests[-1].incoming
    assert "PLAN: read on." in last.first_text
    assert "Notes on the work so far" in last.first_text


def test_a_task_that_never_fits_ends_instead_of_looping(begin: Any) -> None:
    work: Work = begin(_overflowing(10))
    with pytest.raises(Blocked, match="does not fit into the model's context"):
        work.agent().work(job())
    assert len(work.server.requests) < 12
