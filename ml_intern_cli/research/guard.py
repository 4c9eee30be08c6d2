"""Which addresses may be asked: public ones, over TLS, that give no secret away.

A page that a language model reads may tell it to open an address inside the user's network, where a GET can
read metadata of the machine or set off something. So a name is resolved here, once, and the connection goes
to the very address that was checked: a name that changes its mind between the two gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

from ml_intern_cli.access import within
from ml_intern_cli.research.failures import NotAllowed, NotReached
from ml_intern_cli.secrets import find_secrets

Resolver = Callable[[str, int], Sequence[str]]
HostPort = tuple[str, int]
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address

RESOLVE_TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ALLOCATED_IPV6 = ipaddress.ip_network("2000::/3")  # what is given out to the public internet


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as this machine finds them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Decides about addresses.

    Attributes:
        secrets: Values that no address may hold.
        allowed: Hosts, as addresses write them, and ports that may be private and without TLS.
    """

    secrets: tuple[str, ...] = ()
    allowed: frozenset[HostPort] = frozenset()
    resolve: Resolver = resolve

    def check_text(self, text: str) -> None:
        """Refuse what would carry a credential out, also when it is percent-encoded.

        Raises:
            NotAllowed: there is one in the text.
        """
        seen: set[str] = set()
        waiting = [text]
        while waiting and len(seen) < 12:  # encoded several times over
            form = waiting.pop()
            seen.add(form)
            waiting += {unquote(form), unquote_plus(form)} - seen
        self._refuse(finding.kind for form in seen for finding in find_secrets(form, known=self.secrets))

    def check_redirect(self, target: str) -> None:
        """As ``check_text``, for an address that a server chose: it may be signed for one use.

        Raises:
            NotAllowed: it holds a value that is known to be secret.
        """
        if any(value and value in unquote(target) for value in self.secrets):
            self._refuse(["a token of this session"])

    def _refuse(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            raise NotAllowed(f"not asked: the address or the query holds what looks like a secret ({kind})")

    def addresses(self, scheme: str, host: str, port: int) -> tuple[str, ...]:
        """Where to connect to for a host; all of them have been checked.

        Raises:
            NotAllowed: it is not public, or it is to be asked without TLS.
            NotReached: the name is not known here, or there is no network.
        """
        is_allowed = (host, port) in self.allowed
        if scheme != "https" and not (scheme == "http" and is_allowed):
            raise NotAllowed(f"{host}: only https:// addresses are asked, not {scheme or 'relative'} ones")
        try:
            found = tuple(within(RESOLVE_TIMEOUT_S, lambda: self.resolve(host, port)))
        except TimeoutError as error:
            raise NotReached(host, "no network (its name could not be resolved in time)") from error
        except (OSError, UnicodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "not a name"
            raise NotReached(host, f"no network ({reason})") from error
        if not found:
            raise NotReached(host, "no network (its name has no address)")
        for address in found:
            if not is_allowed and not is_public(address):
                raise NotAllowed(f"{host}: not asked: {address} is not an address of the public internet")
        return found


def is_public(address: str) -> bool:
    """Whether an IP address, and any other that it stands for, belongs to the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not isinstance(parsed, ipaddress.IPv6Address):
        return _is_unicast(parsed)
    inner = _embedded(parsed)
    if inner is not None:
        return _is_unicast(inner)
    return parsed in _ALLOCATED_IPV6 and _is_unicast(parsed)


def _is_unicast(address: _IP) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a gateway would turn this one into."""
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
