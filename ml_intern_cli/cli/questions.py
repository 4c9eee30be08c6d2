"""The bundled questions of clarify, asked at the terminal. Enter takes what stands in brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from ml_intern_cli.cli.terminal import Terminal

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Question


def ask(questions: tuple[Question, ...], *, terminal: Terminal, answers: TextIO) -> dict[str, str]:
    """Put the questions, one after the other; only what the user typed is returned.

    The prompts go to ``terminal`` (stderr), so that stdout holds results alone. When ``answers``
    ends, the questions that are left keep their defaults.
    """
    count = len(questions)
    title = "1 question" if count == 1 else f"{count} questions"
    terminal.lines(["", f" {title} before it starts. Enter takes the answer in brackets.", ""])
    given: dict[str, str] = {}
    for number, question in enumerate(questions, start=1):
        terminal.lines(_question_lines(question, f"{number}/{count}", terminal))
        terminal.prompt(f"     [{question.default}] > ")
        line = answers.readline()
        if not line:
            terminal.lines(["", "   no more answers; the defaults stand"])
            break
        if line.strip():
            given[question.name] = line.strip()
    terminal.line()
    return given


def _question_lines(question: Question, number: str, terminal: Terminal) -> list[str]:
    lines = [f" {terminal.style(number, 'cyan')} {terminal.style(question.text, 'bold')}"]
    if question.choices:
        lines.append(f"     for example: {', '.join(question.choices)}")
    return [*lines, terminal.style(f"     {question.default}: {question.why_default}", "dim")]
