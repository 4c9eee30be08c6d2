from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from ml_intern_cli.data.stories import generate, grammar, log_prob

SEEDS = st.integers(0, 2**32)
INDICES = st.integers(0, 2**48)


@given(SEEDS, INDICES)
@settings(max_examples=300, deadline=None)
def test_the_parser_finds_the_probability_that_the_writer_paid(seed: int, index: int) -> None:
    story = generate(seed, index)
    assert math.isclose(log_prob(story.text), story.log_prob_nats, rel_tol=1e-12)


@given(SEEDS, INDICES)
@settings(max_examples=300, deadline=None)
def test_a_text_has_one_derivation(seed: int, index: int) -> None:
    assert len(list(grammar().derivations(generate(seed, index).text))) == 1


@given(SEEDS, INDICES, st.data())
@settings(max_examples=100, deadline=None)
def test_a_story_with_a_letter_changed_to_a_digit_is_impossible(
    seed: int, index: int, data: st.DataObject
) -> None:
    text = generate(seed, index).text
    at = data.draw(st.integers(0, len(text) - 1))
    assert log_prob(f"{text[:at]}7{text[at + 1 :]}") == -math.inf


@given(st.text(max_size=200))
@settings(deadline=None)
def test_other_text_is_impossible(text: str) -> None:
    assert log_prob(text) == -math.inf
