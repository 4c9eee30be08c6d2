"""The environment, `.env` and the user's config file, read once.

The environment wins over the `.env` of the working directory. Nothing read here is put back into
the environment, so no child process inherits a secret from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ml_intern_cli.access import PUBLIC_HUB, HubAccess, ModelAccess
from ml_intern_cli.cli.config import Config, load_config
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.executors.sandbox import SandboxSettings
from ml_intern_cli.notify import NotifySettings

_TRUE = {"1", "true", "yes", "on"}

# A token goes only to the host it was given for. A `.env` comes with whatever folder one works in,
# so it may name another host only for a token that it brings along.
_HOST_AND_TOKEN = (
    ("HF_ENDPOINT", "HF_TOKEN"),
    ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the surroundings say.

    Attributes:
        hub_token_source: Where the Hub token was found; ``None`` without one.
        sandbox: Behind which wall the programs of a path run.
    """

    runs_dir: Path
    hub: HubAccess
    hub_token_source: str | None
    notify: NotifySettings
    anthropic: ModelAccess
    openai: ModelAccess
    github_token: str | None = field(repr=False)
    s2_api_key: str | None = field(repr=False)
    config: Config

    @property
    def sandbox(self) -> SandboxSettings:
        """What the config file chooses of walls."""
        return SandboxSettings(**self.config.sandbox.model_dump())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that must stand in no file and no message."""
        keys = (self.anthropic.api_key, self.openai.api_key, self.github_token, self.s2_api_key)
        known = (self.hub.token, *self.notify.secrets, *keys, *self.config.secrets)
        return tuple(one for one in known if one)


def load_settings(
    environment: Mapping[str, str], *, working_dir: Path, runs_dir: Path | None = None
) -> Settings:
    """Read the environment, ``working_dir/.env`` and the config file; the option ``runs_dir`` wins over them.

    Raises:
        InvalidInput: `.env` is not text, or sends a token to a host it was not given for; the config file is
            not as it should be.
    """
    dotenv = _read_dotenv(working_dir / ".env")
    _check_hosts(environment, dotenv)
    values = {name: value for name, value in {**dotenv, **environment}.items() if value}
    hub, source = _hub_access(values, from_dotenv="HF_TOKEN" in dotenv and not environment.get("HF_TOKEN"))
    return Settings(
        runs_dir=_absolute(runs_dir or values.get("ML_INTERN_RUNS_DIR") or "~/ml-intern-runs", working_dir),
        hub=hub,
        hub_token_source=source,
        notify=NotifySettings(
            telegram_bot_token=values.get("TG_BOT_TOKEN"),
            telegram_chat_id=values.get("TG_CHAT_ID"),
            slack_bot_token=values.get("SLACK_BOT_TOKEN"),
            slack_channel_id=values.get("SLACK_CHANNEL_ID"),
            slack_webhook_url=values.get("SLACK_WEBHOOK_URL"),
            slack_auto_events=values.get("ML_INTERN_SLACK_AUTO_EVENTS"),
        ),
        anthropic=_language_model(values, "ANTHROPIC"),
        openai=_language_model(values, "OPENAI"),
        github_token=values.get("GITHUB_TOKEN"),
        s2_api_key=values.get("S2_API_KEY"),
        config=load_config(environment),  # never what a `.env` says: the file can start programs
    )


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        # Not interpolated: a folder's `.env` must not send ${HF_TOKEN} to an address of its choice.
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", hint="fix or remove the file") from error


def _check_hosts(environment: Mapping[str, str], dotenv: Mapping[str, str]) -> None:
    for host, token in _HOST_AND_TOKEN:
        if dotenv.get(host) and not environment.get(host) and environment.get(token):
            raise InvalidInput(
                f".env sets {host}, but {token} comes from the environment: it is not sent to that host",
                hint=f"set both in the same place, or unset {host} in .env",
            )


def _hub_access(values: Mapping[str, str], *, from_dotenv: bool) -> tuple[HubAccess, str | None]:
    endpoint = values.get("HF_ENDPOINT")
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise InvalidInput(
            "HF_ENDPOINT holds a user name or password, which would end up in documents",
            hint="leave it out of the address; HF_TOKEN says who you are",
        )
    token = _checked_token(values.get("HF_TOKEN", "").strip()) or None
    source = None if token is None else (".env" if from_dotenv else "environment")
    if token is None and (endpoint is None or endpoint.rstrip("/") == PUBLIC_HUB):
        token = _stored_login(values)
        source = None if token is None else "stored login"
    cache = values.get("HF_HUB_CACHE")
    offline = (values.get("HF_HUB_OFFLINE") or values.get("TRANSFORMERS_OFFLINE") or "").lower() in _TRUE
    access = HubAccess(
        endpoint=endpoint,
        token=token,
        user=values.get("HF_USER"),
        offline=offline,
        cache_dir=Path(cache).expanduser() if cache else None,
    )
    return access, source


def _checked_token(token: str) -> str:
    """The token itself. Raises InvalidInput if it cannot be one; it is not shown."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(
            "HF_TOKEN is no token: it has spaces, line ends or letters that no token has",
            hint="copy it anew from the Hub's settings",
        )
    return token


def _stored_login(values: Mapping[str, str]) -> str | None:
    """The token that ``hf auth login`` keeps, found without importing its library."""
    cache_home = values.get("XDG_CACHE_HOME") or "~/.cache"
    home = values.get("HF_HOME") or f"{cache_home}/huggingface"
    path = Path(values.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _language_model(values: Mapping[str, str], provider: str) -> ModelAccess:
    return ModelAccess(api_key=values.get(f"{provider}_API_KEY"), base_url=values.get(f"{provider}_BASE_URL"))


def _absolute(path: Path | str, working_dir: Path) -> Path:
    return working_dir / Path(path).expanduser()
