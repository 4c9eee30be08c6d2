"""Questions of clarify at the terminal."""

from __future__ import annotations

import io

from ml_intern_cli.brains.protocol import Question
from ml_intern_cli.cli.questions import ask
from ml_intern_cli.cli.terminal import Terminal

QUESTIONS = (
    Question(
        name="dataset",
        text="Which dataset?",
        default="builtin:stories",
        why_default="the Hub is not reachable",
        choices=("builtin:stories", "FILE"),
    ),
    Question(name="params", text="How many parameters?", default="10M", why_default="trains in minutes"),
)


def _ask(typed: str) -> tuple[dict[str, str], str]:
    screen = io.StringIO()
    given = ask(QUESTIONS, terminal=Terminal(screen, {}), answers=io.StringIO(typed))
    return given, screen.getvalue()


def test_only_what_was_typed_is_an_answer():
    given, shown = _ask("data/my.txt\n\n")
    assert given == {"dataset": "data/my.txt"}
    assert "1/2 Which dataset?" in shown
    assert "builtin:stories: the Hub is not reachable" in shown
    assert "[10M] > " in shown


def test_the_end_of_input_leaves_the_defaults():
    given, shown = _ask("")
    assert given == {}
    assert "the defaults stand" in shown
