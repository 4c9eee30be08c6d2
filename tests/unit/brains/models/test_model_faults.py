"""Every way a call can fail is told by what can be done about it, and never shows the key."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from ml_intern_cli.brains.models.faults import fault_of, retry_after_s
from ml_intern_cli.brains.models.message import (
    Fault,
    LanguageModel,
    ModelError,
    Reply,
    Request,
    ToolSpec,
    user_message,
)
from tests.loopback_models import (
    Act,
    Call,
    Drop,
    ErrorEvent,
    LoopbackModels,
    Overflow,
    Page,
    Redirect,
    Say,
    Stall,
    Status,
    Think,
)

Connect = Callable[..., LanguageModel]

LONG = "a reply that takes many events to say"


def ask(model: LanguageModel, *, on_text: Callable[[str], None] = lambda _: None) -> Reply:
    tool = ToolSpec(name="read", description="Reads.", schema={"type": "object", "properties": {}})
    request = Request(system="Be exact.", messages=[user_message("Go")], tools=[tool], max_tokens=4096)
    return model.reply(request, on_text=on_text)


def failure(connect: Connect, act: Act, **options: object) -> tuple[ModelError, LoopbackModels]:
    with LoopbackModels([act]) as server, pytest.raises(ModelError) as caught:
        ask(connect(server, **options))
    return caught.value, server


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (Status(400), Fault.INVALID),
        (Status(401), Fault.REFUSED),
        (Status(402), Fault.REFUSED),
        (Status(403), Fault.REFUSED),
        (Status(404), Fault.REFUSED),
        (Status(408), Fault.TRANSIENT),
        (Status(409), Fault.TRANSIENT),
        (Status(413), Fault.CONTEXT_FULL),
        (Status(422), Fault.INVALID),
        (Status(425), Fault.TRANSIENT),
        (Status(429), Fault.TRANSIENT),
        (Status(500), Fault.TRANSIENT),
        (Status(501), Fault.INVALID),
        (Status(502), Fault.TRANSIENT),
        (Status(503), Fault.TRANSIENT),
        (Status(504), Fault.TRANSIENT),
        (Status(529), Fault.TRANSIENT),
        (Status(429, error_type="insufficient_quota"), Fault.REFUSED),
        (Overflow(), Fault.CONTEXT_FULL),
        (ErrorEvent("overloaded_error"), Fault.TRANSIENT),
        (ErrorEvent("api_error", after_events=0), Fault.TRANSIENT),
        (Drop(Say(LONG)), Fault.TRANSIENT),
        (Drop(Say(LONG), after_events=4), Fault.TRANSIENT),
        (Drop(Say(LONG), after_events=4, cleanly=True), Fault.TRANSIENT),
    ],
)
def test_a_failure_is_known_by_its_status_and_type(connect: Connect, act: Act, fault: Fault) -> None:
    error, server = failure(connect, act)

    assert error.fault is fault
    assert error.hint
    assert len(server.requests) == 1  # retries are the caller's


def test_the_services_words_are_passed_on(connect: Connect) -> None:
    error, _ = failure(connect, Status(400, message="max_tokens: must be at most 8192"))

    assert "400" in error.message
    assert "max_tokens: must be at most 8192" in error.message


def test_a_model_that_is_not_there_hints_at_the_option(connect: Connect) -> None:
    with LoopbackModels(models=("another",)) as server, pytest.raises(ModelError) as caught:
        ask(connect(server))

    assert caught.value.fault is Fault.REFUSED
    assert "--model" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("given", "wait_s"), [(0.25, 0.25), (7, 7.0), (-3, None), ("inf", None), (None, None)]
)
def test_the_wait_that_a_service_asks_for_is_passed_on(
    connect: Connect, given: float | str | None, wait_s: float | None
) -> None:
    error, _ = failure(connect, Status(429, retry_after=given))

    assert error.retry_after_s == wait_s


def test_a_wait_may_be_a_date_or_milliseconds() -> None:
    now = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)

    assert retry_after_s({"retry-after": "Wed, 25 Nov 2026 12:01:30 GMT"}, now=now) == 90
    assert retry_after_s({"retry-after": "Wed, 25 Nov 2026 11:00:00 GMT"}, now=now) is None
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}, now=now) == 1.5
    assert retry_after_s({"retry-after": "soon"}, now=now) is None


@pytest.mark.parametrize("act", [Drop(Say(LONG), after_events=5), ErrorEvent(after_events=5)])
def test_what_a_broken_stream_has_used_is_kept(connect: Connect, act: Act) -> None:
    pieces: list[str] = []
    with LoopbackModels([act]) as server, pytest.raises(ModelError) as caught:
        ask(connect(server), on_text=pieces.append)

    usage, tokens = caught.value.usage, server.requests[0].tokens
    assert usage is not None
    assert tokens is not None
    assert usage.input_tokens + usage.cache_write_tokens >= tokens.fresh + tokens.written > 0
    assert usage.output_tokens >= len("".join(pieces)) / 3 > 1


def test_thinking_that_was_cut_off_is_paid_for(connect: Connect) -> None:
    error, _ = failure(connect, Drop(Think("a thought of some length" * 9, Say("x")), after_events=20))

    assert error.usage is not None
    assert error.usage.output_tokens > 30


def test_a_refused_request_has_used_nothing(connect: Connect) -> None:
    assert failure(connect, Status(529))[0].usage is None


def test_a_server_that_is_not_there_is_transient(connect: Connect) -> None:
    with LoopbackModels() as server:
        model = connect(server)
    with pytest.raises(ModelError) as caught:
        ask(model)

    assert caught.value.fault is Fault.TRANSIENT


def test_silence_ends(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("anthropic", "openai"):
        monkeypatch.setattr(f"ml_intern_cli.brains.models.{module}.SILENCE_S", 0.2)
    error, _ = failure(connect, Stall(20))

    assert error.fault is Fault.TRANSIENT


@pytest.mark.parametrize("act", [Status(401, message="key loopback-key-0123456789 is wrong"), Redirect("/")])
def test_the_key_shows_nowhere(connect: Connect, act: Act) -> None:
    with LoopbackModels([act]) as server:
        model = connect(server)
        with pytest.raises(ModelError) as caught:
            ask(model)

    assert server.key not in f"{caught.value.message} {caught.value.hint} {model!r} {caught.value!r}"


def test_a_wrong_key_that_the_service_quotes_is_hidden(connect: Connect) -> None:
    with LoopbackModels(key="another-key-entirely") as server, pytest.raises(ModelError) as caught:
        ask(connect(server, api_key="my-own-private-key-77"))

    assert caught.value.fault is Fault.REFUSED
    assert "my-own-private-key-77" not in caught.value.message
    assert "[redacted]" in caught.value.message


def test_a_redirect_to_another_host_does_not_get_the_key(connect: Connect) -> None:
    with LoopbackModels([Say("stolen")], key=None) as thief:
        path = "/v1/messages", "/v1/chat/completions"
        for target in path:
            redirect = Redirect(f"{thief.anthropic_url}{target}")
            with LoopbackModels([redirect]) as server:
                try:
                    ask(connect(server))
                except ModelError as error:
                    assert error.fault in {Fault.INVALID, Fault.TRANSIENT}  # noqa: PT017
                assert server.requests[0].headers["authorization"] == f"Bearer {server.key}"
    assert not any("authorization" in request.headers for request in thief.requests)
    assert not any("x-api-key" in request.headers for request in thief.requests)


def test_a_web_page_is_not_taken_for_a_model(connect: Connect) -> None:
    error, _ = failure(connect, Page())

    assert error.fault in {Fault.INVALID, Fault.TRANSIENT}


def test_what_the_listener_raises_is_not_taken_for_the_services_fault(connect: Connect) -> None:
    def stumble(_: str) -> None:
        raise KeyError("mine")

    with LoopbackModels([Say(LONG)]) as server, pytest.raises(KeyError, match="mine"):
        ask(connect(server), on_text=stumble)


def test_an_interruption_goes_through_and_leaves_the_server_usable(connect: Connect) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with LoopbackModels([Say(LONG), Call("read")]) as server:
        model = connect(server)
        with pytest.raises(KeyboardInterrupt):
            ask(model, on_text=stop)
        assert ask(model).content


@pytest.mark.parametrize(
    ("status", "types", "said", "fault"),
    [
        (400, ("context_length_exceeded",), "", Fault.CONTEXT_FULL),
        (400, ("exceed_context_size_error",), "", Fault.CONTEXT_FULL),
        (
            400,
            ("BadRequestError",),
            "This model's maximum context length is 4096 tokens.",
            Fault.CONTEXT_FULL,
        ),
        (400, ("invalid_request_error",), "the prompt is too long ago", Fault.INVALID),
        (401, ("invalid_api_key", "invalid_request_error"), "", Fault.REFUSED),
        (404, ("model_not_found", "invalid_request_error"), "", Fault.REFUSED),
        (200, ("invalid_request_error",), "", Fault.INVALID),
        (200, (None,), "", Fault.TRANSIENT),
        (307, (), "", Fault.INVALID),
        (418, (), "", Fault.INVALID),
        (599, (), "", Fault.TRANSIENT),
    ],
)
def test_types_tell_more_than_a_status(
    status: int, types: tuple[str | None, ...], said: str, fault: Fault
) -> None:
    assert fault_of(status, types=types, said=said) is fault


def test_no_traceback_shows_the_key(connect: Connect) -> None:
    error, server = failure(connect, Drop(Say(LONG), after_events=2))

    assert server.key not in "".join(traceback.format_exception(error))
