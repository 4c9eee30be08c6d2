"""session.jsonl: every conversation with a language model, row by row, as it happens.

The rows have the schema of Claude Code's transcripts (``type``, ``message``, ``uuid``, ``parentUuid``, …),
which viewers and training pipelines read. A conversation that a killed process left is gone on with from
its rows: nothing that was paid for is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from ml_intern_cli import __version__
from ml_intern_cli.brains.models.message import (
    Block,
    LanguageModel,
    Message,
    Reply,
    ToolCall,
    Usage,
    tool_calls,
    tool_result,
    user_message,
)

Row = dict[str, Any]


class Journal(Protocol):
    """An append-only file of JSON rows."""

    def rows(self) -> Iterator[Row]:
        """All rows; torn ones are passed over."""
        ...

    def append(self, row: Row) -> None:
        """Write one row, and make sure that it is on disk."""
        ...


class Session:
    """All conversations of a run; those of different stages may go on side by side.

    Args:
        journal: session.jsonl.
        now: The time, for the rows.
    """

    def __init__(self, journal: Journal, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._journal = journal
        self._now = now
        self._open: dict[str, list[Conversation]] = {}  # by stage

    def converse(self, stage: str, *, model: LanguageModel, system: str, opening: Message) -> Conversation:
        """The conversation of a stage: the one that was broken off, if it began just so, else a new one."""
        fingerprint = _fingerprint(model.name, system, opening)
        conversation = Conversation(self._journal, stage=stage, now=self._now)
        try:
            for row in self._broken_off(stage, fingerprint):
                conversation.take(row)
        except (KeyError, TypeError, AttributeError):  # somebody else wrote there
            conversation = Conversation(self._journal, stage=stage, now=self._now)
        if not conversation.messages:
            conversation.begin(opening, model=model, fingerprint=fingerprint)
        self._open.setdefault(stage, []).append(conversation)
        return conversation

    def settle(self, stage: str) -> None:
        """What came of a stage's conversations is written down; its next one begins afresh."""
        for conversation in reversed(self._open.pop(stage, [])):
            conversation.settle()

    def _broken_off(self, stage: str, fingerprint: str) -> list[Row]:
        """The rows of the stage's last conversation, if it can be gone on with."""
        last: str | None = None
        by_id: dict[str, list[Row]] = {}
        settled = set()
        for row in self._journal.rows():
            one = row.get("agentId")
            if not isinstance(one, str):
                continue
            by_id.setdefault(one, []).append(row)
            if row.get("stage") == stage and "fingerprint" in row:
                last = one if row["fingerprint"] == fingerprint else None
            if row.get("subtype") == _SETTLED:
                settled.add(one)
        return [] if last is None or last in settled else by_id[last]


_SILENCE: Block = {"type": "text", "text": "(silence)"}
_SETTLED = "conversation_settled"
_BOUNDARY = "compact_boundary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a tool, and what it answered."""

    call: ToolCall
    result: str
    is_error: bool


class Conversation:
    """One conversation, as it stands on disk and as the model is told it.

    Attributes:
        stage: Who talks, such as ``implement a``.
        messages: What the model is told next, oldest first.
        calls: Replies that the model gave so far, those before a compaction included.
        steps: Calls of tools with their results, oldest first, those before a compaction included.
        redirected_at: How many steps there were when the model was last told that it goes in circles.
        last_paid: Of the last reply, the allowance it was made under and what it used.
    """

    def __init__(self, journal: Journal, *, stage: str, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._now = now
        self.stage = stage
        self.id = uuid4().hex
        self.messages: list[Message] = []
        self.calls = 0
        self.steps: list[Step] = []
        self.redirected_at: int | None = None
        self.last_paid: tuple[str, Usage] | None = None
        self._parent: str | None = None
        self._asked: dict[str, ToolCall] = {}

    def begin(self, opening: Message, *, model: LanguageModel, fingerprint: str) -> None:
        """The task, in the first message."""
        who = {"service": model.service, "name": model.name, "context_tokens": model.context_tokens}
        self._add({"type": "user", "message": opening, "model": who, "fingerprint": fingerprint})

    def say(self, text: str) -> None:
        """A word of the program's to the model."""
        self._add({"type": "user", "message": user_message(text), "isMeta": True})

    def redirect(self, text: str) -> None:
        """Tell the model that it goes in circles."""
        self._add({"type": "user", "message": user_message(text), "isMeta": True, "redirect": True})

    def answer(self, call: ToolCall, text: str, *, is_error: bool = False) -> None:
        """What a tool answered."""
        self._add({"type": "user", "message": user_message(tool_result(call, text, is_error=is_error))})

    def hear(self, reply: Reply, *, allowance: str) -> None:
        """What the model said."""
        message = {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": list(reply.content) or [_SILENCE],  # an empty turn could not be sent back
            "stop_reason": str(reply.stop),
            "usage": _usage_row(reply.usage),
        }
        self._add({"type": "assistant", "message": message, "requestId": allowance})

    def compact(self, messages: Sequence[Message], *, summary: Mapping[str, str]) -> None:
        """Go on with these messages instead of all that was said; the summary is kept for a replay."""
        self._add(
            {
                "type": "system",
                "subtype": _BOUNDARY,
                "content": "the conversation was compacted",
                "messages": list(messages),
                **({"summary": dict(summary)} if summary else {}),
            }
        )

    def settle(self) -> None:
        """It is over, and what came of it is written down."""
        self._add({"type": "system", "subtype": _SETTLED, "content": "its outcome is written down"})

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """Calls of the last reply that have no result yet."""
        answered = {
            block["tool_use_id"]
            for message in self.messages[-1:]
            if message["role"] == "user"
            for block in message["content"]
            if block["type"] == "tool_result"
        }
        last = next((one for one in reversed(self.messages) if one["role"] == "assistant"), None)
        is_latest = last is not None and last in self.messages[-2:]
        calls = tool_calls(last["content"]) if last is not None and is_latest else ()
        return tuple(call for call in calls if call.id not in answered)

    def _add(self, row: Row) -> None:
        whole = {
            "parentUuid": self._parent,
            "isSidechain": " " in self.stage,  # of one path
            "userType": "external",
            "cwd": ".",
            "sessionId": self.id,
            "agentId": self.id,
            "version": __version__,
            "stage": self.stage,
            **row,
            "uuid": str(uuid4()),
            "timestamp": self._now().isoformat(timespec="milliseconds"),
        }
        self._journal.append(whole)
        self.take(whole)

    def take(self, row: Row) -> None:
        """Bring what is known up to a row of the journal."""
        self.id = row["agentId"]
        self._parent = row["uuid"]
        if row.get("subtype") == _BOUNDARY:
            self.messages = [*row["messages"]]
        elif row["type"] == "assistant":
            content: list[Block] = row["message"]["content"]
            self.messages.append({"role": "assistant", "content": content})
            self.calls += 1
            self._asked |= {call.id: call for call in tool_calls(content)}
            self.last_paid = (row.get("requestId", ""), _usage_of(row["message"].get("usage", {})))
        elif row["type"] == "user":
            self._take_user(row["message"]["content"])
            if row.get("redirect"):
                self.redirected_at = len(self.steps)

    def _take_user(self, content: list[Block]) -> None:
        for block in content:
            if block["type"] == "tool_result":
                call, is_error = self._asked[block["tool_use_id"]], bool(block.get("is_error"))
                self.steps.append(Step(call=call, result=block["content"], is_error=is_error))
        if self.messages and self.messages[-1]["role"] == "user":  # one turn, however many rows
            self.messages[-1] = {"role": "user", "content": [*self.messages[-1]["content"], *content]}
        else:
            self.messages.append({"role": "user", "content": content})


def _fingerprint(model: str, system: str, opening: Message) -> str:
    said = json.dumps([model, system, opening], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()


def _usage_row(usage: Usage) -> dict[str, int]:
    """In the words of the Messages API."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }


def _usage_of(row: dict[str, int]) -> Usage:
    return Usage(
        input_tokens=row.get("input_tokens", 0),
        cache_write_tokens=row.get("cache_creation_input_tokens", 0),
        cache_read_tokens=row.get("cache_read_input_tokens", 0),
        output_tokens=row.get("output_tokens", 0),
    )
