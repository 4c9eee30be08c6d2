"""What is particular to the Messages API: thinking, forced tools, the cache, a library that looks around."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.models.anthropic import PUBLIC_ADDRESS, AnthropicModel
from ml_intern_cli.brains.models.claude import thinking_of, traits_of
from ml_intern_cli.brains.models.message import (
    Fault,
    Message,
    ModelError,
    Reply,
    Request,
    Stop,
    ToolSpec,
    tool_calls,
    tool_result,
    user_message,
)
from tests.loopback_models import Call, LoopbackModels, Page, Recorded, Redirect, Say, Status, Think

READ = ToolSpec(name="read", description="Reads.", schema={"type": "object", "properties": {}})


def ask(server: LoopbackModels, *messages: Message, force: str | None = None, **options: Any) -> Reply:
    options = {"name": "claude-opus-5", **options}
    model = AnthropicModel(api_key=server.key or "any", base_url=server.anthropic_url, **options)
    request = Request(
        system="Be exact.",
        messages=messages or [user_message("Go")],
        tools=[READ],
        max_tokens=8192,
        force_tool=force,
    )
    return model.reply(request, on_text=lambda _: None)


def sent(**options: Any) -> dict[str, Any]:
    """The body of a request that the server took."""
    with LoopbackModels([Say("ok")]) as server:
        ask(server, **options)
    return server.requests[0].body


@pytest.mark.parametrize("is_redacted", [False, True])
def test_thinking_goes_back_as_it_came(is_redacted: bool) -> None:
    thought = Think("The loss is a mean – not a sum.", Call("read"), redacted=is_redacted)
    with LoopbackModels([thought, Say("Done")]) as server:
        reply = ask(server)
        (call,) = tool_calls(reply.content)
        ask(
            server,
            user_message("Go"),
            {"role": "assistant", "content": list(reply.content)},
            user_message(tool_result(call, "x = 1")),
        )

    returned = server.requests[1].body["messages"][1]["content"]
    assert returned == list(reply.content)
    assert returned[0]["type"] == ("redacted_thinking" if is_redacted else "thinking")


@pytest.mark.parametrize(
    ("name", "thinking"),
    [
        ("claude-opus-5-5", {"type": "adaptive"}),
        ("claude-fable-5-2", {"type": "adaptive"}),
        ("claude-opus-4-6", {"type": "adaptive"}),
        ("claude-opus-9", {"type": "adaptive"}),
        ("claude-haiku-4-5-20251001", {"type": "enabled", "budget_tokens": 4096}),
        ("somebody-elses-model", None),
    ],
)
def test_each_model_is_told_to_think_in_its_way(name: str, thinking: dict[str, Any] | None) -> None:
    assert sent(name=name).get("thinking") == thinking


@pytest.mark.parametrize(
    ("name", "effort", "thinking"),
    [
        ("claude-opus-5", None, {"type": "disabled"}),
        ("claude-opus-5", "max", None),  # at this effort it cannot be turned off
        ("claude-sonnet-5-5", "low", {"type": "between_tools"}),
        ("claude-opus-5-5", "low", None),  # never can
        ("claude-opus-4-8", None, None),  # off as it is
        ("claude-haiku-4-5", None, None),
    ],
)
def test_thinking_is_turned_off_where_it_can_be(
    name: str, effort: str | None, thinking: dict[str, Any] | None
) -> None:
    assert sent(name=name, effort=effort, thinking=False).get("thinking") == thinking


def test_a_short_reply_leaves_no_room_for_a_thinking_budget() -> None:
    request = {"wanted": True, "effort": None, "messages": [user_message("Go")]}

    assert thinking_of(traits_of("claude-haiku-4-5"), max_tokens=2000, **request) is None


def test_a_turn_that_began_without_thinking_does_not_take_it_up_amid_its_tools() -> None:
    called = [{"type": "tool_use", "id": "t1", "name": "read", "input": {}}]
    begun: list[Message] = [user_message("Go"), {"role": "assistant", "content": called}]
    results = user_message({"type": "tool_result", "tool_use_id": "t1", "content": "x"})
    traits, request = traits_of("claude-haiku-4-5"), {"wanted": True, "effort": None, "max_tokens": 8192}

    assert thinking_of(traits, messages=[*begun, results], **request) is None
    assert thinking_of(traits, messages=[*begun, results, user_message("Anew")], **request) is not None


def test_effort_is_passed_on_only_where_it_was_named() -> None:
    assert sent(effort="low")["output_config"] == {"effort": "low"}
    assert "output_config" not in sent()


def test_a_forced_tool_turns_thinking_off() -> None:
    body = sent(force="read")  # the server refuses both together, as the service does

    assert body["tool_choice"] == {"type": "tool", "name": "read"}
    assert body["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("name", ["claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1"])
def test_models_that_refuse_forced_tools_are_not_sent_one(name: str) -> None:
    body = sent(name=name, force="read")

    assert "tool_choice" not in body
    assert not AnthropicModel(name=name, api_key="k").forces_tools


def test_system_and_the_end_of_the_conversation_are_marked_for_the_cache() -> None:
    first = user_message("Go")
    body = sent()

    assert body["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    assert json.dumps(body).count("cache_control") == 2
    assert first == user_message("Go")  # what the caller keeps is not touched


def test_the_context_is_as_documented() -> None:
    contexts = {
        name: AnthropicModel(name=name, api_key="k").context_tokens
        for name in (
            "claude-opus-5-5",
            "claude-sonnet-4-6",
            "claude-haiku-4-5-20251001",
            "claude-opus-9",
            "x",
        )
    }

    assert list(contexts.values()) == [1_000_000, 1_000_000, 200_000, 200_000, 200_000]


def test_a_refusal_over_thinking_or_effort_says_what_to_change() -> None:
    said = "output_config.effort: 'xhigh' is not supported for this model"
    with LoopbackModels([Status(400, message=said)]) as server, pytest.raises(ModelError) as caught:
        ask(server, effort="xhigh")

    assert caught.value.fault is Fault.INVALID
    assert said in caught.value.message
    assert "effort" in str(caught.value.hint)


def test_a_redirect_is_not_followed() -> None:
    with LoopbackModels() as other:
        redirect = Redirect(f"{other.anthropic_url}/v1/messages")
        with LoopbackModels([redirect]) as server, pytest.raises(ModelError) as caught:
            ask(server)

    assert caught.value.fault is Fault.INVALID
    assert other.requests == []


def test_a_page_is_told_from_a_service() -> None:
    with LoopbackModels([Page()]) as server, pytest.raises(ModelError) as caught:
        ask(server)

    assert caught.value.fault is Fault.INVALID
    assert "does not speak the Messages API" in caught.value.message


def test_nothing_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = {"authentication": {"type": "user_oauth", "access_token": "profile-token"}}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "work.json").write_text(json.dumps(profile), encoding="utf-8")
    with LoopbackModels(key=None) as elsewhere, LoopbackModels([Say("ok")]) as server:
        for variable, value in {
            "ANTHROPIC_BASE_URL": elsewhere.anthropic_url,
            "ANTHROPIC_API_KEY": "environment-key",
            "ANTHROPIC_AUTH_TOKEN": "environment-token",
            "ANTHROPIC_PROFILE": "work",
            "ANTHROPIC_CONFIG_DIR": str(tmp_path),
            "ANTHROPIC_CUSTOM_HEADERS": "X-Foreign: 1\nAuthorization: Bearer environment-header",
            "HTTP_PROXY": elsewhere.anthropic_url,
            "http_proxy": elsewhere.anthropic_url,
            "ALL_PROXY": elsewhere.anthropic_url,
        }.items():
            monkeypatch.setenv(variable, value)
        ask(server)

    (request,) = server.requests
    assert elsewhere.requests == []
    assert request.headers["authorization"] == f"Bearer {server.key}"
    assert _foreign(request) == []


def test_without_an_address_the_public_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")

    assert AnthropicModel(name="claude-opus-5", api_key="k").base_url == PUBLIC_ADDRESS


def test_a_new_reason_to_stop_counts_by_what_the_reply_holds() -> None:
    from ml_intern_cli.brains.models.anthropic import _Answer

    answer = _Answer()
    answer.take({"type": "a_new_kind_of_event"})
    answer.take({"type": "message_delta", "delta": {"stop_reason": "pause_turn"}, "usage": None})

    assert answer.stop is Stop.END


def _foreign(request: Recorded) -> list[str]:
    return [value for value in request.headers.values() if "environment" in value or "profile" in value] + [
        name for name in request.headers if name == "x-foreign"
    ]
