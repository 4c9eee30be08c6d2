"""Making room: a conversation that outgrows the model's context is told again, shorter.

What stays word for word is the task with its plan (the first block of the first message) and the last
steps; what was between them becomes a summary. It works on a conversation with one user message and
nothing but tool calls after it, and each time the result is smaller, so it cannot go round in a loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from ml_intern_cli.brains.models.message import Block, Message, user_message

BYTES_PER_TOKEN = 3  # at least, of English and code; what a token costs is never underestimated by much
_KEPT_SHARE = 0.4  # of the room, for the last steps
_LONGEST_RESULT = 2_000  # characters of a tool's answer in what is summarised
_HEAD_SHARE = 0.25
_THINKING = {"thinking", "redacted_thinking"}

SUMMARY_SYSTEM = "You write working notes for a colleague who goes on with a task and sees nothing else."
SUMMARY_TASK = (
    "Below is the record of the work so far. Write notes from which it can go on: what was found out "
    "(facts, numbers, names of APIs that exist, with their arguments), what was decided and why, what is in "
    "which file now, what failed and why, what is left to do. Exact values, no praise, at most 600 words.\n\n"
)


def tokens_of(*parts: object) -> int:
    """About how many tokens something is, from its size as JSON; rather too many than too few."""
    size = sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in parts)
    return size // BYTES_PER_TOKEN + 1


def compacted(messages: Sequence[Message], *, room: int, summarise: Callable[[str], str]) -> list[Message]:
    """The messages told again in at most ``room`` tokens, as near as can be.

    Args:
        messages: Beginning with the task.
        room: Tokens that the result should not exceed.
        summarise: Gets a record of what is left out, and answers with notes.
    """
    task = messages[0]["content"][0]
    kept = _last_steps(messages[1:], room=int(_KEPT_SHARE * room))
    left_out = [
        {"role": "user", "content": messages[0]["content"][1:]},
        *messages[1 : len(messages) - len(kept)],
    ]
    record = _record(left_out)
    if not record:  # nothing but the last steps is there: their longest answers have to go
        return [{"role": "user", "content": [task]}, *map(_shortened, kept)]
    notes = summarise(SUMMARY_TASK + shorten(record, room * BYTES_PER_TOKEN // 2))
    return [user_message(task, f"Notes on the work so far:\n\n{notes}"), *kept]


def shorten(text: str, most: int) -> str:
    """The text in at most that many characters: a quarter from its head, the rest from its tail."""
    if len(text) <= most:
        return text
    head = int(_HEAD_SHARE * most)
    left_out = len(text) - most
    return f"{text[:head]}\n… {left_out:,} characters left out …\n{text[len(text) - (most - head) :]}"


def _last_steps(messages: Sequence[Message], *, room: int) -> list[Message]:
    """As many of the last messages as fit, beginning with one of the model's."""
    best: list[Message] = []
    for start in range(len(messages) - 1, -1, -1):
        tail = [_without_thinking(message) for message in messages[start:]]
        if tokens_of(tail) > room:
            break
        if tail[0]["role"] == "assistant":
            best = tail
    return best


def _without_thinking(message: Message) -> Message:
    """Thinking is signed together with all that came before it, which is now told otherwise."""
    content = [block for block in message["content"] if block["type"] not in _THINKING]
    return {**message, "content": content or [{"type": "text", "text": "(thinking)"}]}


def _record(messages: Sequence[Message]) -> str:
    """What was said, as plain text; thinking is not passed on."""
    lines = []
    for message in messages:
        for block in message["content"]:
            text = _line(block)
            if text:
                lines.append(f"{message['role']}: {text}")
    return "\n".join(lines)


def _line(block: Block) -> str:
    match block["type"]:
        case "text":
            return str(block["text"])
        case "tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False)
            return f"calls {block['name']} {shorten(arguments, _LONGEST_RESULT)}"
        case "tool_result":
            return f"result: {shorten(str(block['content']), _LONGEST_RESULT)}"
        case _:
            return ""


def _shortened(message: Message) -> Message:
    """The message with long answers of tools cut."""
    content = [
        {**block, "content": shorten(str(block["content"]), _LONGEST_RESULT)}
        if block["type"] == "tool_result"
        else block
        for block in message["content"]
    ]
    return {**message, "content": content}
