"""GET: checked before it is sent and after every redirect, bounded in time and size, retried when busy."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ml_intern_cli.access import within
from ml_intern_cli.research.answer import Answer
from ml_intern_cli.research.attempt import Attempt, Busy, Service
from ml_intern_cli.research.failures import NotAllowed, NotReached
from ml_intern_cli.research.guard import Guard
from ml_intern_cli.research.record import Record

if TYPE_CHECKING:
    import ssl

    import httpx

TOTAL_TIMEOUT_S = 30.0  # for one attempt, from the name to the last byte, redirects included
MAX_RETRIES = 2
MAX_RETRY_AFTER_S = 10.0
_NUM_KEPT = 16  # answers, so that the next part of a page is not asked for again
_ANY_TEXT = "text/html, text/plain, application/json;q=0.9, */*;q=0.1"


class Fetcher:
    """Fetches text. It keeps no cookies, and reads neither ``.netrc`` nor a proxy from the environment.

    Args:
        guard: Says what may be asked.
        record: Where it is written down who answered.
        is_offline: Nothing is asked at all.
        sleep: Waits before a retry.
        total_timeout_s: For one attempt.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        record: Record,
        is_offline: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
    ) -> None:
        self.guard = guard
        self.record = record
        self._is_offline = is_offline
        self._sleep = sleep
        self._total_timeout_s = total_timeout_s
        self._kept: OrderedDict[tuple[str, str, str | None], Answer] = OrderedDict()
        self._lock = threading.Lock()
        self._tls_context: ssl.SSLContext | None = None

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        service: Service | None = None,
        accept: str = _ANY_TEXT,
    ) -> Answer:
        """Fetch one address.

        Args:
            url: An https address.
            params: Its query.
            service: Whose interface this is; its key goes along. A page that is only read has none.
            accept: The media types that are asked for.

        Raises:
            NotReached: nobody answered in time; it is in the record.
            NotAllowed: the address is not one that may be asked.
            Unusable: the answer was an error or is not text.
        """
        asked = _parse(url, params)
        address = str(asked.copy_with(fragment=None))
        self.guard.check_text(address)
        key = (address, accept, service.base if service else None)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        try:
            answer = self._get(asked, service=service, accept=accept)
        except NotReached as error:
            self.record.miss(error.message)
            raise
        self.record.reach(address, answer.url)
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
        return answer

    def check_online(self, what: str) -> None:
        """Raises NotReached, and writes it down, where nothing may be asked."""
        if self._is_offline:
            error = NotReached(what, "offline (HF_HUB_OFFLINE is set)", hint="unset HF_HUB_OFFLINE")
            self.record.miss(error.message)
            raise error

    def _get(self, url: httpx.URL, *, service: Service | None, accept: str) -> Answer:
        self.check_online(url.host)
        attempts = 0
        while True:
            attempt = Attempt(
                url=url,
                service=service,
                accept=accept,
                guard=self.guard,
                tls=self._tls(),
                deadline=time.monotonic() + self._total_timeout_s,
            )
            attempts += 1
            try:
                # From outside too: a server that sends a header byte by byte never lets a read time out.
                return within(self._total_timeout_s, attempt.follow)
            except TimeoutError as error:
                raise NotReached(url.host, f"no answer within {self._total_timeout_s:g} s") from error
            except Busy as busy:
                wait_s = 2.0 ** (attempts - 1) if busy.wait_s is None else busy.wait_s
                if attempts > MAX_RETRIES or wait_s > MAX_RETRY_AFTER_S:
                    raise _gave_up(url.host, busy) from busy
            self._sleep(wait_s)

    def _tls(self) -> ssl.SSLContext:
        """Made once: loading the certificates takes a while. SSL_CERT_FILE is heeded."""
        import httpx

        with self._lock:
            if self._tls_context is None:
                self._tls_context = httpx.create_ssl_context()
            return self._tls_context


def _parse(url: str, params: Mapping[str, str | int] | None) -> httpx.URL:
    import httpx

    try:
        return httpx.URL(url.strip(), params=params) if params else httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise NotAllowed(f"{url[:200]!r} is no address: {error}") from error


def _gave_up(host: str, busy: Busy) -> NotReached:
    reason = "too many requests" if busy.status in {403, 429} else "out of order"
    later = f", asks to wait {busy.wait_s:.0f} s" if busy.wait_s else ""
    return NotReached(host, f"{reason} ({busy.status}{later})", hint="wait and run the same command again")
