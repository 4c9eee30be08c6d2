from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import (
    format_count,
    format_duration,
    format_params,
    parse_duration,
    parse_params,
    parse_seq_len,
    parse_steps,
    parse_tokens,
)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("100M", 100_000_000),
        ("2.5m params", 2_500_000),
        ("500k", 500_000),
        ("1.3 billion parameters", 1_300_000_000),
        ("1e8", 100_000_000),
        ("1,000,000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("~10m", 10_000_000),
        ("671B", 671_000_000_000),
        (".5M", 500_000),
        (" 7 ", 7),
        ("100M-parameter", 100_000_000),
    ],
)
def test_params_are_read_in_every_usual_notation(text: str, params: int) -> None:
    assert parse_params(text) == params


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("20M", 1200),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2 hours and 10 minutes", 7800),
        ("1 h, 5 min", 3900),
        ("2d", 172_800),
        ("2w", 1_209_600),
        ("2 hours", 7200),
    ],
)
def test_durations_are_read_in_every_usual_notation(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["20", "1h 30", "1.5"])
def test_a_duration_without_unit_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(InvalidInput, match="needs a unit: s, m, h, d or w") as caught:
        parse_duration(text)
    assert caught.value.hint == "write it like 90s, 20m, 1.5h, 1h30m or 2d"


@pytest.mark.parametrize(
    "text", ["", "soon", "0s", "-5m", "5x", "30m1h", "1h1h", "999w", "2 hours and", "1e999s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


@pytest.mark.parametrize("parse", [parse_params, parse_tokens, parse_steps])
@pytest.mark.parametrize(
    "text", ["", "0", "-5M", "1,5M", "M", "5x", "1e400", "99999T", "five", "0.1", "1.5", "1__0", "٣M"]
)
def test_what_is_no_count_is_refused_with_an_example(parse, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.hint
    assert caught.value.hint.startswith("write it like")


@pytest.mark.parametrize(("text", "tokens"), [("256", 256), ("1k", 1024), ("128K", 131_072), ("1.5k", 1536)])
def test_k_is_1024_in_a_sequence_length(text: str, tokens: int) -> None:
    assert parse_seq_len(text) == tokens


@pytest.mark.parametrize("text", ["1", "0", "-256", "1M", "256.5", "99999999", "long"])
def test_what_is_no_sequence_length_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_seq_len(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (590, "590"),
        (412.7, "413"),
        (9_900, "9.9k"),
        (11_812.3, "11.8k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (1_000_000, "1M"),
        (1_003_264, "1.00M"),
        (2_500_000, "2.5M"),
        (99_960_000, "100M"),
        (671_026_404_352, "671B"),
        (10**15, "1,000T"),
    ],
)
def test_sizes_are_written_with_three_digits_and_exact_ones_without_zeros(value: float, text: str) -> None:
    assert format_params(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3.2, "3.2 s"),
        (9.96, "10 s"),
        (45, "45 s"),
        (59.6, "1 min"),
        (140, "2 min 20 s"),
        (3599.6, "1 h"),
        (5400, "1 h 30 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_written_in_the_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts_are_written_with_every_digit() -> None:
    assert format_count(1_003_264) == "1,003,264"


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=10**15))
def test_a_written_size_is_read_back_within_half_a_percent(value: int) -> None:
    assert parse_params(format_params(value).replace(",", "")) == pytest.approx(value, rel=0.005)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=365 * 86_400))
def test_a_written_duration_is_read_back_within_its_smaller_unit(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.021)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_params, parse_tokens, parse_steps, parse_seq_len, parse_duration):
        try:
            assert parse(text) > 0
        except InvalidInput as error:
            assert error.hint  # noqa: PT017, both outcomes are right
