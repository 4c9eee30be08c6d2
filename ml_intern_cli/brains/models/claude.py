"""What is known of the Claude models: how long their context is, how they think, what they refuse.

As of November 2026. Sources: platform.claude.com/docs/en/models/overview (context),
…/build-with-claude/thinking#configuring-thinking (the table of what each model takes) and, for forced
tools, the "what's new" pages of Claude Opus 5.5, Sonnet 5.5, Haiku 5.5 and Fable 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ml_intern_cli.brains.models.message import Message

_MOST_MANUAL_THINKING = 16_000
_LEAST_MANUAL_THINKING = 1_024  # the service takes no less
_THINKING_BLOCKS = {"thinking", "redacted_thinking"}


class Thinks(Enum):
    """How a model is told to think."""

    NEVER = "never"
    MANUALLY = "manually"  # with a budget of tokens
    ADAPTIVELY = "adaptively"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One model.

    Attributes:
        off: What turns thinking off where silence does not; ``None``: silence, or nothing does.
        forced_tools: It takes a ``tool_choice`` that names a tool.
    """

    context_tokens: int
    thinks: Thinks
    off: str | None = None
    forced_tools: bool = True


_MILLION = 1_000_000

_MODELS: tuple[tuple[str, Traits], ...] = (
    (r"claude-3-7-.*", Traits(context_tokens=200_000, thinks=Thinks.MANUALLY)),
    (r"claude-[123][-.].*", Traits(context_tokens=200_000, thinks=Thinks.NEVER)),
    (r"claude-\w+-4(-[015])?(-\d{8})?", Traits(context_tokens=200_000, thinks=Thinks.MANUALLY)),
    (r"claude-\w+-4-[678](-\d{8})?", Traits(context_tokens=_MILLION, thinks=Thinks.ADAPTIVELY)),
    (
        r"claude-(opus|sonnet)-5(-\d{8})?|claude-haiku-5-5(-\d{8})?",
        Traits(context_tokens=_MILLION, thinks=Thinks.ADAPTIVELY, off="disabled"),
    ),
    (
        r"claude-sonnet-5-5(-\d{8})?",
        Traits(context_tokens=_MILLION, thinks=Thinks.ADAPTIVELY, off="between_tools", forced_tools=False),
    ),
    (r"claude-(fable|mythos)-5(-\d{8})?", Traits(context_tokens=_MILLION, thinks=Thinks.ADAPTIVELY)),
    (
        r"claude-opus-5-5(-\d{8})?|claude-(fable|mythos)-5-[12](-\d{8})?",
        Traits(context_tokens=_MILLION, thinks=Thinks.ADAPTIVELY, forced_tools=False),
    ),
    # Unknown, so with what the newest take; the context is the least that any of them has.
    (r"claude-.*", Traits(context_tokens=200_000, thinks=Thinks.ADAPTIVELY, forced_tools=False)),
)

_ANOTHER = Traits(context_tokens=200_000, thinks=Thinks.NEVER)
"""A model of someone else behind a server that speaks the Messages API."""


def traits_of(model: str) -> Traits:
    """What is known of a model, by its name at the service."""
    return next((traits for pattern, traits in _MODELS if re.fullmatch(pattern, model)), _ANOTHER)


def thinking_of(
    traits: Traits, *, wanted: bool, effort: str | None, max_tokens: int, messages: Sequence[Message]
) -> dict[str, Any] | None:
    """The ``thinking`` of a request; ``None`` to leave it out.

    Args:
        traits: Of the model.
        wanted: Think; otherwise as little as the model can be told to.
        effort: As it is sent, too; ``None`` is the model's default.
        max_tokens: Of the reply, thinking included.
        messages: The conversation; a turn that began without thinking cannot take it up.
    """
    if not wanted:
        # Only up to this effort do the models that think by themselves let it be turned off.
        may_be_off = traits.off is not None and effort in {None, "low", "medium", "high"}
        return {"type": traits.off} if may_be_off else None
    match traits.thinks:
        case Thinks.NEVER:
            return None
        case Thinks.ADAPTIVELY:
            return {"type": "adaptive"}
        case Thinks.MANUALLY:
            budget = min(max_tokens // 2, _MOST_MANUAL_THINKING)
            if budget < _LEAST_MANUAL_THINKING or _is_amid_tools_without_thinking(messages):
                return None
            return {"type": "enabled", "budget_tokens": budget}


def _is_amid_tools_without_thinking(messages: Sequence[Message]) -> bool:
    """A turn that called its tools without thinking cannot begin to think on their results."""
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return False
    turns = [message for message in messages if message["role"] == "assistant"]
    return bool(turns) and turns[-1]["content"][0]["type"] not in _THINKING_BLOCKS
