"""A recorded session.jsonl as a model: it says again what was said, as long as it is told the same.

The loop and its tools really run; what they answer is compared with the record, but for how long things
took and random marks around quotes. Where it differs, the replay stops and says at which step: so a run, a
demonstration or a bug report is reproduced without a key, a network or a cent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_intern_cli.brains.agent.compaction import SUMMARY_SYSTEM
from ml_intern_cli.brains.agent.repetition import fingerprint, masked
from ml_intern_cli.brains.agent.session import Conversation
from ml_intern_cli.brains.models.message import (
    Block,
    Fault,
    Message,
    ModelError,
    Reply,
    Request,
    Stop,
    Usage,
    text_of,
    tool_calls,
)
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed
from ml_intern_cli.errors import InvalidInput

_SHOWN = 200  # characters of what differs
_DEFAULT_CONTEXT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A reply, and what had been said before it."""

    stage: str
    number: int  # in its conversation, from 1
    before: tuple[Message, ...]
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedModel:
    """What was recorded; see ``of``."""

    name: str
    context_tokens: int
    turns: tuple[_Turn, ...] = field(repr=False)
    notes: Mapping[str, str] = field(repr=False)  # by the fingerprint of what they summarise
    answers: Mapping[tuple[str, str], tuple[str, bool]] = field(repr=False)  # by tool and arguments

    @classmethod
    def of(cls, file: Path) -> ReplayedModel:
        """What a file holds.

        Raises:
            InvalidInput: it cannot be read, or holds no conversation.
        """
        by_id: dict[str, list[dict[str, Any]]] = {}
        for row in _rows(file):
            if isinstance(row.get("agentId"), str):
                by_id.setdefault(row["agentId"], []).append(row)
        turns: list[_Turn] = []
        answers: dict[tuple[str, str], tuple[str, bool]] = {}
        notes: dict[str, str] = {}
        who: dict[str, Any] = {}
        try:
            for rows in by_id.values():
                who = who or rows[0].get("model", {})
                conversation = Conversation(_NoJournal(), stage=rows[0]["stage"], now=_never)
                for row in rows:
                    if row["type"] == "assistant":
                        turns.append(_turn(conversation, row["message"]))
                    elif "summary" in row:
                        notes[row["summary"]["asked"]] = row["summary"]["notes"]
                    conversation.take(row)
                for step in conversation.steps:
                    answers[step.call.name, _sorted(step.call.arguments)] = (step.result, step.is_error)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInput(f"{file} is no recorded session: {error!r}", hint=_HINT) from error
        if not turns:
            raise InvalidInput(f"{file} holds no conversation with a language model", hint=_HINT)
        return cls(
            name=str(who.get("name", "recorded")),
            context_tokens=int(who.get("context_tokens", _DEFAULT_CONTEXT)),
            turns=tuple(turns),
            notes=notes,
            answers=answers,
        )

    @property
    def service(self) -> str:
        """``replay``: it costs nothing."""
        return "replay"

    def reply(self, request: Request, *, on_text: Callable[[str], None]) -> Reply:
        """What was said when all was as it is now.

        Raises:
            ModelError: something differs; the message says where.
        """
        if request.system == SUMMARY_SYSTEM:
            return self._notes(request)
        told = [_comparable(message) for message in request.messages]
        for turn in self.turns:
            if [_comparable(message) for message in turn.before] == told:
                on_text(text_of(turn.reply.content))
                return turn.reply
        raise ModelError(self._difference(told), fault=Fault.INVALID, hint=_DIVERGED)

    def recorded(self, tool: Tool) -> Tool:
        """The tool, with the answers that it gave then."""

        def call(arguments: Mapping[str, Any]) -> str:
            answer = self.answers.get((tool.name, _sorted(arguments)))
            if answer is None:
                raise ToolFailed(f"the recorded session has no answer of {tool.name} to this")
            text, is_error = answer
            if is_error:
                raise ToolFailed(text)
            return text

        return replace(tool, call=call)

    def _notes(self, request: Request) -> Reply:
        asked = fingerprint(request.messages[0]["content"][0]["text"])
        if asked not in self.notes:
            raise ModelError(
                "the replay leaves the record where a conversation was compacted",
                fault=Fault.INVALID,
                hint=_DIVERGED,
            )
        content = ({"type": "text", "text": self.notes[asked]},)
        return Reply(content=content, stop=Stop.END, usage=Usage(), model=self.name, id="notes")

    def _difference(self, told: Sequence[Any]) -> str:
        """Where what is told now leaves the record, in a line."""
        compared = [(turn, [_comparable(message) for message in turn.before]) for turn in self.turns]
        nearest, recorded = max(compared, key=lambda one: _common(told, one[1]))
        common = _common(told, recorded)
        if common >= len(recorded):
            return f"the record of {nearest.stage} ends with step {nearest.number}"
        where = f"the replay leaves the record at step {nearest.number} of {nearest.stage}"
        if common >= len(told):
            return f"{where}: there it had more steps"
        for now, then in zip(told[common], recorded[common], strict=False):
            if now != then:
                at = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), 0)
                start = max(0, at - 40)
                return (
                    f"{where}: recorded “{then[start : start + _SHOWN]}”, now “{now[start : start + _SHOWN]}”"
                )
        return f"{where}: another number of answers"


_HINT = "give the session.jsonl of a run: --brain replay:FILE"
_DIVERGED = (
    "the code, the tools or the documents differ from when it was recorded; another --brain goes on from here"
)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}", hint=_HINT) from error
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a killed process
        if isinstance(row, dict):
            yield row


def _turn(conversation: Conversation, message: Mapping[str, Any]) -> _Turn:
    content: list[Block] = message["content"]
    stop = Stop.TOOL_USE if tool_calls(content) else Stop(message["stop_reason"])
    return _Turn(
        stage=conversation.stage,
        number=conversation.calls + 1,
        before=tuple(conversation.messages),
        reply=Reply(
            content=tuple(content), stop=stop, usage=Usage(), model=message["model"], id=message["id"]
        ),
    )


def _comparable(message: Message) -> tuple[str, ...]:
    """A message, block by block, without what differs each time by itself."""
    return tuple(_readable(block) for block in message["content"])


def _readable(block: Block) -> str:
    match block["type"]:
        case "text":
            return masked(str(block["text"]))
        case "tool_result":
            return masked(str(block["content"]))
        case _:
            return _sorted(block)


def _sorted(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many messages are the same from the beginning."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


class _NoJournal:
    """A record is read, never written."""

    def rows(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def append(self, row: dict[str, Any]) -> None:
        raise AssertionError(f"a record is not written to: {row['type']}")


def _never() -> datetime:
    raise AssertionError("a record has its own times")
