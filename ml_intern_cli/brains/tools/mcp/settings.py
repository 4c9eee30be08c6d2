"""One MCP server as the user configures it: a program to start, or an address."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    StringConstraints,
    model_validator,
)

_LONGEST_WAIT_S = 3600
_LEAST_SECRET = 8  # characters; what is shorter stands in texts by chance ("1", "debug")
_LEAST_NAMED_SECRET = 4
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|key|auth|credential|cookie|session|signature")
_REFERENCE = re.compile(r"\$\{\w+\}|^\$\w+$")  # ${NAME} anywhere, or $NAME as the whole value

Text = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"^[^\x00]*$")]
VariableName = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, StringConstraints(strict=True, pattern=r"^[\x20-\x7e]*$")]
VariableValue = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$")]


class McpServer(BaseModel):
    """What ``[mcp.NAME]`` says.

    Attributes:
        command: The program and its arguments; it is started in the user's home directory. In the file it may
            be text with ``args`` beside it, as other clients of MCP write it.
        env: Variables with their values, for the program.
        pass_env: Names of variables that the program gets as the user's environment has them.
        url: Address of a server that runs elsewhere (streamable HTTP).
        headers: Sent to that address, and to no other host.
        approve: Tools, as the server names them, that need nobody's approval.
        timeout_s: For starting, and for each call.
    """

    # The input would stand in tracebacks, and with it what is secret in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    command: tuple[Text, ...] | None = Field(default=None, min_length=1)
    env: dict[VariableName, VariableValue] = Field(default_factory=dict, repr=False)
    pass_env: tuple[VariableName, ...] = ()
    url: StrictStr | None = Field(default=None, repr=False)
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, repr=False)
    approve: tuple[Text, ...] = ()
    timeout_s: Annotated[float, Field(strict=True, gt=0, le=_LONGEST_WAIT_S)] = 60
    enabled: StrictBool = True

    @model_validator(mode="before")
    @classmethod
    def _as_others_write_it(cls, table: Any) -> Any:
        if not isinstance(table, dict) or not isinstance(table.get("command"), str):
            return table
        program, arguments = table["command"], table.get("args", [])
        if isinstance(arguments, list) and ("args" in table or len(program.split()) == 1):
            rest = {key: value for key, value in table.items() if key != "args"}
            return rest | {"command": [program, *arguments]}
        return table

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        faults = [*self._mixed(), *self._not_literal()]
        if (
            self.command is not None
            and "/" in self.command[0]
            and not self.command[0].startswith(("/", "~/"))
        ):
            faults.append(f"{self.command[0]} depends on the directory one is in; give the whole path")
        if self.url is not None:
            faults += _faults_of_address(self.url)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _mixed(self) -> Iterator[str]:
        if (self.command is None) == (self.url is None):
            yield "needs either command or url"
        elif self.url is not None and (self.env or self.pass_env):
            yield "env and pass_env are for a command; a url takes headers"
        elif self.command is not None and self.headers:
            yield "headers are for a url; a command takes env and pass_env"

    def _not_literal(self) -> Iterator[str]:
        way = "write the value itself" if self.command is None else "name the variable in pass_env"
        for name, value in (*self.env.items(), *self.headers.items()):
            if _REFERENCE.search(value):
                yield f"{name}: values are taken as they are, variables in them too; {way}"

    @property
    def has_literal_secrets(self) -> bool:
        """The config file itself holds what may be secret."""
        return bool(self.secrets({}))

    @property
    def sends_in_the_clear(self) -> bool:
        """Headers go over a connection that others can read."""
        address = urlsplit(self.url or "")
        here = {"localhost", "127.0.0.1", "::1"}
        return bool(self.headers) and address.scheme == "http" and address.hostname not in here

    def secrets(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """Values that must stand in no file and no message.

        Headers count, and what ``env`` sets, unless it is too short to be told from ordinary text; of what
        ``pass_env`` names, that whose name sounds like a credential.
        """
        passed = {name: environment.get(name, "") for name in self.pass_env if _SECRET_NAME.search(name)}
        values = [value for name, value in (self.env | passed).items() if _may_be_secret(name, value)]
        for value in self.headers.values():
            scheme, _, credential = value.partition(" ")
            values += [value, credential] if credential and scheme.isalpha() else [value]
        values.append(urlsplit(self.url or "").query)
        return tuple(value for value in values if len(value) >= _LEAST_NAMED_SECRET)


def _may_be_secret(name: str, value: str) -> bool:
    return len(value) >= (_LEAST_NAMED_SECRET if _SECRET_NAME.search(name) else _LEAST_SECRET)


def _faults_of_address(url: str) -> Iterator[str]:
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        yield f"url: {error}"
        return
    if address.scheme not in {"http", "https"} or not host:
        yield "url must be an http:// or https:// address"
    if "@" in address.netloc:
        yield "url holds a user name or password; put it into headers"
