"""A process that dies at any instant: nothing is paid for twice, and nothing goes uncounted."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from ml_intern_cli.brains.agent.session import Session
from ml_intern_cli.runs import files
from ml_intern_cli.runs.files import JsonLines
from tests.loopback_models import Call, Calls, Say
from tests.model_work import MODEL, PRICE, Work, job, recorder

SCRIPT = [
    Call("look", {"word": "a"}, text="I look."),
    Calls((Call("look", {"word": "b"}), Call("write", {"word": "c"}), Call("look", {"word": "d"}))),
    Call("hand_in", {"value": 42}),
]


class Killed(BaseException):
    """The process is gone."""


def _tools(calls: list[str]) -> tuple[Any, ...]:
    return recorder("look", calls), recorder("write", calls, read_only=False)


@pytest.mark.parametrize("after_writing", [False, True])
def test_killed_at_every_write_it_goes_on_without_paying_twice(
    begin: Any, monkeypatch: pytest.MonkeyPatch, after_writing: bool
) -> None:
    append = files.append_line
    for instant in range(1, 40):
        work: Work = begin(lambda incoming: SCRIPT[incoming.turns])  # asked the same, it says the same
        for file in (work.layout.session, work.layout.events):
            file.unlink(missing_ok=True)
        left = instant

        def dying(path: Any, text: str) -> None:
            nonlocal left
            left -= 1
            if left == 0 and not after_writing:
                raise Killed
            append(path, text)
            if left == 0:
                raise Killed

        for module in (files, __import__("ml_intern_cli.runs.events", fromlist=["events"])):
            monkeypatch.setattr(module, "append_line", dying)
        calls: list[str] = []
        died = False
        try:
            work.agent().work(job(*_tools(calls)))
        except Killed:
            died = True
        monkeypatch.undo()
        assert work.agent().work(job(*_tools(calls))) == 42
        # One reply can be lost with the process that received it; no other is asked for again.
        reply_lost = len(work.server.requests) - len(SCRIPT)
        assert reply_lost in {0, 1}
        told = [row for row in work.rows() if row["type"] == "assistant"]
        assert len(told) == len(SCRIPT)
        assert work.budget.usd_used >= work.served_usd() - 1e-6
        if not _unanswered(work):
            assert work.budget.usd_used == pytest.approx(work.served_usd(), abs=1e-6)
        if not died:
            assert sorted(calls) == ["a", "b", "c", "d"]
            assert instant > 10  # it did die at many instants before
            return
    pytest.fail("the work never ended")


def _unanswered(work: Work) -> set[str]:
    """Calls that a process began and did not live to see the end of."""
    rows = list(files.read_rows(work.layout.events))
    ids = {
        kind: {row["data"]["id"] for row in rows if row["event_type"] == kind}
        for kind in ("model_call", "model_reply")
    }
    return ids["model_call"] - ids["model_reply"]


def test_a_torn_last_row_is_as_if_it_had_not_been_written(begin: Any) -> None:
    calls: list[str] = []
    work: Work = begin([*SCRIPT[:1], *SCRIPT])
    with pytest.raises(Killed):
        work.agent(tell=_dies_at("look")).work(job(*_tools(calls)))
    text = work.layout.session.read_text()
    work.layout.session.write_text(text[: len(text) - 40])
    assert work.agent().work(job(*_tools(calls))) == 42


def _dies_at(what: str) -> Any:
    def tell(_: str, line: str) -> None:
        if line.startswith(what):
            raise Killed

    return tell


def test_another_task_begins_another_conversation(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "a"}), Call("hand_in", {"value": 42})])
    with suppress(Killed):
        work.agent(tell=_dies_at("look")).work(job(*_tools([])))
    assert work.agent().work(job(*_tools([]), task="Find another.")) == 42
    assert len(work.server.requests[1].incoming.messages) == 1


def test_once_written_down_the_next_conversation_of_a_stage_begins_afresh(begin: Any) -> None:
    work: Work = begin([Call("hand_in", {"value": 42}), Call("hand_in", {"value": 43})])
    agent = work.agent()
    assert agent.work(job()) == 42
    assert work.agent().work(job()) == 42  # the stage that asked was killed: the same answer, for nothing
    assert len(work.server.requests) == 1
    agent.session.settle(job().stage)
    assert work.agent().work(job()) == 43


@pytest.mark.parametrize("spoil", ["[]", '{"agentId": 1}', '{"type": "user"}', "null", "\x00"])
def test_what_others_wrote_into_the_session_is_passed_over(begin: Any, spoil: str) -> None:
    work: Work = begin([Call("look", {"word": "a"}), Call("hand_in", {"value": 42})])
    with suppress(Killed):
        work.agent(tell=_dies_at("look")).work(job(*_tools([])))
    with work.layout.session.open("a") as file:
        file.write(spoil + "\n")
    assert work.agent().work(job(*_tools([]))) == 42
    assert len(work.server.requests) == 2


def test_a_session_that_was_edited_into_nonsense_begins_afresh(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "a"}), Call("hand_in", {"value": 42})])
    with suppress(Killed):
        work.agent(tell=_dies_at("look")).work(job(*_tools([])))
    rows = [row | ({"message": {"content": 7}} if row["type"] == "assistant" else {}) for row in work.rows()]
    work.layout.session.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert work.agent().work(job(*_tools([]))) == 42


def test_the_rows_are_those_of_a_transcript_that_viewers_read(begin: Any) -> None:
    work: Work = begin([Call("look", {"word": "a"}, text="I look."), Call("hand_in", {"value": 42})])
    work.agent().work(job(*_tools([])))
    rows = work.rows()
    assert [row["type"] for row in rows] == ["user", "assistant", "user", "assistant", "user"]
    for before, row in zip([None, *rows], rows, strict=False):
        assert row["parentUuid"] == (before["uuid"] if before else None)
        assert {"sessionId", "uuid", "timestamp", "cwd", "version", "userType", "isSidechain"} <= row.keys()
        assert row["message"]["role"] == row["type"]
    assert rows[1]["message"]["model"] == MODEL
    assert rows[1]["message"]["usage"]["output_tokens"] > 0
    kinds = [[block["type"] for block in row["message"]["content"]] for row in rows]
    assert kinds == [["text"], ["text", "tool_use"], ["tool_result"], ["tool_use"], ["tool_result"]]


def test_what_a_call_can_cost_is_counted_while_it_is_not_known(begin: Any) -> None:
    work: Work = begin([Say("…")])
    purse = work.agent().purse
    allowance = purse.allow("plan", work.model(), tokens_in=1000, max_tokens=2000, calls=0)
    again = work.agent().purse  # of a process that finds the call unanswered
    again.allow("plan", work.model(), tokens_in=10, max_tokens=1024, calls=0)
    at_most = (1000 * PRICE.input + 2000 * PRICE.output) / 1e6
    from ml_intern_cli.runs.money import model_use

    (use,) = model_use(work.layout)
    assert use.usd >= at_most
    assert allowance.max_tokens == 2000
    assert Session(JsonLines(work.layout.session)) is not None
