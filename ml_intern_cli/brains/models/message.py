"""What is said to a language model and what comes back, the same for every service.

Messages are kept as JSON in the form of the Messages API (platform.claude.com/docs/en/api/messages):
that is what ``session.jsonl`` holds, and what signed thinking blocks must be sent back as, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ml_intern_cli.errors import MlInternError

Block = dict[str, Any]
"""``{"type": "text" | "thinking" | "tool_use" | "tool_result" | …, …}``."""

Message = dict[str, Any]
"""``{"role": "user" | "assistant", "content": [Block, …]}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one reply, as the service counted them. The four are disjoint: their sum is what was used."""

    input_tokens: int = 0  # read neither from nor into the prompt cache
    output_tokens: int = 0  # thinking included
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it. ``schema`` is a JSON Schema of type object."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call.

    Attributes:
        force_tool: The tool that the reply must call; ``None``: as the model likes.
        max_tokens: Of the reply, thinking included.
    """

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    max_tokens: int
    force_tool: str | None = None


class Stop(StrEnum):
    """Why a reply ended."""

    END = "end_turn"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    REFUSAL = "refusal"
    CONTEXT_FULL = "model_context_window_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply."""

    content: tuple[Block, ...]
    stop: Stop
    usage: Usage
    model: str  # as the service names what answered
    id: str  # of the message, as the service gave it


class Fault(StrEnum):
    """What kind of failure a call ended in; says what can be done about it."""

    TRANSIENT = "transient"  # overloaded, rate limited, connection lost: the same call may go through
    CONTEXT_FULL = "context full"  # the request is too long for the model: compact it
    REFUSED = "refused"  # key, account or permission: only the user can help
    INVALID = "invalid"  # the service does not take this request: asking again changes nothing


class ModelError(MlInternError):
    """A call to a language model that gave no reply.

    Args:
        message: For the user, without secrets.
        fault: What can be done about it.
        retry_after_s: How long the service asks to wait, where it says so.
        usage: What the service had counted when a stream broke off; paid all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: Fault,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.fault = fault
        self.retry_after_s = retry_after_s
        self.usage = usage


class LanguageModel(Protocol):
    """One model of one service."""

    @property
    def service(self) -> str:
        """``anthropic``, ``openai`` or ``replay``."""
        ...

    @property
    def name(self) -> str:
        """As the service knows it; prices are looked up by it."""
        ...

    @property
    def context_tokens(self) -> int:
        """How many tokens a request and its reply may have together, as far as is known."""
        ...

    def reply(self, request: Request, *, on_text: Callable[[str], None]) -> Reply:
        """Ask once, streaming; ``on_text`` gets the text as it comes. No retries in here.

        Raises:
            ModelError: no whole reply came.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool that the model wants run."""

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def tool_calls(content: Sequence[Block]) -> tuple[ToolCall, ...]:
    """The calls in a reply, in order."""
    return tuple(
        ToolCall(id=block["id"], name=block["name"], arguments=block["input"])
        for block in content
        if block["type"] == "tool_use"
    )


def read_arguments(written: str) -> dict[str, Any]:
    """A tool's arguments as a model wrote them; none written are none.

    What is no JSON object goes on as ``_unreadable``, to the tool's own check, which tells the model.
    """
    try:
        arguments = json.loads(written or "{}")
    except json.JSONDecodeError:
        arguments = None
    return arguments if isinstance(arguments, dict) else {"_unreadable": written}


def text_of(content: Sequence[Block]) -> str:
    """What a reply says in words, without its thinking."""
    return "\n".join(block["text"] for block in content if block["type"] == "text").strip()


def user_message(*blocks: Block | str) -> Message:
    """A message of the user's role; a string is a text block."""
    return {"role": "user", "content": [_block(block) for block in blocks]}


def tool_result(call: ToolCall, text: str, *, is_error: bool = False) -> Block:
    """What a tool answered."""
    return {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": text or "(no output)",
        **({"is_error": True} if is_error else {}),
    }


def _block(block: Block | str) -> Block:
    return {"type": "text", "text": block} if isinstance(block, str) else block
