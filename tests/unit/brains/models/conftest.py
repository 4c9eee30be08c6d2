"""Both services, by the same name, against one loopback server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ml_intern_cli.brains.models.anthropic import AnthropicModel
from ml_intern_cli.brains.models.message import LanguageModel
from ml_intern_cli.brains.models.openai import OpenAIModel
from tests.loopback_models import LoopbackModels

Connect = Callable[..., LanguageModel]


@pytest.fixture(params=["messages", "chat"])
def wire(request: pytest.FixtureRequest) -> str:
    """The form that is spoken."""
    return str(request.param)


@pytest.fixture
def connect(wire: str) -> Connect:
    """A model of the server, as the program would make one."""

    def make(server: LoopbackModels, **options: Any) -> LanguageModel:
        options = {"name": "loopback", "api_key": server.key, **options}
        if wire == "messages":
            return AnthropicModel(base_url=server.anthropic_url, **options)
        return OpenAIModel(base_url=server.openai_url, **options)

    return make
