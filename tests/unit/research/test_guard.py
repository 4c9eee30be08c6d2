from __future__ import annotations

import socket
from urllib.parse import quote

import pytest

from ml_intern_cli.research import guard as guard_module
from ml_intern_cli.research.failures import NotAllowed, NotReached
from ml_intern_cli.research.guard import Guard, is_public

PRIVATE = """
127.0.0.1 127.255.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 198.18.0.1 224.0.0.1
239.1.1.1 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%lo fc00::1 fd00:ec2::254 fec0::1 ff02::1 localhost
::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: ::127.0.0.1
2001:0:4136:e378:8000:63bf:3fff:fdd2 64:ff9b:1::1 5f00::1 4000::1
"""
HUB_TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUv0123456789"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_that_is_not_of_the_public_internet_is_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "151.101.3.42", "2606:4700::6810:1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_public_internet_is_told(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        f"https://example.org/?q={HUB_TOKEN}",
        f"https://example.org/{quote(quote(HUB_TOKEN.replace('_', '%5F')))}",
        "https://example.org/?q=" + "".join(f"%{ord(letter):02x}" for letter in HUB_TOKEN),
        "https://example.org/?q=own-secret+value",
        "https://example.org/#own-secret%20value",
        "own-secret value",
    ],
)
def test_a_secret_in_an_address_is_refused_however_it_is_encoded(text: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        Guard(secrets=("own-secret value",)).check_text(text)
    assert HUB_TOKEN not in caught.value.message
    assert "own-secret" not in caught.value.message


def test_an_address_without_a_secret_passes() -> None:
    Guard(secrets=("own-secret",)).check_text("https://example.org/a%20b?q=tokens+per+second&page=2#secret")


def test_an_address_that_a_server_signed_may_be_followed_but_not_with_a_known_secret() -> None:
    guard = Guard(secrets=("own-secret",))
    guard.check_redirect("https://storage.example/file?X-Amz-Signature=0123456789abcdef")
    with pytest.raises(NotAllowed):
        guard.check_redirect("https://storage.example/file?x=own%2Dsecret")


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    guard = Guard(resolve=lambda *_: ("8.8.8.8", "10.0.0.1"))
    with pytest.raises(NotAllowed, match=r"10\.0\.0\.1"):
        guard.addresses("https", "example.org", 443)


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", ""])
def test_only_https_is_asked(scheme: str) -> None:
    with pytest.raises(NotAllowed, match="only https"):
        Guard(resolve=lambda *_: ("8.8.8.8",)).addresses(scheme, "example.org", 80)


def test_what_is_allowed_is_one_port_of_a_host_as_it_is_written() -> None:
    guard = Guard(allowed=frozenset({("127.0.0.1", 8000)}))
    assert guard.addresses("http", "127.0.0.1", 8000) == ("127.0.0.1",)
    for host, port in (("127.0.0.1", 8001), ("localhost", 8000), ("2130706433", 8000)):
        with pytest.raises(NotAllowed):
            guard.addresses("https", host, port)


def test_a_name_that_is_not_known_says_so_in_one_line() -> None:
    def unknown(*_: object) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(NotReached) as caught:
        Guard(resolve=unknown).addresses("https", "arxiv.org", 443)
    assert caught.value.message == "arxiv.org: no network (Name or service not known)"


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(guard_module, "RESOLVE_TIMEOUT_S", 0.05)
    release = threading.Event()

    def hang(*_: object) -> tuple[str, ...]:
        release.wait(60)
        return ()

    with pytest.raises(NotReached, match="could not be resolved in time"):
        Guard(resolve=hang).addresses("https", "arxiv.org", 443)
    release.set()


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "..", "a b"])
def test_a_host_that_no_name_can_be_is_not_reached(host: str) -> None:
    with pytest.raises(NotReached, match="no network"):
        Guard().addresses("https", host, 443)
