"""What a tool is: a name, typed arguments, and a function that answers in text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_intern_cli.brains.models.message import ToolSpec
from ml_intern_cli.errors import MlInternError


class Arguments(BaseModel):
    """What a tool is called with; an unknown argument is an error that goes back to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


A = TypeVar("A", bound=Arguments)


class ToolFailed(MlInternError):
    """What the model asked for cannot be done; the message is its answer, and it may try otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool.

    Attributes:
        read_only: It changes nothing, so several may run at once.
        call: Gets the arguments as the model wrote them and answers in text. Raises ToolFailed.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    read_only: bool
    call: Callable[[Mapping[str, Any]], str]

    @property
    def spec(self) -> ToolSpec:
        """As a model sees it."""
        return ToolSpec(name=self.name, description=self.description, schema=self.schema)


def tool(
    name: str, description: str, arguments: type[A], run: Callable[[A], str], *, read_only: bool
) -> Tool:
    """A tool whose arguments are checked against a model; what does not fit goes back with the reasons."""

    def call(given: Mapping[str, Any]) -> str:
        try:
            checked = arguments.model_validate(given)
        except ValidationError as error:
            raise ToolFailed(f"{name} cannot be called like this:\n{explain(error)}") from error
        return run(checked)

    return Tool(
        name=name,
        description=description,
        schema=arguments.model_json_schema(),
        read_only=read_only,
        call=call,
    )


def explain(error: ValidationError) -> str:
    """All that is wrong, a line each: ``paths.0.variant: Field required``."""
    return "\n".join(
        f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in error.errors()
    )
