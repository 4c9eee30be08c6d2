"""The loopback services are as strict as the real ones, or tests against them would prove nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loopback_models import LoopbackModels, Say

HELLO = {"role": "user", "content": "Hi"}
TOOL = {"name": "read", "description": "Reads.", "input_schema": {"type": "object"}}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "read", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}
MARK = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
THOUGHT = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "forged"}]}


def post(path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    import httpx2

    with LoopbackModels([Say("ok")], key="k") as server:
        headers = {"authorization": "Bearer k", "anthropic-version": "2023-06-01", **headers}
        response = httpx2.post(f"{server.anthropic_url}{path}", json=body, headers=headers, timeout=10)
    return response.status_code, response.json()


def test_a_request_in_order_is_answered_whole_without_streaming() -> None:
    status, body = post("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [HELLO, USE, RESULT]})
    assert (status, body["content"], body["stop_reason"]) == (
        200,
        [{"type": "text", "text": "ok"}],
        "end_turn",
    )

    status, body = post("/v1/chat/completions", {"model": "m", "messages": [HELLO]})
    assert (status, body["choices"][0]["message"]["content"]) == (200, "ok")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "first message"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "first message"),
        ({"messages": [HELLO, USE]}, "without `tool_result`"),
        ({"messages": [HELLO, USE, HELLO]}, "without `tool_result`"),
        ({"messages": [HELLO, RESULT]}, "unexpected `tool_use_id`"),
        ({"messages": [RESULT]}, "unexpected `tool_use_id`"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-whitespace"),
        ({"messages": [{"role": "user", "content": [MARK] * 5}]}, "maximum of 4"),
        ({"messages": [HELLO, THOUGHT, HELLO]}, "Invalid `signature`"),
        ({"tool_choice": {"type": "tool", "name": "write"}, "tools": [TOOL]}, "not found in tools"),
        (
            {
                "tool_choice": {"type": "tool", "name": "read"},
                "tools": [TOOL],
                "thinking": {"type": "adaptive"},
            },
            "forces tool use",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "budget_tokens"),
        ({"seed": 1}, "Extra inputs"),
    ],
)
def test_a_request_out_of_order_is_refused(change: dict[str, Any], words: str) -> None:
    status, body = post("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [HELLO], **change})

    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "tool_call_id": "t1", "content": "x"}],
        [HELLO, {"role": "assistant", "content": None}],
        [
            HELLO,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
                ],
            },
        ],
        [
            HELLO,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "read", "arguments": "{"}}
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "x"},
        ],
    ],
)
def test_a_chat_out_of_order_is_refused(messages: list[dict[str, Any]]) -> None:
    assert post("/v1/chat/completions", {"model": "m", "messages": messages})[0] == 400


def test_a_key_and_a_version_are_asked_for() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [HELLO]}

    assert post("/v1/messages", body, authorization="Bearer wrong")[0] == 401
    assert post("/v1/messages", body, **{"anthropic-version": ""})[0] == 400
    assert post("/v1/messages", body, authorization="", **{"x-api-key": "k"})[0] == 200
