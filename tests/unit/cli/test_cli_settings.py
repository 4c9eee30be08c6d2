"""What is read from the environment and `.env`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_intern_cli.cli.settings import load_settings
from ml_intern_cli.errors import InvalidInput

TOKEN = "hf_" + "x" * 34


def test_nothing_set_gives_the_defaults(tmp_path):
    settings = load_settings({}, working_dir=tmp_path)
    assert settings.runs_dir == Path.home() / "ml-intern-runs"
    assert settings.hub.token is None
    assert settings.hub_token_source is None
    assert not settings.hub.offline
    assert settings.anthropic.api_key is None


def test_dotenv_is_read_and_the_environment_wins(tmp_path):
    (tmp_path / ".env").write_text("HF_USER=from-file\nTG_CHAT_ID=12\nexport S2_API_KEY='k'\n")
    settings = load_settings({"HF_USER": "from-environment"}, working_dir=tmp_path)
    assert settings.hub.user == "from-environment"
    assert settings.notify.telegram_chat_id == "12"
    assert settings.s2_api_key == "k"


def test_dotenv_cannot_read_the_environment(tmp_path):
    (tmp_path / ".env").write_text("SLACK_WEBHOOK_URL=http://127.0.0.1/${HF_TOKEN}\n")
    settings = load_settings({"HF_TOKEN": TOKEN}, working_dir=tmp_path)
    assert TOKEN not in str(settings.notify.slack_webhook_url)


@pytest.mark.parametrize("token", ["hf_…", "hf_abc\nhf_def", "two words"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(token, tmp_path):
    with pytest.raises(InvalidInput, match="HF_TOKEN is no token") as refused:
        load_settings({"HF_TOKEN": token}, working_dir=tmp_path)
    assert token not in refused.value.message


def test_an_address_with_a_password_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="HF_ENDPOINT"):
        load_settings({"HF_ENDPOINT": "https://me:pw@hub.example"}, working_dir=tmp_path)


def test_every_secret_is_known(tmp_path):
    values = {"HF_TOKEN": TOKEN, "OPENAI_API_KEY": "k1", "GITHUB_TOKEN": "k2", "TG_BOT_TOKEN": "k3"}
    assert set(load_settings(values, working_dir=tmp_path).secrets) == set(values.values())


def test_an_empty_variable_counts_as_unset(tmp_path):
    (tmp_path / ".env").write_text("HF_USER=from-file\n")
    assert load_settings({"HF_USER": ""}, working_dir=tmp_path).hub.user is None
    assert load_settings({"HF_TOKEN": " \n"}, working_dir=tmp_path).hub.token is None


def test_nothing_of_dotenv_reaches_the_environment_of_children(tmp_path, monkeypatch):
    import os

    (tmp_path / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    assert load_settings(os.environ, working_dir=tmp_path).hub.token == TOKEN
    assert "HF_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, ".cache/huggingface"),
        ({"XDG_CACHE_HOME": "{home}/xdg"}, "xdg/huggingface"),
        ({"HF_HOME": "{home}/hf"}, "hf"),
    ],
)
def test_the_stored_login_is_found(environment, folder, tmp_path):
    home = Path.home()
    (home / folder).mkdir(parents=True)
    (home / folder / "token").write_text(f"{TOKEN}\n")
    values = {name: value.format(home=home) for name, value in environment.items()}
    settings = load_settings(values, working_dir=tmp_path)
    assert settings.hub.token == TOKEN
    assert settings.hub_token_source == "stored login"


def test_the_stored_login_is_not_sent_to_another_hub(tmp_path):
    folder = Path.home() / ".cache/huggingface"
    folder.mkdir(parents=True)
    (folder / "token").write_text(TOKEN)
    assert load_settings({"HF_ENDPOINT": "http://127.0.0.1:1"}, working_dir=tmp_path).hub.token is None
    assert load_settings({"HF_ENDPOINT": "https://huggingface.co/"}, working_dir=tmp_path).hub.token == TOKEN


@pytest.mark.parametrize(
    ("host", "token"),
    [
        ("HF_ENDPOINT", "HF_TOKEN"),
        ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
        ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    ],
)
def test_dotenv_cannot_redirect_a_token_of_the_environment(host, token, tmp_path):
    (tmp_path / ".env").write_text(f"{host}=https://elsewhere.example\n")
    with pytest.raises(InvalidInput, match=f"{host}, but {token} comes from the environment"):
        load_settings({token: "secret"}, working_dir=tmp_path)
    load_settings({token: "secret", host: "https://mine.example"}, working_dir=tmp_path)
    load_settings({}, working_dir=tmp_path)


def test_a_binary_dotenv_is_bad_input(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00A=1")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_settings({}, working_dir=tmp_path)


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline(value, tmp_path):
    assert load_settings({"HF_HUB_OFFLINE": value}, working_dir=tmp_path).hub.offline
    assert not load_settings({"HF_HUB_OFFLINE": "0"}, working_dir=tmp_path).hub.offline


def test_no_secret_shows_in_a_representation(tmp_path):
    secrets = {
        "HF_TOKEN": "secret-1",
        "ANTHROPIC_API_KEY": "secret-2",
        "OPENAI_API_KEY": "secret-3",
        "GITHUB_TOKEN": "secret-4",
        "S2_API_KEY": "secret-5",
        "TG_BOT_TOKEN": "secret-6",
        "SLACK_BOT_TOKEN": "secret-7",
        "SLACK_WEBHOOK_URL": "https://hooks.example/secret-8",
    }
    assert "secret" not in repr(load_settings(secrets, working_dir=tmp_path))
