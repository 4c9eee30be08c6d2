"""Calls to a Hub: bounded in time, retried where that can help, and explained where it cannot."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ml_intern_cli.access import HubAccess, bound_answers
from ml_intern_cli.errors import Blocked, MlInternError, StorageFailed
from ml_intern_cli.secrets import scrub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

RETRY_WAIT_S = 1.0  # doubled after each attempt
MAX_RETRY_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 300.0

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_STORAGE_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})


@dataclass(frozen=True, slots=True)
class HubSession:
    """A Hub with an account on it, for one publication.

    Attributes:
        slug: Of the run, for the commands in messages.
    """

    api: HfApi
    hub: HubAccess
    slug: str

    def ask(self, doing: str, call: Callable[[], T], *, attempts: int = 4) -> T:
        """Make one request, again while the Hub is busy or out of reach.

        Args:
            doing: What fails when it fails, after "could not".
            call: One or more calls of ``huggingface_hub`` that may be repeated.
            attempts: How often it is tried in all.

        Raises:
            Blocked: the token is not accepted.
            StorageFailed: a download does not fit on the disk.
            MlInternError: the Hub failed in another way.
        """
        import httpx2
        import tenacity

        def attempt() -> T:
            bound_answers()
            return call()

        backoff = tenacity.wait_exponential(multiplier=RETRY_WAIT_S, max=MAX_RETRY_WAIT_S)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), _retry_after_s(error) if error else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_transient),
            stop=tenacity.stop_after_attempt(attempts),
            wait=wait,
            reraise=True,
        )
        try:
            return retrying(attempt)
        # OSError holds the library's own errors; uploads fail with RuntimeError, odd answers with ValueError.
        except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            raise self._explain(error, doing) from error

    def _explain(self, error: Exception, doing: str) -> MlInternError:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRNO:
            return StorageFailed(
                f"could not {doing}: {error.strerror}", hint=f"make room and run: {_publish(self.slug)}"
            )
        status = _status(error) if self._is_from_hub(error) else None
        if status == 401:
            return token_needed(
                self.slug, why=f"{self.hub.address} does not accept HF_TOKEN: wrong, expired or revoked (401)"
            )
        if status == 403:
            return token_needed(
                self.slug,
                why=f"HF_TOKEN may not {doing}: it lacks the permission to write there (403){_said(error)}",
            )
        reason = scrub(" ".join(str(_root(error)).split()), known=[self.hub.token])
        if "xet-write-token" in reason:  # a Hub of one's own; the library tries Xet wherever it can
            return MlInternError(
                f"could not {doing}: {self.hub.address} does not offer Xet storage",
                hint=f"HF_HUB_DISABLE_XET=1 {_publish(self.slug)}",
            )
        again, locally = _publish(self.slug), _publish(self.slug, to="folder")
        return MlInternError(
            f"could not {doing}: {reason}", hint=f"it goes on where it stopped: {again} · or: {locally}"
        )

    def _is_transient(self, error: BaseException) -> bool:
        """Whether the same request may succeed later. Errors of transport come wrapped in others."""
        import httpx2

        status = _status(error)
        if status is not None:
            # The storage host says 403 when an address that was signed for some minutes has expired.
            return status in _TRANSIENT_STATUS or (status == 403 and not self._is_from_hub(error))
        return any(
            isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError)
            for cause in _causes(error)
        )

    def _is_from_hub(self, error: BaseException) -> bool:
        """Whether the Hub itself answered, and not the storage that it sends large files to."""
        response, hub = _response(error), urlsplit(self.hub.address)
        url = None if response is None else response.request.url
        return url is None or (url.host, url.port) == (hub.hostname, hub.port)


@contextmanager
def open_session(hub: HubAccess, *, slug: str) -> Iterator[HubSession]:
    """A session whose library neither draws progress bars nor logs addresses that are signed for one use.

    Raises:
        Blocked: there is no token, or the Hub may not be asked.
    """
    if hub.offline:
        raise Blocked(
            "publish to the Hub",
            why="HF_HUB_OFFLINE is set",
            ways_on=(f"unset it and run: {_publish(slug)}", _publish(slug, to="folder")),
        )
    if not hub.token:
        raise token_needed(slug, why="HF_TOKEN is not set")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity, had_bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    disable_progress_bars()
    try:
        # The token is an argument of this object and stands in no environment, so no child has it.
        yield HubSession(HfApi(endpoint=hub.address, token=hub.token, library_name="ml-intern"), hub, slug)
    finally:
        hub_logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


def token_needed(slug: str, *, why: str) -> Blocked:
    """The error for a missing or refused token, with the two ways on."""
    return Blocked(
        "publish to the Hub",
        why=why,
        ways_on=(f"HF_TOKEN=… {_publish(slug)}", _publish(slug, to="folder")),
    )


def _publish(slug: str, *, to: str = "hub") -> str:
    return f"ml-intern publish {slug} --publish {to}"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error goes back to; ``None`` when the Hub did not answer."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def _response(error: BaseException) -> Any:
    """The answer that an error goes back to, if there was one."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((cause.response for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _said(error: BaseException) -> str:
    """What the Hub gave as its reason."""
    messages = (getattr(cause, "server_message", None) for cause in _causes(error))
    return next((f": {scrub(' '.join(str(one).split()))}" for one in messages if one), "")


def _retry_after_s(error: BaseException) -> float:
    """How long the Hub asks to be left alone; 0 when it does not say."""
    response = _response(error)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), MAX_RETRY_AFTER_S) if asked.isdigit() else 0.0


def _root(error: BaseException) -> BaseException:
    """The innermost error that says something; errors of transport often have no message."""
    return next((cause for cause in reversed(list(_causes(error))) if str(cause)), error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
