"""Sizes, counts and times as people write them: ``100M``, ``1,000``, ``1e8``, ``1h30m``."""

from __future__ import annotations

import math
import re

from ml_intern_cli.errors import InvalidInput

COUNT_UNITS = {
    unit: multiplier
    for multiplier, units in {
        10**3: ("k", "thousand"),
        10**6: ("m", "mn", "million", "millions"),
        10**9: ("b", "bn", "billion", "billions"),
        10**12: ("t", "tn", "trillion", "trillions"),
    }.items()
    for unit in units
}
"""How many one unit of a count is, by its name in lower case."""

DURATION_UNITS = {
    unit: seconds
    for seconds, units in {
        1: ("s", "sec", "secs", "second", "seconds"),
        60: ("m", "min", "mins", "minute", "minutes"),
        3600: ("h", "hr", "hrs", "hour", "hours"),
        86_400: ("d", "day", "days"),
        604_800: ("w", "week", "weeks"),
    }.items()
    for unit in units
}
"""How many seconds one unit of time is, by its name in lower case."""

NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""A pattern for a number without sign: ``7``, ``1,000,000``, ``1_000``, ``2.5``, ``.5``, ``1e8``."""

_LARGEST_COUNT = 10**15
_LARGEST_DURATION_S = 366 * 86_400

_COUNT = re.compile(rf"[~≈]?\s*(?P<number>{NUMBER})\s*(?P<unit>[A-Za-z]*)")
_SEQ_LEN = re.compile(rf"(?P<number>{NUMBER})\s*(?P<unit>[kK]?)\s*(?:tokens?)?")
_DURATION_PART = re.compile(rf"(?P<number>{NUMBER})\s*(?P<unit>[A-Za-z]*)(?:\s*(?:,|and\b)?\s*(?=[.0-9]))?")


def parse_params(text: str) -> int:
    """A number of parameters: ``100M``, ``2.5m params``, ``1e8``, ``1,000,000``.

    Raises:
        InvalidInput: not a number, not positive, or absurdly large.
    """
    return _count(text, what="parameter count", noun=r"(?:params?|parameters?)", example="500k, 100M or 1.3B")


def parse_tokens(text: str) -> int:
    """A number of tokens: ``5M``, ``2B tokens``.

    Raises:
        InvalidInput: not a number, not positive, or absurdly large.
    """
    return _count(text, what="token count", noun=r"tokens?", example="500k, 5M or 2B")


def parse_steps(text: str) -> int:
    """A number of optimizer steps: ``1000``, ``10k``, ``500 steps``.

    Raises:
        InvalidInput: not a number, not positive, or absurdly large.
    """
    return _count(text, what="number of steps", noun=r"steps?", example="500 or 10k")


def parse_seq_len(text: str) -> int:
    """A sequence length in tokens: ``256``, ``1k``. Here ``k`` is 1,024, as it is in context lengths.

    Raises:
        InvalidInput: not a whole number between 2 and 10 million.
    """
    hint = "write it like 256, 1k or 4096"
    match = _SEQ_LEN.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a sequence length", hint=hint)
    value = _to_float(match["number"]) * (1024 if match["unit"] else 1)
    if not 2 <= value <= 10**7 or not value.is_integer():
        raise InvalidInput(f"sequence length {text!r} is not between 2 and 10 million tokens", hint=hint)
    return int(value)


def parse_duration(text: str) -> float:
    """A duration in seconds: ``90s``, ``20m``, ``1.5h``, ``1h30m``, ``2 hours and 10 minutes``, ``2d``.

    Raises:
        InvalidInput: no unit, an unknown one, not positive, or more than a year.
    """
    hint = "write it like 90s, 20m, 1.5h, 1h30m or 2d"
    total, smallest_unit, position, stripped = 0.0, math.inf, 0, text.strip()
    while position < len(stripped):
        match = _DURATION_PART.match(stripped, position)
        if match is None:
            raise InvalidInput(f"{text!r} is not a duration", hint=hint)
        if not match["unit"]:
            raise InvalidInput(f"{text!r} needs a unit: s, m, h, d or w", hint=hint)
        unit_s = DURATION_UNITS.get(match["unit"].lower())
        if unit_s is None or unit_s >= smallest_unit:
            raise InvalidInput(f"{text!r} is not a duration: {match['unit']!r} is out of place", hint=hint)
        total += _to_float(match["number"]) * unit_s
        smallest_unit, position = unit_s, match.end()
    if not 0 < total <= _LARGEST_DURATION_S:
        raise InvalidInput(f"duration {text!r} is not between 0 and one year", hint=hint)
    return total


def format_params(value: float) -> str:
    """A compact size: ``100M`` where that is exact, else three significant digits: ``1.00M``, ``11.8k``."""
    for scale, suffix in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        # 999,500 rounds to 1000k, so it is already written in millions.
        if abs(value) >= 0.9995 * scale:
            return _three_digits(value / scale) + suffix
    return _three_digits(value)


def format_count(value: int) -> str:
    """Every digit, grouped: ``1,003,264``."""
    return f"{value:,}"


def format_duration(seconds: float) -> str:
    """The two largest units: ``2 min 20 s``, ``1 h 30 min``, ``45 s``; below ten seconds ``3.2 s``."""
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    # Rounded to the smaller of the two units that will be written, so that 3599.6 s is 1 h and not 60 min.
    for (unit_s, unit), (smaller_s, smaller) in (
        ((86_400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
        ((60, "min"), (1, "s")),
    ):
        rounded = round(whole / smaller_s) * smaller_s
        if rounded >= unit_s:
            rest = rounded % unit_s // smaller_s
            return f"{rounded // unit_s} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _count(text: str, *, what: str, noun: str, example: str) -> int:
    hint = f"write it like {example}"
    match = _COUNT.fullmatch(re.sub(rf"[\s-]*{noun}$", "", text.strip(), flags=re.IGNORECASE))
    if match is None or match["unit"].lower() not in {"", *COUNT_UNITS}:
        raise InvalidInput(f"{text!r} is not a {what}", hint=hint)
    value = _to_float(match["number"]) * COUNT_UNITS.get(match["unit"].lower(), 1)
    if not 1 <= value <= _LARGEST_COUNT:
        raise InvalidInput(f"{what} {text!r} is not between 1 and {_LARGEST_COUNT:.0e}", hint=hint)
    if not math.isclose(value, round(value), rel_tol=1e-12):  # 1.1M is whole, though not in floating point
        raise InvalidInput(f"{what} {text!r} is not a whole number", hint=hint)
    return round(value)


def _three_digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    rounded = f"{value:#.3g}".rstrip(".")
    return f"{value:g}" if float(rounded) == value else rounded


def _to_float(number: str) -> float:
    """The value of a matched number. ``1e999`` is infinity, which every caller refuses as out of range."""
    return float(number.replace(",", "").replace("_", ""))
