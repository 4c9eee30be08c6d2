"""Asking again when a service is overloaded or a connection breaks; nothing else is asked twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ml_intern_cli.brains.models.message import Fault, ModelError
from ml_intern_cli.quantities import format_duration

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
MOST_PATIENCE_S = 120.0
"""A service that asks for a longer wait than this is left alone; the run goes on another time."""


def with_retries(
    attempt: Callable[[], T],
    *,
    on_wait: Callable[[ModelError, float], None],
    sleep: Callable[[float], None],
    attempts: int = 6,
) -> T:
    """What the first attempt gives that does not fail for a passing reason.

    Between attempts it waits a random time below a bound that doubles, or as long as the service asks.

    Args:
        attempt: One call, with all that must happen before and after each.
        on_wait: Gets each such failure and the seconds until the next attempt.
        sleep: Waits.
        attempts: At most; 1 asks once.

    Raises:
        ModelError: the last failure.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    jitter = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def wait(state: RetryCallState) -> float:
        asked = _failure(state).retry_after_s
        return float(jitter(state)) if asked is None else asked

    retrying = Retrying(
        retry=retry_if_exception(_is_worth_another),
        stop=stop_after_attempt(attempts),
        wait=wait,
        before_sleep=lambda state: on_wait(_failure(state), state.upcoming_sleep),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except ModelError as error:
        if _asks_too_much(error):
            raise _until_later(error) from error
        raise


def _failure(state: RetryCallState) -> ModelError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, ModelError)  # noqa: S101, nothing else is asked for twice
    return error


def _is_worth_another(error: BaseException) -> bool:
    return isinstance(error, ModelError) and error.fault is Fault.TRANSIENT and not _asks_too_much(error)


def _asks_too_much(error: ModelError) -> bool:
    return error.retry_after_s is not None and error.retry_after_s > MOST_PATIENCE_S


def _until_later(error: ModelError) -> ModelError:
    wait = format_duration(error.retry_after_s or 0.0)
    return ModelError(
        f"{error.message} (the service asks to wait {wait})",
        fault=error.fault,
        retry_after_s=error.retry_after_s,
        usage=error.usage,
        hint=f"run the same command again in {wait}; it goes on where it stopped",
    )
