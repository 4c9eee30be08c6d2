"""The chat-completions form of a conversation: what is sent, and how its stream becomes blocks again.

Source: developers.openai.com/api/docs/api-reference/chat. Servers that copy it differ in what they
leave out, so whatever can be missing is allowed to be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_intern_cli.brains.models.message import Block, Message, Request, Stop, Usage, read_arguments

_CHARACTERS_PER_TOKEN = 3  # of code; what a server does not count is estimated high rather than as nothing

_STOPS = {
    "stop": Stop.END,
    "tool_calls": Stop.TOOL_USE,
    "function_call": Stop.TOOL_USE,
    "length": Stop.MAX_TOKENS,
    "content_filter": Stop.REFUSAL,
}


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The conversation; thinking is left out, since no such server takes it back."""
    system = [{"role": "system", "content": request.system}] if request.system else []
    return [*system, *(chat for message in request.messages for chat in _chat(message))]


def chat_tools(request: Request) -> list[dict[str, Any]]:
    """The tools, as functions."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.schema),
            },
        }
        for tool in request.tools
    ]


class ChatAnswer:
    """A reply as it grows, chunk by chunk."""

    def __init__(self, sent: Sequence[Mapping[str, Any]]) -> None:
        self.model = ""
        self.id = ""
        self._sent = sent
        self._begun = False
        self._text = ""
        self._unseen = 0  # characters of reasoning, which is not kept but paid for
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._refused = False
        self._usage: Mapping[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the server said why it stopped."""
        return self._finish is not None

    def take(self, chunk: Mapping[str, Any]) -> str:
        """One chunk of the stream; returns the text in it."""
        self._begun = True
        self.model = chunk.get("model") or self.model
        self.id = chunk.get("id") or self.id
        self._usage = chunk.get("usage") or self._usage
        choice = next(iter(chunk.get("choices") or ()), None)
        if choice is None:
            return ""  # the last chunk, which only counts
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self._grow(call)
        self._refused = self._refused or bool(delta.get("refusal"))
        self._unseen += len(delta.get("reasoning") or delta.get("reasoning_content") or "")
        text = str(delta.get("content") or delta.get("refusal") or "")
        self._text += text
        return text

    def content(self) -> tuple[Block, ...]:
        """The blocks: the text if there is any, then the calls."""
        text: list[Block] = [{"type": "text", "text": self._text}] if self._text.strip() else []
        calls: list[Block] = [
            {
                "type": "tool_use",
                # Some servers give no id; the answer must name one all the same.
                "id": call["id"] or f"call_{self.id or 'x'}_{index}",
                "name": call["name"],
                "input": read_arguments(call["arguments"]),
            }
            for index, call in sorted(self._calls.items())
        ]
        return (*text, *calls)

    @property
    def stop(self) -> Stop:
        """Why it ended. Some servers say ``stop`` after calls, too."""
        if self._refused:
            return Stop.REFUSAL
        stop = _STOPS.get(self._finish or "", Stop.END)
        return Stop.TOOL_USE if stop is Stop.END and self._calls else stop

    @property
    def usage(self) -> Usage | None:
        """As the server counted; estimated where it did not; ``None`` before anything came."""
        if self._usage is None:
            return self._estimate() if self._begun else None
        details = self._usage.get("prompt_tokens_details") or {}
        read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
        return Usage(  # the prompt's count includes what was read from the cache or written into it
            input_tokens=max(0, (self._usage.get("prompt_tokens") or 0) - read - written),
            output_tokens=self._usage.get("completion_tokens") or 0,
            cache_read_tokens=read,
            cache_write_tokens=written,
        )

    def _estimate(self) -> Usage:
        written = sum(len(call["name"]) + len(call["arguments"]) for call in self._calls.values())
        return Usage(
            input_tokens=_tokens(len(json.dumps(self._sent, ensure_ascii=False))),
            output_tokens=_tokens(len(self._text) + self._unseen + written),
        )

    def _grow(self, piece: Mapping[str, Any]) -> None:
        function = piece.get("function") or {}
        index = piece.get("index")
        if index is None:  # a server that numbers nothing sends each call with its name
            index = len(self._calls) if function.get("name") or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.get("id") or ""
        call["name"] = call["name"] or function.get("name") or ""
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _chat(message: Message) -> list[dict[str, Any]]:
    blocks: list[Block] = message["content"]
    text = "\n\n".join(block["text"] for block in blocks if block["type"] == "text")
    if message["role"] == "assistant":
        calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
        if not text and not calls:
            return []  # it only thought
        return [{"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}]
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _result(block)}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    return [*results, *([{"role": "user", "content": text}] if text else [])]


def _call(block: Block) -> dict[str, Any]:
    return {
        "id": block["id"],
        "type": "function",
        "function": {"name": block["name"], "arguments": json.dumps(block["input"], ensure_ascii=False)},
    }


def _result(block: Block) -> str:
    content = block.get("content") or ""
    text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
    return f"Error: {text}" if block.get("is_error") else text  # this form has no other place for it


def _tokens(characters: int) -> int:
    return math.ceil(characters / _CHARACTERS_PER_TOKEN)
