"""What is known of something new, with URLs that a tool really showed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Step
from ml_intern_cli.brains.language_model.prompting import prompt
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed
from ml_intern_cli.documents.research import Finding, Research
from ml_intern_cli.documents.task import Task

_HAND_IN = "hand_in_findings"


class Found(Arguments):
    """All findings, in the order they matter."""

    findings: tuple[Finding, ...]
    not_reached: tuple[str, ...] = ()


def research_with(
    agent: Agent,
    task: Task,
    known: Research,
    tools: tuple[Tool, ...],
    *,
    missed: Callable[[], Sequence[str]],
) -> Research:
    """What was found, before what is known of the blueprint.

    Args:
        agent: Who looks.
        task: What is to be built.
        known: Of the blueprint that it starts from.
        tools: To look things up with; none of them spends or publishes.
        missed: What they could not reach, a line each.
    """

    def accept(given: Found, steps: Sequence[Step]) -> Research:
        invented = [one.url for one in given.findings if not _was_shown(one.url, steps)]
        if invented:
            raise ToolFailed(
                "no tool showed these pages; open them, or leave the findings out:\n" + "\n".join(invented)
            )
        return known.model_copy(
            update={
                "question": f"How is {task.architecture} built, and how is a small one trained?",
                "findings": (*given.findings, *known.findings),
                "not_reached": tuple(dict.fromkeys((*given.not_reached, *missed()))),
            }
        )

    return agent.work(
        Job(
            stage="research",
            system=prompt("system", finish=_HAND_IN),
            task=prompt(
                "research", restatement=task.restatement, blueprint=task.blueprint, known=known.findings
            ),
            tools=tools,
            finish=Finish(
                name=_HAND_IN, description="Hand in what was found.", arguments=Found, accept=accept
            ),
        )
    )


def _was_shown(url: str, steps: Sequence[Step]) -> bool:
    """Whether the address stands in what a tool answered."""
    bare = url.removeprefix("https://").removeprefix("http://").rstrip("/")
    return any(bare in step.result for step in steps if not step.is_error)
