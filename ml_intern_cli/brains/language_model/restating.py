"""What a sentence asks for, where the rules of the reader do not suffice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field as Limits

from ml_intern_cli.brains import blueprints
from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Step
from ml_intern_cli.brains.language_model.prompting import prompt
from ml_intern_cli.brains.protocol import Overrides
from ml_intern_cli.brains.reader import Field, Reading
from ml_intern_cli.brains.restatement import Novelty, restate
from ml_intern_cli.brains.tools.tool import Arguments, ToolFailed
from ml_intern_cli.documents.task import Assumption, Task
from ml_intern_cli.errors import Blocked, InvalidInput

_HAND_IN = "hand_in_task"
_NUMBERS = (Field.PARAMS, Field.SEQ_LEN, Field.TOKENS, Field.STEPS, Field.TIME_BUDGET)
_TEXTS = (Field.DATASET,)


class Restated(Arguments):
    """The task as the model understands it. What the request does not say stays null."""

    cannot: str | None = Limits(default=None, description="why this program cannot do it; null if it can")
    plain: bool = Limits(default=False, description="a blueprint exactly as it is")
    title: str = Limits(
        default="", description='what it is, as it stands after "Implement": "a decoder with …"'
    )
    architecture: str = Limits(
        default="",
        pattern=r"^([a-z0-9]+(-[a-z0-9]+)*)?$",
        description="a short name: gated-delta-decoder",
    )
    starts_from: str = Limits(default="", description="the nearest blueprint's name")
    difference: str = Limits(default="", description="all that it has and the blueprint has not")
    params: int | None = Limits(default=None, gt=0, description="parameters")
    dataset: str | None = Limits(default=None, description="a Hub id, a path, or builtin:stories")
    seq_len: int | None = Limits(default=None, gt=0, description="tokens")
    tokens: int | None = Limits(default=None, gt=0, description="training tokens")
    steps: int | None = Limits(default=None, gt=0, description="optimizer steps")
    time_budget_s: float | None = Limits(default=None, gt=0, description="seconds")
    assumptions: tuple[Assumption, ...] = ()
    not_understood: tuple[str, ...] = Limits(default=(), description="fragments of the request")


def restate_with(agent: Agent, reading: Reading, overrides: Overrides, *, root: Path | None) -> Task:
    """The task.

    Raises:
        Blocked: the program cannot do it, or the model could not be asked.
    """

    def accept(given: Restated, _: Sequence[Step]) -> Task | Blocked:
        if given.cannot:
            return Blocked(
                "this program cannot do the task",
                why=given.cannot,
                ways_on=("write the sentence again", "see what can be built: ml-intern blueprints"),
            )
        return _task(given, reading, overrides, agent.model.name, root)

    answer = agent.work(
        Job(
            stage="restate",
            system=prompt("system", finish=_HAND_IN),
            task=prompt(
                "restate",
                request=reading.sentence,
                understood=[f"{part.field}: {part.value}" for part in reading.understood],
                left_over=reading.not_understood,
                blueprints=_known(root),
            ),
            finish=Finish(
                name=_HAND_IN, description="Hand in the typed task.", arguments=Restated, accept=accept
            ),
        )
    )
    if isinstance(answer, Blocked):
        raise answer
    return answer


def _task(given: Restated, reading: Reading, overrides: Overrides, model: str, root: Path | None) -> Task:
    """The task that the answer says, if it agrees with the sentence. Raises ToolFailed."""
    problems = [*_missing(given, root), *_contradictions(given, reading)]
    if problems:
        raise ToolFailed("it does not hold:\n" + "\n".join(problems))
    blueprint = blueprints.load(given.starts_from, root=root)
    read = _read_beside(given, reading, overrides)
    seen = tuple(
        Assumption(name=str(field), value=str(value), why=f"so {model} reads the sentence")
        for field, value in read.items()
    )
    try:
        if given.plain:
            task = restate(reading, overrides, blueprint)
            return task.model_copy(update={"not_understood": given.not_understood})
        novelty = Novelty(
            title=given.title,
            architecture=given.architecture,
            difference=given.difference,
            read=read,
            assumptions=(*seen, *given.assumptions),
            not_understood=given.not_understood,
        )
        return restate(reading, overrides, blueprint, novelty)
    except InvalidInput as error:
        raise ToolFailed(error.message) from error


def _missing(given: Restated, root: Path | None) -> list[str]:
    known = blueprints.names(root=root)
    problems = [] if given.starts_from in known else [f"starts_from: must be one of {', '.join(known)}"]
    if not given.plain:
        problems += [
            f"{name}: must be given, unless `plain` or `cannot` is"
            for name in ("title", "architecture", "difference")
            if not getattr(given, name).strip()
        ]
        if given.architecture in known:
            problems.append("architecture: is a blueprint's name; something new needs another")
    return problems


def _contradictions(given: Restated, reading: Reading) -> list[str]:
    """Where the model says another number than the sentence."""
    return [
        f"{field}: the request says {said[0]}, not {getattr(given, field)}"
        for field in (*_NUMBERS, *_TEXTS)
        if (said := reading.values(field)) and getattr(given, field) not in {None, *said}
    ]


def _read_beside(
    given: Restated, reading: Reading, overrides: Overrides
) -> Mapping[Field, int | float | str]:
    """What the model read where the rules read nothing and no option decides."""
    return {
        field: value
        for field in (*_NUMBERS, *_TEXTS)
        if (value := getattr(given, field)) is not None
        and not reading.values(field)
        and getattr(overrides, field, None) is None
    }


def _known(root: Path | None) -> list[dict[str, str]]:
    loaded = [blueprints.load(name, root=root) for name in blueprints.names(root=root)]
    return [{"name": one.NAME, "title": one.TITLE, "about": one.SOURCES[0][0]} for one in loaded]
