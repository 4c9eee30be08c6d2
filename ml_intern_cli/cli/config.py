"""The user's configuration: models, prices, MCP servers, walls. A TOML file of the user's own.

It is read from ``$ML_INTERN_CONFIG``, else ``$XDG_CONFIG_HOME/ml-intern/config.toml``, else
``~/.config/ml-intern/config.toml``; without one everything has its default. It can start programs, so the
working directory has no say in it: neither a file there nor its `.env` is looked at.
"""

from __future__ import annotations

import difflib
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from ml_intern_cli.brains.tools.mcp.settings import McpServer
from ml_intern_cli.errors import InvalidInput, Problem

Name = Annotated[str, StringConstraints(strict=True, min_length=1)]
ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
Usd = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ModelChoice(_Table):
    """Which language models are asked.

    Attributes:
        anthropic: With ``--brain anthropic``.
        openai: With ``--brain openai``.
        cheap: For research and summaries.
        effort: How much it thinks.
    """

    anthropic: Name | None = None
    openai: Name | None = None
    cheap: Name | None = None
    effort: Literal["low", "medium", "high"] | None = None


class Sandbox(_Table):
    """Which walls stand around programs that ml-intern did not bring along.

    Attributes:
        wall: ``auto`` takes the best that this machine has.
        docker_image: In which they run, with docker.
        allow_unsandboxed: They may run with no walls at all.
    """

    wall: Literal["auto", "bubblewrap", "docker", "none"] = "auto"
    docker_image: Name | None = None
    allow_unsandboxed: StrictBool = False


class Price(_Table):
    """What a model costs, in USD per million tokens."""

    input: Usd
    output: Usd
    cache_read: Usd | None = None
    cache_write: Usd | None = None


class _File(_Table):
    model: ModelChoice = ModelChoice()
    prices: dict[Name, Price] = Field(default_factory=dict)
    mcp: dict[ServerName, McpServer] = Field(default_factory=dict)
    sandbox: Sandbox = Sandbox()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says.

    Attributes:
        path: Where it stands or would stand.
        prices: By model, USD per million tokens: input, output and, where given, cache_read, cache_write.
        mcp: MCP servers by name.
        warnings: What is risky about it, a line each.
        secrets: Values in it, or named by it, that must stand in no file and no message.
    """

    path: Path
    model: ModelChoice = field(default_factory=ModelChoice)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    mcp: Mapping[str, McpServer] = field(default_factory=dict)
    sandbox: Sandbox = field(default_factory=Sandbox)
    warnings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def preferred(self) -> Mapping[str, str]:
        """The models and the effort that ``[model]`` names."""
        return self.model.model_dump(exclude_none=True)


def load_config(environment: Mapping[str, str]) -> Config:
    """Read the file, if there is one.

    Args:
        environment: Of the process itself. What a `.env` adds must not be in it.

    Raises:
        InvalidInput: it cannot be read or is not as it should be; all problems at once.
    """
    path = config_path(environment)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        named = bool(environment.get("ML_INTERN_CONFIG"))
        return Config(path=path, warnings=(f"ML_INTERN_CONFIG: there is no {path}",) if named else ())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", hint="fix or remove the file") from error
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: this is no TOML: {error}", hint=f"edit {path}") from error
    except ValidationError as error:
        problems = (Problem(str(path), None, *_explained(one)) for one in error.errors(include_input=False))
        raise InvalidInput(
            "\n".join(map(str, problems)), hint=f"edit {path}; docs/config.md lists its keys"
        ) from error
    return Config(
        path=path,
        model=file.model,
        prices={name: price.model_dump(exclude_none=True) for name, price in file.prices.items()},
        mcp=file.mcp,
        sandbox=file.sandbox,
        warnings=tuple(_warnings(path, file.mcp)),
        secrets=tuple(secret for server in file.mcp.values() for secret in server.secrets(environment)),
    )


def config_path(environment: Mapping[str, str]) -> Path:
    """Where the user's configuration stands, whether or not it is there.

    Raises:
        InvalidInput: ``ML_INTERN_CONFIG`` would be another file in every directory.
    """
    named = environment.get("ML_INTERN_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_absolute():
            raise InvalidInput(
                f"ML_INTERN_CONFIG is {named}, which depends on the directory one is in",
                hint=f"export ML_INTERN_CONFIG={path.absolute()}",
            )
        return path
    home = Path(environment.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    if not home.is_absolute():  # to be ignored, says the XDG base directory specification
        home = Path("~/.config").expanduser()
    return home / "ml-intern" / "config.toml"


def _warnings(path: Path, servers: Mapping[str, McpServer]) -> list[str]:
    mode = path.stat().st_mode
    found = []
    if mode & stat.S_IWOTH:
        found.append(f"{path} can be changed by every user of this machine: chmod 600 {path}")
    elif mode & (stat.S_IRGRP | stat.S_IROTH) and any(one.has_literal_secrets for one in servers.values()):
        found.append(f"{path} holds values of env or headers and others can read it: chmod 600 {path}")
    return found + [
        f"[mcp.{name}] sends its headers unencrypted: use https"
        for name, server in servers.items()
        if server.sends_in_the_clear
    ]


_TABLES: Mapping[str, type[BaseModel]] = {
    "model": ModelChoice,
    "prices": Price,
    "mcp": McpServer,
    "sandbox": Sandbox,
}
_MEANINGS = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "string_type": "must be text, in quotes",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "int_type": "must be a number",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "has characters that it cannot have",
}


def _explained(error: ErrorDetails) -> tuple[str, str]:
    """The key and what is wrong with it."""
    place = [str(part) for part in error["loc"]]
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    key, message = ".".join(place), _MEANINGS.get(error["type"], said)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _known_keys(place), n=1, cutoff=0.5)
        message = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known: {_known(place)}"
    elif place[-1] == "[key]":
        key, message = ".".join(place[:-1]), _bad_name(place)
    return key, message


def _known_keys(place: list[str]) -> list[str]:
    return list(_File.model_fields if len(place) == 1 else _TABLES[place[0]].model_fields)


def _known(place: list[str]) -> str:
    return ", ".join(_known_keys(place))


def _bad_name(place: list[str]) -> str:
    if place[0] == "mcp" and len(place) == 3:
        return "the name must be small letters, digits and hyphens, a letter first, 32 at most"
    return "this name cannot be used here"
