"""Slugs are short, readable and never cut inside a word."""

from __future__ import annotations

import pytest

from ml_intern_cli.runs.service import slug_of


@pytest.mark.parametrize(
    ("sentence", "slug"),
    [
        ("Implement DeepSeek-V3 at 1M", "implement-deepseek-v3-at-1m"),
        ("train a 2.5M-param deepseek v3!", "train-a-2.5m-param-deepseek-v3"),
        (
            "train a 1M deepseek v3 on /srv/data/tinyshakespeare.txt, tokens 3M",
            "train-a-1m-deepseek-v3-on-srv-data-tinyshakespeare.txt",
        ),
        ("x" * 200, "x" * 60),
        ("深度学习", "run"),
        ("...", "run"),
    ],
)
def test_a_sentence_gives_this_slug(sentence: str, slug: str) -> None:
    assert slug_of(sentence) == slug
