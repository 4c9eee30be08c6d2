"""What is particular to chat completions: servers that leave things out, and a client that finds tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.models.chat import ChatAnswer, chat_messages
from ml_intern_cli.brains.models.message import (
    Fault,
    ModelError,
    Reply,
    Request,
    Stop,
    Usage,
    tool_calls,
    user_message,
)
from ml_intern_cli.brains.models.openai import PUBLIC_ADDRESS, OpenAIModel
from tests.loopback_models import Call, LoopbackModels, Say, Status

FOUND_TOKEN = "hf_" + "FoundOnThisMachine0000000000000000"


def ask(server: LoopbackModels, **options: Any) -> Reply:
    options = {"name": "loopback", "base_url": server.openai_url, **options}
    request = Request(system="Be exact.", messages=[user_message("Go")], max_tokens=512)
    return OpenAIModel(**options).reply(request, on_text=lambda _: None)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"delta": delta, "finish_reason": finish}], **more}


def taken(*chunks: dict[str, Any]) -> ChatAnswer:
    answer = ChatAnswer([{"role": "user", "content": "x" * 300}])
    for one in chunks:
        answer.take(one)
    return answer


def test_a_token_found_on_this_machine_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants, get_token

    (tmp_path / "token").write_text(FOUND_TOKEN, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert get_token() == FOUND_TOKEN  # the library does find it
    for found_in in ("file", "environment"):
        if found_in == "environment":
            monkeypatch.setenv("HF_TOKEN", FOUND_TOKEN)
        with LoopbackModels([Say("ok")], key=None) as server:
            ask(server)
        (request,) = server.requests
        assert not any(FOUND_TOKEN in value for value in request.headers.values())
        assert request.headers["authorization"] == "Bearer none"


def test_a_key_goes_to_its_server() -> None:
    with LoopbackModels([Say("ok")]) as server:
        ask(server, api_key=f" {server.key}\n")  # as it is when pasted

    assert server.requests[0].headers["authorization"] == f"Bearer {server.key}"


def test_a_server_that_counts_nothing_is_estimated() -> None:
    with LoopbackModels([Say("a" * 30)], counts_tokens=False) as server:
        reply = ask(server, api_key=server.key)

    assert reply.usage.output_tokens == 10
    assert reply.usage.input_tokens > 10


def test_offline_mode_of_the_hub_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with LoopbackModels([Say("ok")]) as server, pytest.raises(ModelError) as caught:
        ask(server, api_key=server.key)

    assert caught.value.fault is Fault.REFUSED
    assert "HF_HUB_OFFLINE" in str(caught.value.hint)


def test_only_openai_itself_gets_the_new_name_of_the_limit() -> None:
    request = Request(system="", messages=[user_message("Go")], max_tokens=512)

    theirs = OpenAIModel(name="gpt-5", api_key="k")._options(request)
    azure = OpenAIModel(name="gpt-5", api_key="k", base_url="https://me.openai.azure.com/openai/v1")
    other = OpenAIModel(name="qwen", base_url="http://localhost:11434/v1")._options(request)
    assert theirs["extra_body"] == azure._options(request)["extra_body"] == {"max_completion_tokens": 512}
    assert "max_tokens" not in theirs
    assert other["max_tokens"] == 512
    assert "extra_body" not in other


def test_effort_is_passed_on() -> None:
    with LoopbackModels([Say("ok")]) as server:
        ask(server, api_key=server.key, effort="low")

    assert server.requests[0].body["reasoning_effort"] == "low"


def test_the_context_is_what_was_said_or_what_is_known() -> None:
    assert OpenAIModel(name="gpt-5.2").context_tokens == 400_000
    assert OpenAIModel(name="gpt-6.2-sol").context_tokens == 1_050_000
    assert OpenAIModel(name="qwen3").context_tokens == 128_000
    assert OpenAIModel(name="qwen3", context_limit=32_768).context_tokens == 32_768
    assert OpenAIModel(name="gpt-5").base_url == PUBLIC_ADDRESS


def test_an_error_that_is_a_list_or_a_sentence_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import loopback_models

    for body, words in (([{"error": {"message": "slow down"}}], "slow down"), ({"error": "busy"}, "busy")):
        monkeypatch.setattr(loopback_models._Chat, "error", staticmethod(lambda _, body=body: body))
        with LoopbackModels([Status(429)]) as server, pytest.raises(ModelError) as caught:
            ask(server, api_key=server.key)
        assert caught.value.fault is Fault.TRANSIENT
        assert words in caught.value.message


def test_calls_without_numbers_or_ids_are_told_apart() -> None:
    answer = taken(
        chunk({"tool_calls": [{"function": {"name": "read", "arguments": '{"path": '}}]}),
        chunk({"tool_calls": [{"function": {"arguments": '"a"}'}}]}),
        chunk({"tool_calls": [{"function": {"name": "read", "arguments": {"path": "b"}}}]}),
        chunk({}, "stop"),
    )

    calls = tool_calls(answer.content())
    assert [call.arguments for call in calls] == [{"path": "a"}, {"path": "b"}]
    assert len({call.id for call in calls}) == 2
    assert answer.stop is Stop.TOOL_USE  # though the server said stop


def test_cached_tokens_are_counted_once() -> None:
    details = {"cached_tokens": 60, "cache_write_tokens": 30}
    counted = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": details}
    answer = taken(chunk({"content": "Hi"}, "stop"), {"choices": [], "usage": counted})

    assert answer.usage == Usage(
        input_tokens=10, output_tokens=7, cache_read_tokens=60, cache_write_tokens=30
    )


def test_a_refusal_has_a_field_of_its_own() -> None:
    answer = taken(chunk({"refusal": "I can't."}), chunk({}, "stop"))

    assert answer.stop is Stop.REFUSAL
    assert answer.content() == ({"type": "text", "text": "I can't."},)


def test_nothing_that_came_is_nothing_used() -> None:
    assert taken().usage is None


def test_thinking_is_left_out_of_what_is_sent() -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    messages = [
        user_message("Go"),
        {"role": "assistant", "content": [thought]},
        user_message("On"),
    ]

    sent = chat_messages(Request(system="", messages=messages, max_tokens=9))
    assert sent == [{"role": "user", "content": "Go"}, {"role": "user", "content": "On"}]


def test_a_lost_end_after_the_reply_is_whole_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import loopback_models

    monkeypatch.setattr(loopback_models._Chat, "last", b"data:[DONE]\n\n")  # some servers write it so
    with LoopbackModels([Call("read")]) as server:
        reply = ask(server, api_key=server.key)

    assert reply.stop is Stop.TOOL_USE
