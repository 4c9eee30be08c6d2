"""A recorded session, played back through the same loop and tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.agent.loop import ServiceFailed
from ml_intern_cli.brains.models.replay import ReplayedModel
from ml_intern_cli.errors import InvalidInput
from tests.loopback_models import Call, Incoming, LoopbackModels, Say, Think
from tests.model_work import Work, job, recorder

SCRIPT = [
    Think("where to look?", Call("look", {"word": "a"})),
    Call("look", {"word": "b"}, text="Now there."),
    Call("hand_in", {"value": 42}),
]


def _replay(work: Work, recording: Path, root: Path) -> Work:
    again = Work(root, work.server, work.wire)
    again.write_budget(max_usd=0)
    return again


def _said(work: Work) -> list[Any]:
    return [row["message"]["content"] for row in work.rows() if row["type"] in {"user", "assistant"}]


def test_it_says_the_same_again_without_a_call_or_a_cent(begin: Any, tmp_path: Path) -> None:
    work: Work = begin(SCRIPT)
    work.agent().work(job(recorder("look", [])))
    requests = len(work.server.requests)
    again = _replay(work, work.layout.session, tmp_path / "again")
    calls: list[str] = []
    model = ReplayedModel.of(work.layout.session)
    assert again.agent(model).work(job(recorder("look", calls))) == 42
    assert calls == ["a", "b"]  # the tools did run
    assert _said(again) == _said(work)
    assert len(work.server.requests) == requests
    assert again.budget.usd_used == 0


def test_how_long_something_took_is_no_divergence(begin: Any, tmp_path: Path) -> None:
    work: Work = begin(SCRIPT)
    work.agent().work(job(recorder("look", [], answers=["exit code 0, took 1.23 s\nok"])))
    again = _replay(work, work.layout.session, tmp_path / "again")
    slower = recorder("look", [], answers=["exit code 0, took 9.87 s\nok"])
    assert again.agent(ReplayedModel.of(work.layout.session)).work(job(slower)) == 42


def test_a_tool_that_answers_otherwise_is_reported_at_its_step(begin: Any, tmp_path: Path) -> None:
    work: Work = begin(SCRIPT)
    work.agent().work(job(recorder("look", [], answers=["exit code 0"])))
    again = _replay(work, work.layout.session, tmp_path / "again")
    other = recorder("look", [], answers=["exit code 0", "exit code 1"])
    with pytest.raises(ServiceFailed) as stopped:
        again.agent(ReplayedModel.of(work.layout.session)).work(job(other))
    assert "step 3 of implement a" in stopped.value.why
    assert "recorded “exit code 0”, now “exit code 1”" in stopped.value.why


def test_another_task_is_reported_at_the_first_step(begin: Any, tmp_path: Path) -> None:
    work: Work = begin(SCRIPT)
    work.agent().work(job(recorder("look", [])))
    again = _replay(work, work.layout.session, tmp_path / "again")
    with pytest.raises(ServiceFailed, match="step 1 of implement a"):
        again.agent(ReplayedModel.of(work.layout.session)).work(job(task="Find another."))


@pytest.mark.parametrize("kept", [1, 2])
def test_a_record_that_was_cut_off_is_said_to_end(begin: Any, kept: int, tmp_path: Path) -> None:
    work: Work = begin(SCRIPT)
    work.agent().work(job(recorder("look", [])))
    lines = work.layout.session.read_text().splitlines()
    answers = [number for number, row in enumerate(work.rows()) if row["type"] == "assistant"]
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join([*lines[: answers[kept]], lines[answers[kept]][:40]]))
    again = _replay(work, cut, tmp_path / "again")
    with pytest.raises(ServiceFailed, match=f"the record of implement a ends with step {kept}"):
        again.agent(ReplayedModel.of(cut)).work(job(recorder("look", [])))


def test_a_compacted_conversation_is_replayed_too(tmp_path: Path) -> None:
    def act(incoming: Incoming) -> Any:
        if not incoming.tools:
            return Say("words were read; the number is 42")
        found = "the number is 42" in incoming.first_text
        return Call("hand_in", {"value": 42}) if found else Call("look", {"word": f"page {incoming.turns}"})

    def pages() -> Any:
        return recorder("look", [], answers=[f"{number} " + "text " * 400 for number in range(50)])

    with LoopbackModels(act) as server:
        work = Work(tmp_path / "run", server, "openai", context_tokens=6_000)
        work.write_budget()
        assert work.agent().work(job(pages())) == 42
        again = _replay(work, work.layout.session, tmp_path / "again")
        assert again.agent(ReplayedModel.of(work.layout.session)).work(job(pages())) == 42
    assert any(row.get("subtype") == "compact_boundary" for row in work.rows())
    assert _said(again) == _said(work)


@pytest.mark.parametrize("text", ["", "no json\n", '{"type": "user"}\n', '{"agentId": "a"}\n', "\x00\xff"])
def test_a_file_that_is_no_session_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "session.jsonl"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match="session"):
        ReplayedModel.of(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        ReplayedModel.of(tmp_path / "none.jsonl")
