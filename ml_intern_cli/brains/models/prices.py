"""What a call costs: the user's own prices first, then the table that is shipped. Nothing is guessed.

A cap on money binds only where the price is known, so a model without one is not called at all.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from ml_intern_cli.brains.models.message import Usage
from ml_intern_cli.errors import InvalidInput

_TABLE = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})\Z")  # claude-haiku-4-5-20251001, gpt-5-2025-08-07
_OWN_KEYS = ("input", "output", "cache_read", "cache_write")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens.

    Attributes:
        long: What a call costs in whole when its prompt, cached or not, is longer than ``long_above``.
    """

    input: float
    output: float
    cache_read: float
    cache_write: float
    long_above: int | None = None
    long: Price | None = None


def price_of(model: str, own: Mapping[str, Price]) -> Price | None:
    """What a model costs; ``None``: unknown, so it must not be called.

    Args:
        model: Its name at the service.
        own: The user's prices, by name or by pattern (``"qwen*"``); the longest pattern that fits wins.
            A price for the undated name holds for its dated versions too.
    """
    names = (model, _DATED.sub("", model))
    for name in names:
        if name in own:
            return own[name]
    patterns = [pattern for pattern in own if any(fnmatchcase(name, pattern) for name in names)]
    if patterns:
        return own[max(patterns, key=len)]
    shipped = _shipped()
    return next((shipped[name] for name in names if name in shipped), None)


def cost(price: Price, usage: Usage) -> float:
    """What a reply cost, in USD."""
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    if price.long is not None and price.long_above is not None and prompt > price.long_above:
        price = price.long
    return (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_tokens * price.cache_read
        + usage.cache_write_tokens * price.cache_write
    ) / _MILLION


def read_own_prices(table: Mapping[str, Any]) -> dict[str, Price]:
    """The ``[prices]`` table of the user's configuration, by model.

    Raises:
        InvalidInput: a price is missing, negative or no number; the message names the key.
    """
    if not isinstance(table, Mapping):
        raise InvalidInput("prices: expected a table", hint=_HOW_TO_PRICE)
    return {model: _own_price(model, entry) for model, entry in table.items()}


_HOW_TO_PRICE = 'write, in USD per million tokens: [prices."MODEL"], input = 3.0, output = 15.0'


def _own_price(model: str, entry: Any) -> Price:
    place = f'prices."{model}"'
    if not isinstance(entry, Mapping):
        raise InvalidInput(f"{place}: expected a table", hint=_HOW_TO_PRICE)
    for key in entry:
        if key not in _OWN_KEYS:
            raise InvalidInput(f"{place}.{key}: there is no such key", hint=_HOW_TO_PRICE)
    for key in ("input", "output"):
        if key not in entry:
            raise InvalidInput(f"{place}.{key}: missing", hint=_HOW_TO_PRICE)
    given = {key: _usd(f"{place}.{key}", value) for key, value in entry.items()}
    return Price(
        input=given["input"],
        output=given["output"],
        # What a cache saves is not assumed, and what it costs is.
        cache_read=given.get("cache_read", given["input"]),
        cache_write=given.get("cache_write", 1.25 * given["input"]),
    )


def _usd(place: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise InvalidInput(f"{place}: must be a number of USD, 0 or more", hint=_HOW_TO_PRICE)
    return float(value)


@cache
def _shipped() -> dict[str, Price]:
    """The table of this package, by model."""
    models = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["models"]
    return {name: _shipped_price(entry) for name, entry in models.items()}


def _shipped_price(entry: Mapping[str, Any]) -> Price:
    long = entry.get("long")
    return Price(
        input=float(entry["input"]),
        output=float(entry["output"]),
        cache_read=float(entry["cache_read"]),
        cache_write=float(entry["cache_write"]),
        long_above=long["above"] if long else None,
        long=_shipped_price(long) if long else None,
    )
