"""What may pass is asked again, counted each time; the rest is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ml_intern_cli.brains.models.message import (
    Fault,
    LanguageModel,
    ModelError,
    Reply,
    Request,
    text_of,
    user_message,
)
from ml_intern_cli.brains.models.retrying import LONGEST_WAIT_S, MOST_PATIENCE_S, with_retries
from ml_intern_cli.errors import Blocked
from tests.loopback_models import Drop, ErrorEvent, Incoming, LoopbackModels, Say, Script, Status

Connect = Callable[..., LanguageModel]


class Log:
    """What the caller was told, in order."""

    def __init__(self) -> None:
        self.attempts = 0
        self.faults: list[tuple[ModelError, float]] = []
        self.waits: list[float] = []

    def ask(self, model: LanguageModel, *, attempts: int = 6) -> Reply:
        def attempt() -> Reply:
            self.attempts += 1
            request = Request(system="", messages=[user_message("Go")], max_tokens=100)
            return model.reply(request, on_text=lambda _: None)

        return with_retries(
            attempt,
            on_wait=lambda error, wait_s: self.faults.append((error, wait_s)),
            sleep=self.waits.append,
            attempts=attempts,
        )


def failing(connect: Connect, script: Script, **options: int) -> tuple[ModelError, Log, LoopbackModels]:
    log = Log()
    with LoopbackModels(script) as server, pytest.raises(ModelError) as caught:
        log.ask(connect(server), **options)
    return caught.value, log, server


def test_what_passes_is_asked_again_until_it_does(connect: Connect) -> None:
    log = Log()
    acts = [
        Status(529),
        Status(429, retry_after=0.1),
        Drop(Say("half of a longer text"), after_events=4),
        Say("hi"),
    ]
    with LoopbackModels(acts) as server:
        reply = log.ask(connect(server))

    assert text_of(reply.content) == "hi"
    assert len(server.requests) == log.attempts == 4
    assert [error.fault for error, _ in log.faults] == [Fault.TRANSIENT] * 3
    assert [wait for _, wait in log.faults] == log.waits
    assert log.waits[1] == 0.1
    assert log.faults[2][0].usage is not None  # the half is paid for


def test_faults_may_come_before_each_turn_of_a_script(connect: Connect) -> None:
    def script(incoming: Incoming) -> list[Status | ErrorEvent | Say]:
        return [Status(503), ErrorEvent(), Say(f"turn {incoming.turns}")]

    with LoopbackModels(script) as server:
        assert text_of(Log().ask(connect(server)).content) == "turn 0"
        assert len(server.requests) == 3


def test_it_gives_up_after_so_many_attempts(connect: Connect) -> None:
    error, log, server = failing(connect, lambda _: Status(529), attempts=3)

    assert error.fault is Fault.TRANSIENT
    assert len(server.requests) == log.attempts == 3
    assert len(log.waits) == len(log.faults) == 2


def test_waits_are_random_below_a_bound_that_doubles(connect: Connect) -> None:
    _, log, _ = failing(connect, lambda _: Status(500), attempts=9)

    assert all(0 <= wait <= min(2.0**n, LONGEST_WAIT_S) for n, wait in enumerate(log.waits))
    assert len(set(log.waits)) == len(log.waits)


@pytest.mark.parametrize("code", [400, 401, 404, 413])
def test_what_cannot_pass_is_asked_once(connect: Connect, code: int) -> None:
    error, log, server = failing(connect, lambda _: Status(code))

    assert error.fault is not Fault.TRANSIENT
    assert len(server.requests) == 1
    assert log.faults == []
    assert log.waits == []


def test_a_wait_that_is_too_long_ends_it_and_is_said(connect: Connect) -> None:
    error, log, server = failing(connect, lambda _: Status(429, retry_after=MOST_PATIENCE_S + 480))

    assert len(server.requests) == 1
    assert log.waits == []
    assert "10 min" in error.message
    assert "10 min" in str(error.hint)
    assert error.retry_after_s == 600


def test_a_wait_that_is_just_bearable_is_borne(connect: Connect) -> None:
    log = Log()
    with LoopbackModels([Status(429, retry_after=MOST_PATIENCE_S), Say("hi")]) as server:
        log.ask(connect(server))

    assert log.waits == [MOST_PATIENCE_S]


def test_a_cap_that_is_reached_between_attempts_ends_it(connect: Connect) -> None:
    calls = []

    with LoopbackModels(lambda _: Status(529)) as server:
        model = connect(server)

        def attempt() -> Reply:
            calls.append(1)
            if len(calls) == 2:
                raise Blocked("money", why="the cap is reached", ways_on=["raise --max-usd"])
            request = Request(system="", messages=[user_message("Go")], max_tokens=100)
            return model.reply(request, on_text=lambda _: None)

        with pytest.raises(Blocked):
            with_retries(attempt, on_wait=lambda *_: None, sleep=lambda _: None)

    assert len(server.requests) == 1
