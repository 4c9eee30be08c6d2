"""What a stream can show, and curves drawn in text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_intern_cli.cli.charts import Series, curve, sparkline
from ml_intern_cli.cli.terminal import ASCII, UNICODE, Terminal, aligned

FINITE = st.floats(min_value=-1e6, max_value=1e6)


def test_a_terminal_has_colour_and_a_pipe_has_none(make_screen):
    assert Terminal(make_screen(), {}).style("x", "bold", "red") == "\x1b[1;31mx\x1b[0m"
    assert Terminal(io.StringIO(), {}).style("x", "red") == "x"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminals_are_honoured(environment, make_screen):
    assert Terminal(make_screen(), environment).style("x", "red") == "x"


def test_an_empty_no_color_counts_as_unset(make_screen):
    assert Terminal(make_screen(), {"NO_COLOR": ""}).has_color


def test_a_terminal_without_unicode_gets_ascii(make_screen):
    screen = make_screen("ascii")
    terminal = Terminal(screen, {})
    terminal.line("✓ 0.001 → 0.002 · ≤ 3 … 日本")
    assert terminal.glyphs is ASCII
    assert screen.text == "+ 0.001 -> 0.002 | <= 3 ... ??\n"


def test_utf_8_keeps_everything(make_screen):
    screen = make_screen()
    Terminal(screen, {}).line("✓ 日本")
    assert screen.text == "✓ 日本\n"


def test_columns_line_up_and_the_last_is_free():
    assert aligned([["a", "bbb", "c"], ["aaaa", "b", "a long last one"]]) == [
        "a     bbb  c",
        "aaaa  b    a long last one",
    ]
    assert aligned([]) == []


def test_a_falling_loss_falls():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], width=8, glyphs=UNICODE) == "█▇▆▅▄▃▂▁"


@given(st.lists(FINITE), st.integers(1, 40))
def test_a_sparkline_is_never_wider_than_asked(values, width):
    for glyphs in (UNICODE, ASCII):
        line = sparkline(values, width=width, glyphs=glyphs)
        assert len(line) == min(width, len(values))
        assert set(line) <= set(glyphs.bars)


@given(st.lists(st.tuples(st.integers(0, 10**6), FINITE), max_size=50))
def test_a_curve_stays_in_its_frame(points):
    lines = curve([Series(".", tuple(points))], width=30, height=5)
    assert len(lines) == (7 if points else 0)
    assert all(len(line.partition("|")[2]) <= 30 for line in lines[:5])


def test_a_curve_labels_its_ends():
    lines = curve([Series(".", ((1, 9.0), (590, 2.0))), Series("o", ((590, 2.5),))], width=20, height=5)
    assert lines[0].startswith("   9.000 |.")
    assert lines[4].startswith("   2.000 |")
    assert lines[-1].split() == ["1", "590"]
    assert any("o" in line for line in lines)
