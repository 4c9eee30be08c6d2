"""What every document's model shares: frozen, closed, plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ml_intern_cli.quantities import parse_duration, parse_seq_len

Scalar = bool | int | float | str
"""A value that a Markdown field can hold."""

PATTERNS = {
    r"^[a-z][a-z0-9-]{0,31}$": "lower-case letters, digits and hyphens, starting with a letter",
    r"^[a-z]([a-z0-9_]*[a-z0-9])?$": "the name of a field",
    r"^[^\s<>\x00-\x1f\x7f-\x9f]+$": "a URL",
}
"""What texts of these patterns are, in words."""

_PATH_ID, _FIELD_NAME, _URL = PATTERNS
PathId = Annotated[str, Field(pattern=_PATH_ID)]
FieldName = Annotated[str, Field(pattern=_FIELD_NAME)]
Url = Annotated[str, Field(pattern=_URL)]


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a number that people also write with a unit, such as ``20m``."""

    parse: Callable[[str], float]  # raises InvalidInput


def _parse_hours(text: str) -> float:
    return parse_duration(text) / 3600


def _decimals(count: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, count))


def _digits(count: int) -> AfterValidator:
    """Significant digits: unlike decimals, they never turn a small positive number into 0."""
    return AfterValidator(lambda value: float(f"{value:.{count}g}"))


# Measured and derived numbers are kept to the digits that mean something, so that the files read well.
Seconds = Annotated[float, _digits(6), Quantity(parse_duration)]
Minutes = Annotated[float, _decimals(3)]
Hours = Annotated[float, _digits(5), Quantity(_parse_hours)]
Dollars = Annotated[float, _decimals(6)]  # US dollars
Loss = Annotated[float, _decimals(6)]  # nats per token
Rate = Annotated[float, _digits(5)]  # per second
SeqLen = Annotated[int, Quantity(parse_seq_len)]  # tokens; 1k is 1,024 here


class Model(BaseModel):
    """A frozen value; unknown keys are errors, so that a misspelt field is never lost."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def refuse_duplicates(keys: Iterable[str]) -> None:
    """Raise ValueError when a key comes twice."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{key} appears twice")
        seen.add(key)


class Verdict(StrEnum):
    """What the judge says of one property."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"


class PublishTarget(StrEnum):
    """Where a verified model goes."""

    HUB = "hub"
    FOLDER = "folder"
    NONE = "none"


class RunMode(StrEnum):
    """Whether somebody is at the terminal."""

    INTERACTIVE = "interactive"
    HEADLESS = "headless"
