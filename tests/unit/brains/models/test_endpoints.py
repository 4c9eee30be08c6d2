"""Keys and code go only where nobody can read along."""

from __future__ import annotations

import pytest

from ml_intern_cli.brains.models.anthropic import AnthropicModel
from ml_intern_cli.brains.models.endpoints import checked_address, checked_key
from ml_intern_cli.brains.models.openai import OpenAIModel
from ml_intern_cli.errors import InvalidInput


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://localhost:11434/v1",
        "http://127.0.0.1:8000",
        "http://[::1]:8000/v1",
        "http://192.168.1.7:1234/v1",
        "http://10.0.0.2",
        "http://gpu-box:8000/v1",
        "http://host.docker.internal:11434/v1",
        "http://nas.local/v1",
    ],
)
def test_encrypted_or_near_addresses_are_used(url: str) -> None:
    assert checked_address(f" {url}/ ") == url


@pytest.mark.parametrize(
    "url", ["http://api.openai.com/v1", "http://8.8.8.8/v1", "http://localhost.evil.com"]
)
def test_an_address_that_strangers_can_read_is_refused(url: str) -> None:
    for make in (AnthropicModel, OpenAIModel):
        with pytest.raises(InvalidInput, match="neither encrypted nor on this machine") as caught:
            make(name="m", api_key="key", base_url=url)
        assert "https://" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["", "api.openai.com", "ftp://host", "https://", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="not a URL"):
        checked_address(url)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_address("https://me:hunter2@host/v1")

    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("key", ["", "  \n", "two words", "kéy", "a\x00b"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidInput, match="ANTHROPIC_API_KEY") as caught:
        AnthropicModel(name="m", api_key=key)

    assert not key.strip() or key not in f"{caught.value.message} {caught.value.hint}"


def test_a_pasted_key_loses_its_line_end() -> None:
    assert checked_key("sk-1\n", "OPENAI_API_KEY") == "sk-1"
