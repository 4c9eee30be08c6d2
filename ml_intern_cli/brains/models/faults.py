"""What went wrong with a call, from the status and the types that the services document.

Sources: platform.claude.com/docs/en/api/errors, developers.openai.com/api/docs/guides/error-codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ml_intern_cli.brains.models.message import Fault, ModelError, Usage
from ml_intern_cli.secrets import scrub

_LONGEST_QUOTE = 600  # characters of what a service said

_BY_TYPE = {
    "overloaded_error": Fault.TRANSIENT,
    "rate_limit_error": Fault.TRANSIENT,
    "api_error": Fault.TRANSIENT,
    "timeout_error": Fault.TRANSIENT,
    "authentication_error": Fault.REFUSED,
    "permission_error": Fault.REFUSED,
    "billing_error": Fault.REFUSED,
    "not_found_error": Fault.REFUSED,
    "insufficient_quota": Fault.REFUSED,  # a 429 that no waiting ends: the account has no credit
    "request_too_large": Fault.CONTEXT_FULL,
    "context_length_exceeded": Fault.CONTEXT_FULL,
    "exceed_context_size_error": Fault.CONTEXT_FULL,  # llama.cpp
    "invalid_request_error": Fault.INVALID,
}

_TOO_LONG = re.compile(r"(?i)\A\W*prompt is too long|exceed context limit|maximum context length")
"""For the services that say it in words only: the Messages API (a bare invalid_request_error) and vLLM."""


def fault_of(status: int, *, types: tuple[str | None, ...] = (), said: str = "") -> Fault:
    """What can be done about an answer.

    Args:
        status: Of the HTTP answer; 200 for an error within a stream.
        types: What the service calls the error, most telling first; those it alone uses are ignored.
        said: Its words, read only where a service has nothing else to tell that a request is too long.
    """
    named = next((_BY_TYPE[name] for name in types if name in _BY_TYPE), None)
    if status == 413 or named is Fault.CONTEXT_FULL:
        return Fault.CONTEXT_FULL
    if status == 400 and _TOO_LONG.search(said):
        return Fault.CONTEXT_FULL
    if named is not None and (status in {200, 400} or named is Fault.REFUSED):
        return named
    if status in {401, 402, 403, 404}:
        return Fault.REFUSED
    if status in {200, 408, 409, 425, 429} or (status >= 500 and status != 501):
        return Fault.TRANSIENT  # an error of no known type within a stream may well pass, too
    return Fault.INVALID


def hint_for(fault: Fault, status: int | None, *, model: str, key: str) -> str:
    """What the user can do.

    Args:
        fault: What went wrong.
        status: Of the HTTP answer; ``None``: there was none.
        model: As it was asked for.
        key: The environment variable that the key comes from.
    """
    match fault:
        case Fault.REFUSED if status == 404:
            return f"name a model that the service has, not {model}: --model NAME; or check the address"
        case Fault.REFUSED if status == 402:
            return "add credit to the account, or choose another service with --brain"
        case Fault.REFUSED:
            return f"check {key}, and that its account may use {model}; ml-intern doctor shows what is set"
        case Fault.CONTEXT_FULL:
            return "use a model with a longer context: --model NAME"
        case Fault.TRANSIENT:
            return "wait a little and run the same command again; it goes on where it stopped"
        case Fault.INVALID:
            return f"the service does not take this for {model}; try another one: --model NAME"


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """The wait that an answer asks for: ``retry-after-ms``, or ``retry-after`` in seconds or as a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = (headers.get(name) or "").strip()
        if not value:
            continue
        try:
            wait_s = float(value) * unit_s
        except ValueError:
            wait_s = _seconds_until(value, now or datetime.now(UTC))
        if math.isfinite(wait_s) and wait_s >= 0:
            return wait_s
    return None


def model_error(
    service: str,
    said: str,
    *,
    fault: Fault,
    secret: str | None,
    hint: str,
    retry_after: float | None = None,
    usage: Usage | None = None,
) -> ModelError:
    """The error, with the service's words in one line and nothing secret in them."""
    words = " ".join(scrub(said, known=(secret,)).split())
    if len(words) > _LONGEST_QUOTE:
        words = f"{words[:_LONGEST_QUOTE]}…"
    return ModelError(f"{service}: {words}", fault=fault, retry_after_s=retry_after, usage=usage, hint=hint)


def _seconds_until(date: str, now: datetime) -> float:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return math.nan
    # A date without a zone is naive, and HTTP dates are in UTC.
    return ((then if then.tzinfo else then.replace(tzinfo=UTC)) - now).total_seconds()
