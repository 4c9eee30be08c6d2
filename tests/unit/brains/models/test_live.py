"""The real services, once each: `nox -s live` with keys in the environment. Costs about a cent."""

from __future__ import annotations

import os

import pytest

from ml_intern_cli.brains.models.anthropic import AnthropicModel
from ml_intern_cli.brains.models.message import (
    LanguageModel,
    Request,
    ToolSpec,
    tool_calls,
    tool_result,
    user_message,
)
from ml_intern_cli.brains.models.openai import OpenAIModel

pytestmark = pytest.mark.live

ADD = ToolSpec(
    name="add",
    description="Adds two numbers.",
    schema={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


def _model(service: str) -> LanguageModel:
    key = os.environ.get(f"{service.upper()}_API_KEY")
    if not key:
        pytest.skip(f"{service.upper()}_API_KEY is not set")
    if service == "anthropic":
        return AnthropicModel(
            name="claude-haiku-4-5", api_key=key, base_url=None, effort=None, thinking=False
        )
    return OpenAIModel(name="gpt-5-mini", api_key=key)


@pytest.mark.parametrize("service", ["anthropic", "openai"])
def test_a_real_model_calls_a_tool_and_uses_what_it_answers(service: str) -> None:
    model = _model(service)
    asked = user_message("Use the tool to add 17 and 25, then say the sum.")
    first = model.reply(
        Request(system="You are brief.", messages=[asked], tools=[ADD], max_tokens=1_024), on_text=print
    )
    (call,) = tool_calls(first.content)
    assert dict(call.arguments) == {"a": 17, "b": 25}
    assert first.usage.output_tokens > 0
    messages = [
        asked,
        {"role": "assistant", "content": list(first.content)},
        user_message(tool_result(call, "42")),
    ]
    second = model.reply(
        Request(system="You are brief.", messages=messages, tools=[ADD], max_tokens=1_024), on_text=print
    )
    assert "42" in str(second.content)
