"""Candidate ways to build something new."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from string import ascii_lowercase

from pydantic import Field as Limits

from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Step
from ml_intern_cli.brains.language_model.prompting import prompt
from ml_intern_cli.brains.protocol import PathIdea
from ml_intern_cli.brains.tools.tool import Arguments, ToolFailed
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.task import Task
from ml_intern_cli.quantities import format_params

_HAND_IN = "hand_in_paths"


class Idea(Arguments):
    """One way to build it."""

    variant: str = Limits(
        pattern=r"^[a-z][a-z0-9-]{1,31}$", description="a short name of the code, such as chunked-scan"
    )
    approach: str = Limits(min_length=3, max_length=100, description="one line")
    hypothesis: str = Limits(min_length=3, description="what is claimed, so that it can turn out false")
    why: str = Limits(min_length=3, description="why it might win")


class Ideas(Arguments):
    """All ways worth trying, the most promising first."""

    paths: tuple[Idea, ...] = Limits(min_length=1)


def paths_with(
    agent: Agent, task: Task, research: Research, *, variants: Collection[str], max_paths: int
) -> tuple[PathIdea, ...]:
    """The candidate paths, lettered."""

    def accept(given: Ideas, _: Sequence[Step]) -> tuple[PathIdea, ...]:
        names = [idea.variant for idea in given.paths]
        problems = [
            f"variant {name}: comes twice" for name in sorted({one for one in names if names.count(one) > 1})
        ]
        problems += [
            f"variant {name}: exists already, and is not what was asked for"
            for name in names
            if name in variants
        ]
        if len(names) > max_paths:
            problems.append(f"paths: at most {max_paths}")
        if problems:
            raise ToolFailed("it does not hold:\n" + "\n".join(problems))
        return tuple(
            PathIdea(id=letter, **idea.model_dump())
            for letter, idea in zip(ascii_lowercase, given.paths, strict=False)
        )

    return agent.work(
        Job(
            stage="plan",
            system=prompt("system", finish=_HAND_IN),
            task=prompt(
                "paths",
                restatement=task.restatement,
                blueprint=task.blueprint,
                size=f"{format_params(task.params)} parameters" if task.params else "not fixed yet",
                variants=", ".join(variants),
                findings=research.findings,
                max_paths=max_paths,
            ),
            finish=Finish(
                name=_HAND_IN, description="Hand in the candidate paths.", arguments=Ideas, accept=accept
            ),
        )
    )
