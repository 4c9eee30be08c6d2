"""Where a language model is reached and with which key: what is refused before anything is sent."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from ml_intern_cli.errors import InvalidInput

CONNECT_S = 10.0
SILENCE_S = 600.0
"""How long a service may say nothing at all; a model that thinks is silent for minutes."""

_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".internal", ".home.arpa")


def checked_address(url: str) -> str:
    """The address without a trailing slash.

    Raises:
        InvalidInput: it is none, it carries a password, or what is sent there could be read on the way.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
    except ValueError as error:
        raise InvalidInput("the address of the language model is not a URL", hint=_EXAMPLE) from error
    if parts.scheme not in {"http", "https"} or not host:
        raise InvalidInput("the address of the language model is not a URL", hint=_EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            f"the address of the language model at {host} has a user name or a password in it",
            hint="leave it out of the address; the key has its own variable",
        )
    if parts.scheme == "http" and not _is_near(host):
        raise InvalidInput(
            f"http://{host} is neither encrypted nor on this machine or a private network: "
            "key and code could be read on the way",
            hint=f"use https://{host}, or reach the server through a tunnel to localhost",
        )
    return url.strip().rstrip("/")


_EXAMPLE = "write it as https://host/path or http://localhost:port/v1"


def checked_key(key: str, variable: str) -> str:
    """The key without the spaces and line ends that come along when one is pasted.

    Raises:
        InvalidInput: nothing is left, or it cannot stand in a header. The message never shows it.
    """
    stripped = key.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise InvalidInput(
            f"{variable} is {'empty' if not stripped else 'no key: it has spaces or characters no key has'}",
            hint=f"set {variable} to the key as the service shows it",
        )
    return stripped


def is_at(address: str, *domains: str) -> bool:
    """Whether an address is at one of these domains or below it."""
    host = urlsplit(address).hostname or ""
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _is_near(host: str) -> bool:
    """On this machine or a network that no stranger routes: an address, or a name that only such can have."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_ENDINGS)
