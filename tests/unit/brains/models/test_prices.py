"""Nothing is called at a price that nobody stated."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.models import prices
from ml_intern_cli.brains.models.message import Usage
from ml_intern_cli.brains.models.prices import Price, cost, price_of, read_own_prices
from ml_intern_cli.errors import InvalidInput

MINE = Price(1, 2, 3, 4)
OTHER = Price(5, 6, 7, 8)


def test_a_model_is_found_by_its_name_and_by_its_dated_name() -> None:
    haiku = price_of("claude-haiku-4-5", {})

    assert haiku == Price(1.0, 5.0, 0.1, 1.25)
    assert price_of("claude-haiku-4-5-20251001", {}) == haiku
    assert price_of("gpt-5-2025-08-07", {}) == price_of("gpt-5", {}) != None  # noqa: E711


@pytest.mark.parametrize(
    "name", ["claude-opus-9", "claude-opus-5-6", "claude-haiku-4-5-latest", "gpt-5x", ""]
)
def test_nothing_is_guessed_for_an_unknown_model(name: str) -> None:
    assert price_of(name, {}) is None


def test_the_users_own_price_comes_first() -> None:
    assert price_of("gpt-5", {"gpt-5": MINE}) is MINE
    assert price_of("gpt-5-2025-08-07", {"gpt-5": MINE}) is MINE
    assert price_of("gpt-5", {"gpt-*": OTHER, "gpt-5": MINE}) is MINE
    assert price_of("qwen3:8b", {"*": OTHER, "qwen*": MINE}) is MINE
    assert price_of("Qwen3", {"qwen*": MINE}) is None


def test_a_cost_is_the_sum_of_its_four_parts() -> None:
    usage = Usage(
        input_tokens=1_000_000, output_tokens=500_000, cache_read_tokens=100_000, cache_write_tokens=250_000
    )

    assert cost(MINE, usage) == pytest.approx(1 + 1 + 0.3 + 1)


def test_a_long_prompt_costs_more_in_whole() -> None:
    beyond = Price(input=0.5, output=2.5, cache_read=0.05, cache_write=0.5)
    haiku = Price(input=0.1, output=0.5, cache_read=0.01, cache_write=0.1, long_above=100_000, long=beyond)
    short = Usage(input_tokens=40_000, cache_read_tokens=60_000, output_tokens=1_000)
    long = Usage(input_tokens=40_001, cache_read_tokens=60_000, output_tokens=1_000)

    assert cost(haiku, short) == pytest.approx(40_000 * 0.1e-6 + 60_000 * 0.01e-6 + 1_000 * 0.5e-6)
    assert cost(haiku, long) == pytest.approx(40_001 * 0.5e-6 + 60_000 * 0.05e-6 + 1_000 * 2.5e-6)


def test_every_shipped_price_is_whole_and_names_its_source() -> None:
    table = tomllib.loads(Path(prices.__file__).with_name("prices.toml").read_text(encoding="utf-8"))

    assert table["as_of"]
    for name, entry in table["models"].items():
        price = price_of(name, {})
        assert price is not None
        assert 0 < price.cache_read <= price.input <= price.cache_write <= price.output
        assert entry["source"].startswith("https://")
        if price.long is not None:
            assert price.long_above
            assert price.long.input > price.input
            assert price.long.output > price.output


def test_own_prices_need_two_numbers_and_take_four() -> None:
    own = read_own_prices(
        {
            "qwen*": {"input": 2, "output": 3.5},
            "free": {"input": 0, "output": 0},
            "all": {"input": 1, "output": 2, "cache_read": 0.1, "cache_write": 1},
        }
    )

    assert own["qwen*"] == Price(2.0, 3.5, 2.0, 2.5)
    assert own["free"] == Price(0, 0, 0, 0)
    assert own["all"] == Price(1, 2, 0.1, 1)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"m": {"input": 1}}, 'prices."m".output'),
        ({"m": {"output": 1}}, 'prices."m".input'),
        ({"m": {"input": -1, "output": 1}}, 'prices."m".input'),
        ({"m": {"input": "1", "output": 1}}, 'prices."m".input'),
        ({"m": {"input": True, "output": 1}}, 'prices."m".input'),
        ({"m": {"input": 1, "output": float("nan")}}, 'prices."m".output'),
        ({"m": {"input": 1, "output": float("inf")}}, 'prices."m".output'),
        ({"m": {"input": 1, "output": 1, "cached": 1}}, 'prices."m".cached'),
        ({"m": 3}, 'prices."m"'),
        ([], "prices"),
    ],
)
def test_a_price_that_is_none_is_refused_by_its_key(table: Any, key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_own_prices(table)

    assert caught.value.message.startswith(f"{key}:")
