"""What the program may reach on a Hub, as whom, and how long it waits there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PUBLIC_HUB = "https://huggingface.co"
ANSWER_TIMEOUT_S = 120.0  # without a byte from the Hub; the library itself would wait for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAccess:
    """The key of one provider of language models, and another address than its usual one."""

    api_key: str | None = field(repr=False)
    base_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """One Hub, and the account on it. The token never shows in a representation.

    Attributes:
        endpoint: Address of the Hub; ``None`` is the public one.
        user: Namespace to publish under, a user or an organisation; ``None`` is the token's own.
        cache_dir: Where downloads are kept; ``None`` is the library's default.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    offline: bool = False
    cache_dir: Path | None = None

    @property
    def address(self) -> str:
        """Where pages of this Hub stand, without a trailing slash."""
        return (self.endpoint or PUBLIC_HUB).rstrip("/")


def bound_answers() -> None:
    """Keep the library's client from waiting for ever. It replaces its client after a lost connection."""
    from huggingface_hub import get_session

    get_session().timeout = ANSWER_TIMEOUT_S


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, if it does so in time.

    A client's own timeout does not cover name resolution, which may hang for minutes.

    Raises:
        TimeoutError: it did not; it may still be at work, in a thread that ends with the program.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001, raised again where the result is waited for
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]
