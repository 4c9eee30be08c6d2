"""One attempt to fetch an address: each request goes to an address that was checked, redirects included."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ml_intern_cli import __version__
from ml_intern_cli.research.answer import Answer, read_answer
from ml_intern_cli.research.failures import NotAllowed, NotReached, Unusable
from ml_intern_cli.research.guard import Guard
from ml_intern_cli.secrets import find_secrets, scrub

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5

_BUSY = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An interface with an address of its own and, perhaps, an account on it.

    Attributes:
        base: Its address, without a slash at the end.
        header: What the key is sent in, to this address only and to none that it redirects to.
        key: The value of that header.
        key_name: What the user knows the key as.
        is_own: The user configured the address, so it may be in a private network.
    """

    base: str
    header: str = "Authorization"
    key: str | None = field(default=None, repr=False)
    key_name: str = ""
    is_own: bool = False


class Busy(Exception):
    """The server asks to come back later. ``wait_s`` is ``None`` where it does not say when."""

    def __init__(self, status: int, wait_s: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is asked, for whom, and until when.

    Attributes:
        url: Where it starts.
        service: Whose key may go along; ``None`` for a page that is only read.
        accept: The media types that are asked for.
        deadline: On the monotonic clock.
    """

    url: httpx.URL
    service: Service | None
    accept: str
    guard: Guard
    tls: ssl.SSLContext
    deadline: float

    def follow(self) -> Answer:
        """The answer, after redirects.

        Raises:
            Busy: it may answer later.
            NotReached: there was no connection.
            NotAllowed: an address on the way may not be asked.
            Unusable: the answer was an error or is not text.
            TimeoutError: it took too long.
        """
        import httpx

        home = None if self.service is None else origin(httpx.URL(self.service.base))
        url, is_home = self.url, True
        for _ in range(MAX_REDIRECTS + 1):
            is_home = is_home and origin(url) == home  # a key that was left behind stays behind
            outcome = self._send(url, self._headers(is_home=is_home))
            if isinstance(outcome, Answer):
                return outcome
            try:
                url = url.join(outcome)
            except httpx.InvalidURL as error:
                raise Unusable(f"{url.host}: redirects to what is no address") from error
            self.guard.check_redirect(str(url))
        raise Unusable(f"{self.url.host}: redirects more than {MAX_REDIRECTS} times")

    def _headers(self, *, is_home: bool) -> dict[str, str]:
        headers = {
            "User-Agent": f"ml-intern/{__version__}",
            "Accept": self.accept,
            "Accept-Encoding": "gzip",
        }
        service = self.service
        if service is not None and service.key and is_home:
            if not service.key.isascii() or not service.key.isprintable():
                raise Unusable(f"{self.url.host}: not asked: {service.key_name} holds what no key has in it")
            headers[service.header] = service.key
        return headers

    def _send(self, url: httpx.URL, headers: Mapping[str, str]) -> Answer | str:
        """One request: its answer, or where it redirects to."""
        import httpx

        addresses = self._addresses(url)
        left_s = max(0.1, self.deadline - time.monotonic())
        timeout = httpx.Timeout(left_s, connect=min(CONNECT_TIMEOUT_S, left_s))
        # A transport for one request, and no client: no cookies, no redirects, no connection that is kept.
        with httpx.HTTPTransport(verify=self.tls, trust_env=False) as transport:
            for address in addresses:
                try:
                    response = transport.handle_request(_request(url, address, headers, timeout))
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    if address == addresses[-1]:
                        reason = self._reason(error)
                        raise NotReached(url.host, f"cannot connect ({reason})") from error
                    continue
                except (httpx.HTTPError, ValueError) as error:
                    raise self._broken(url, error) from error
                try:
                    return self._judge(response, url)
                except httpx.HTTPError as error:
                    raise self._broken(url, error) from error
                finally:
                    response.close()
        raise AssertionError("there is at least one address")

    def _judge(self, response: httpx.Response, url: httpx.URL) -> Answer | str:
        status, headers = response.status_code, response.headers
        if status in _REDIRECTS and "Location" in headers:
            return str(headers["Location"])
        if status in _BUSY or (status == 403 and headers.get("X-RateLimit-Remaining") == "0"):
            raise Busy(status, _wait_s(headers))
        asked = str(self.url.copy_with(fragment=None))
        if status == 401 and self.service is not None and self.service.key:
            raise Unusable(f"{url.host}: does not accept {self.service.key_name} (401)", status=status)
        if not 200 <= status < 300:
            reason = {404: "not found", 410: "not found", 401: "refused", 403: "refused"}.get(status, "error")
            raise Unusable(f"{asked}: {reason} ({status})", status=status)
        final = str(url.copy_with(fragment=None))
        is_signed = bool(find_secrets(final, known=self.guard.secrets))  # for one use
        return read_answer(response, url=asked if is_signed else final, asked=asked, deadline=self.deadline)

    def _addresses(self, url: httpx.URL) -> tuple[str, ...]:
        if url.userinfo:
            raise NotAllowed(f"{url.host}: not asked: the address holds a user name or password")
        if not url.host:
            raise NotAllowed(f"{str(url)[:200]!r} is no address: it names no host")
        import httpx

        _, host, port = origin(url)
        service, guard = self.service, self.guard
        if service is not None and service.is_own and origin(url) == origin(httpx.URL(service.base)):
            guard = replace(guard, allowed=guard.allowed | {(host, port)})
        return guard.addresses(url.scheme, host, port)

    def _broken(self, url: httpx.URL, error: Exception) -> NotReached | TimeoutError:
        import httpx

        if isinstance(error, httpx.TimeoutException):
            return TimeoutError()
        return NotReached(url.host, f"the connection broke off ({self._reason(error)})")

    def _reason(self, error: Exception) -> str:
        key = self.service.key if self.service else None
        said = scrub(" ".join(str(error).split()), known=(*self.guard.secrets, key))
        return said[:200] or type(error).__name__


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port: what a key belongs to."""
    host = url.raw_host.decode("ascii").strip("[]")
    return url.scheme, host, url.port or (443 if url.scheme == "https" else 80)


def _request(
    url: httpx.URL, address: str, headers: Mapping[str, str], timeout: httpx.Timeout
) -> httpx.Request:
    """A request to an IP address in the name of the host: the certificate must be the host's."""
    import httpx

    return httpx.Request(
        "GET",
        url.copy_with(host=address, userinfo=b"", fragment=None),
        headers={**headers, "Host": url.netloc.decode("ascii")},
        extensions={"sni_hostname": origin(url)[1], "timeout": timeout.as_dict()},
    )


def _wait_s(headers: httpx.Headers) -> float | None:
    """Seconds to wait, as a server says it: a number, a date, or when its limit starts anew."""
    asked = headers.get("Retry-After", "")
    if asked.isdigit():
        return float(asked)
    reset = headers.get("X-RateLimit-Reset", "")
    try:
        until = float(reset) if reset.isdigit() else email.utils.parsedate_to_datetime(asked).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, until - time.time())
