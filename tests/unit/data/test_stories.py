from __future__ import annotations

import collections
import math
import re
import statistics

import pytest

from ml_intern_cli.data.stories import Distribution, Grammar, generate, grammar, log_prob

TINY = """
[rules]
story = ["{A look} {toy}.", "{Hero} met {friend:hero}. {Hero} is {hero.kind}."]
[lexicons.look]
forms = ["adjective"]
words = ["old, new"]
[lexicons.toy]
forms = ["noun"]
words = ["ball, kite, umbrella"]
[lexicons.hero]
forms = ["name", "kind"]
words = ["ann: a girl", "bob, tom: a boy"]
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [generate(0, index).text for index in range(8_000)]


def test_the_same_seed_and_index_give_the_same_story_in_any_order() -> None:
    later = [generate(7, index) for index in (5, 0, 3)]
    assert [generate(7, index) for index in (5, 0, 3)] == later
    assert generate(8, 5) != later[0]


def test_probabilities_of_a_small_grammar_sum_to_one() -> None:
    tiny = Grammar(TINY)
    texts = {tiny.generate(0, index).text for index in range(2_000)}
    assert len(texts) == 2 * 3 + 3 * 2
    assert math.fsum(math.exp(tiny.log_prob(text)) for text in texts) == pytest.approx(1)


def test_frequencies_are_the_probabilities() -> None:
    tiny = Grammar(TINY)
    counts = collections.Counter(tiny.generate(1, index).text for index in range(20_000))
    for text, count in counts.items():
        p = math.exp(tiny.log_prob(text))
        assert abs(count / 20_000 - p) < 5 * math.sqrt(p * (1 - p) / 20_000)


def test_a_variable_keeps_its_word_and_two_variables_never_share_one() -> None:
    tiny = Grammar(TINY)
    assert tiny.log_prob("Ann met bob. Ann is a girl.") > -math.inf
    for impossible in (
        "Ann met ann. Ann is a girl.",
        "Ann met bob. Tom is a boy.",
        "Ann met bob. Ann is a boy.",
    ):
        assert tiny.log_prob(impossible) == -math.inf


def test_the_article_follows_the_sound_of_the_next_word() -> None:
    tiny = Grammar(TINY)
    assert tiny.log_prob("An old ball.") > -math.inf
    assert tiny.log_prob("A old ball.") == -math.inf
    assert not [
        text for text in (generate(3, i).text for i in range(500)) if re.search(r"\ba [aeio]\w", text)
    ]


def test_a_variable_of_two_lexicons_is_refused() -> None:
    with pytest.raises(ValueError, match="toy is of lexicon"):
        Grammar(TINY.replace("{A look} {toy}.", "{toy} {toy:look}"))


def test_conditional_probabilities_without_the_excluded_sum_to_one() -> None:
    distribution = Distribution.proportional_to([3, 2, 1])
    kept = [math.exp(distribution.log_p_without([0], index)) for index in (1, 2)]
    assert kept == [pytest.approx(2 / 3), pytest.approx(1 / 3)]


def test_no_lexicon_lists_a_word_twice() -> None:
    for name, lexicon in grammar()._lexicons.items():
        words = [entry[0] for entry in lexicon.entries]
        assert len(words) == len(set(words)), (name, collections.Counter(words).most_common(2))
        assert {len(entry) for entry in lexicon.entries} == {len(lexicon.forms)}, name


def test_the_corpus_has_at_least_1500_words(texts: list[str]) -> None:
    assert len({word for text in texts for word in re.findall(r"[a-z'-]+", text.lower())}) >= 1_500


def test_stories_are_short_and_mostly_open_once_upon_a_time(texts: list[str]) -> None:
    words = [len(text.split()) for text in texts]
    assert 60 <= statistics.mean(words) <= 100
    assert max(words) < 150
    assert 0.3 < sum(text.startswith("Once upon a time,") for text in texts) / len(texts) < 0.8


def test_names_pronouns_and_objects_agree_to_the_end(texts: list[str]) -> None:
    for text in texts:
        if match := re.match(r"There was an? \w+ (girl|boy) named (\w+)\. (\w+)", text):
            assert match[3] == {"girl": "She", "boy": "He"}[match[1]]


def test_stories_hardly_ever_repeat(texts: list[str]) -> None:
    assert len(set(texts)) == len(texts)


def test_entropy_per_word_is_that_of_a_language_worth_learning() -> None:
    stories = [generate(0, index) for index in range(1_000)]
    nats = -math.fsum(story.log_prob_nats for story in stories)
    words = sum(len(story.text.split()) for story in stories)
    assert 1.2 < nats / words < 1.8


def test_text_from_elsewhere_is_impossible() -> None:
    for text in ("", "Once upon a time", generate(0, 0).text + " The end.", generate(0, 0).text[1:]):
        assert log_prob(text) == -math.inf
