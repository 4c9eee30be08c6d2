"""What a model says arrives the same through both forms, and goes back in a way they take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ml_intern_cli.brains.models.message import (
    LanguageModel,
    Message,
    Reply,
    Request,
    Stop,
    ToolSpec,
    text_of,
    tool_calls,
    tool_result,
    user_message,
)
from tests.loopback_models import (
    BadArguments,
    Call,
    Calls,
    CutShort,
    Incoming,
    LoopbackModels,
    Refuse,
    Say,
    Think,
)

Connect = Callable[..., LanguageModel]

READ = ToolSpec(
    name="read",
    description="Reads a file.",
    schema={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


def asked(*messages: Message | str, **options: object) -> Request:
    said = [user_message(one) if isinstance(one, str) else one for one in messages]
    return Request(
        **{"system": "Be exact.", "messages": said, "tools": [READ], "max_tokens": 4096, **options}
    )


def ask(model: LanguageModel, *messages: Message | str, **options: object) -> Reply:
    return model.reply(asked(*messages, **options), on_text=lambda _: None)


def answered(reply: Reply, *texts: str) -> list[Message]:
    """What a loop adds to the conversation."""
    results = [tool_result(call, text) for call, text in zip(tool_calls(reply.content), texts, strict=True)]
    return [{"role": "assistant", "content": list(reply.content)}, user_message(*results)]


def test_text_comes_in_pieces_and_whole(connect: Connect) -> None:
    pieces: list[str] = []
    with LoopbackModels([Say("It is 1,003,264 parameters – exactly.")]) as server:
        reply = connect(server).reply(asked("How many?"), on_text=pieces.append)

    assert text_of(reply.content) == "It is 1,003,264 parameters – exactly."
    assert "".join(pieces) == text_of(reply.content)
    assert len(pieces) > 2
    assert (reply.stop, reply.model) == (Stop.END, "loopback")
    assert reply.id


def test_the_request_carries_system_tools_and_limit(connect: Connect) -> None:
    with LoopbackModels([Say("ok")]) as server:
        ask(connect(server), "Hi", max_tokens=777)

    incoming = server.requests[0].incoming
    assert incoming is not None
    assert (incoming.system, incoming.tools, incoming.max_tokens) == ("Be exact.", ("read",), 777)
    assert incoming.first_text == "Hi"


def test_a_tool_goes_round(connect: Connect) -> None:
    with LoopbackModels([Call("read", {"path": "model.py"}, text="I look."), Say("Seen.")]) as server:
        model = connect(server)
        reply = ask(model, "Look")
        end = ask(model, "Look", *answered(reply, "x = 1"))

    (call,) = tool_calls(reply.content)
    assert (call.name, call.arguments, reply.stop) == ("read", {"path": "model.py"}, Stop.TOOL_USE)
    assert text_of(reply.content) == "I look."
    incoming = server.requests[1].incoming
    assert incoming is not None
    assert incoming.last_results == ("x = 1",)
    assert incoming.called == ("read",)
    assert text_of(end.content) == "Seen."


def test_several_tools_in_one_reply_keep_their_order_and_answers(connect: Connect) -> None:
    calls = Calls((Call("read", {"path": "a.py"}), Call("read", {"path": "ü.py"}), Call("read", {})))
    with LoopbackModels([calls, Say("Done")]) as server:
        model = connect(server)
        reply = ask(model, "Look")
        ask(model, "Look", *answered(reply, "one", "two", "three"))

    assert [call.arguments for call in tool_calls(reply.content)] == [{"path": "a.py"}, {"path": "ü.py"}, {}]
    incoming = server.requests[1].incoming
    assert incoming is not None
    assert incoming.last_results == ("one", "two", "three")


def test_a_failed_tool_says_so(connect: Connect, wire: str) -> None:
    with LoopbackModels([Call("read", {"path": "a"}), Say("Oh")]) as server:
        model = connect(server)
        reply = ask(model, "Look")
        (call,) = tool_calls(reply.content)
        failed = user_message(tool_result(call, "no such file", is_error=True), "Try another one.")
        ask(model, "Look", {"role": "assistant", "content": list(reply.content)}, failed)

    incoming = server.requests[1].incoming
    assert incoming is not None
    last = incoming.messages[-1]["content"]
    said = {"messages": ("no such file", True), "chat": ("Error: no such file", None)}[wire]
    if wire == "chat":  # what follows the answers of tools is a message of its own there
        assert [one["role"] for one in server.requests[1].body["messages"][-2:]] == ["tool", "user"]
    assert (last[0]["content"], last[0].get("is_error")) == said
    assert incoming.text == "Try another one."


@pytest.mark.parametrize("written", ['{"path": "a', "path: a", "[1, 2]", "null"])
def test_arguments_that_are_no_object_reach_the_tools_own_check(connect: Connect, written: str) -> None:
    with LoopbackModels([BadArguments("read", written), Say("Sorry")]) as server:
        model = connect(server)
        reply = ask(model, "Look")
        end = ask(model, "Look", *answered(reply, "read cannot be called like this"))

    (call,) = tool_calls(reply.content)
    assert call.arguments == {"_unreadable": written}
    assert text_of(end.content) == "Sorry"


def test_a_forced_tool_is_named_to_the_service(connect: Connect) -> None:
    with LoopbackModels([Call("read", {"path": "a"})]) as server:
        ask(connect(server), "Look", force_tool="read")

    incoming = server.requests[0].incoming
    assert incoming is not None
    assert incoming.forced == "read"


@pytest.mark.parametrize(
    ("act", "stop"), [(CutShort("It is"), Stop.MAX_TOKENS), (Refuse("I will not."), Stop.REFUSAL)]
)
def test_why_a_reply_ended_is_told(connect: Connect, act: CutShort | Refuse, stop: Stop) -> None:
    with LoopbackModels([act]) as server:
        reply = ask(connect(server), "Go")

    assert (reply.stop, text_of(reply.content)) == (stop, act.text)


def test_an_empty_text_is_not_kept_since_it_may_not_go_back(connect: Connect) -> None:
    with LoopbackModels([Say("")]) as server:
        reply = ask(connect(server), "Go")

    assert reply.content == ()
    assert reply.stop is Stop.END


def test_what_was_used_is_what_the_service_counted(connect: Connect, wire: str) -> None:
    def script(incoming: Incoming) -> Call | Say:
        return Say("Done") if incoming.turns else Call("read", {"path": "model.py"})

    with LoopbackModels(script) as server:
        model = connect(server)
        first = ask(model, "Look at it")
        second = ask(model, "Look at it", *answered(first, "x = 1\n" * 50))

    for reply, request in zip((first, second), server.requests, strict=True):
        tokens = request.tokens
        assert tokens is not None
        used = reply.usage
        assert used.output_tokens == tokens.output
        assert (used.input_tokens, used.cache_read_tokens) == (tokens.fresh, tokens.read)
        assert used.cache_write_tokens == tokens.written
    assert second.usage.cache_read_tokens > 0
    assert (second.usage.cache_write_tokens > 0) == (wire == "messages")


def test_thinking_is_kept_where_it_must_go_back(connect: Connect, wire: str) -> None:
    acts = [Think("First the shapes.", Call("read", {"path": "a"})), Say("Done")]
    with LoopbackModels(acts) as server:
        model = connect(server)
        reply = ask(model, "Look")
        ask(model, "Look", *answered(reply, "x = 1"))  # the server checks the signature

    kinds = [block["type"] for block in reply.content]
    assert kinds == (["thinking", "tool_use"] if wire == "messages" else ["tool_use"])
    assert text_of(reply.content) == ""


def test_a_reply_that_only_thought_can_be_followed(connect: Connect, wire: str) -> None:
    with LoopbackModels([Think("Hm.", Say("")), Say("Here.")]) as server:
        model = connect(server)
        reply = ask(model, "Look")
        content = list(reply.content)
        turn: list[Message] = [{"role": "assistant", "content": content}] if content else []
        end = ask(model, "Look", *turn, "Go on")

    assert text_of(end.content) == "Here."
    assert bool(content) == (wire == "messages")
