"""From a reading and the options to a task: what is said, what is open, and what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_intern_cli.brains.blueprints import Blueprint
from ml_intern_cli.brains.protocol import Overrides
from ml_intern_cli.brains.reader import Field, Reading
from ml_intern_cli.documents.model import PublishTarget, RunMode
from ml_intern_cli.documents.task import Assumption, Impact, Task, Unknown
from ml_intern_cli.errors import Blocked
from ml_intern_cli.quantities import format_duration, format_params

OPTIONS = {
    Field.PARAMS: "--params",
    Field.DATASET: "--dataset",
    Field.DATASET_COLUMN: "--dataset-column",
    Field.SEQ_LEN: "--seq-len",
    Field.TIME_BUDGET: "--time-budget",
    Field.SEED: "--seed",
    Field.PUBLISH: "--publish",
}
"""The option that says what a sentence can say too."""

DEFAULT_METRIC = str(Task.model_fields["metric"].default)


def require_clear(reading: Reading, overrides: Overrides) -> None:
    """Refuse a sentence that contradicts itself where no option decides.

    Raises:
        Blocked: a field is said in two ways, or unclearly.
    """
    for conflict in reading.conflicts:
        if conflict.field is Field.ARCHITECTURE or getattr(overrides, conflict.field, None) is not None:
            continue
        option = OPTIONS.get(conflict.field)
        raise Blocked(
            f"the sentence does not say one {_NOUNS[conflict.field]}",
            why=conflict.message,
            ways_on=(
                *((f"decide it with {option}: ml-intern run … {option} VALUE",) if option else ()),
                "write the sentence again, with one value and its unit",
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """What a language model makes of a sentence about something that has no blueprint.

    Attributes:
        title: What it is, as it stands after "Implement".
        architecture: A name for it.
        difference: What it has that the blueprint it starts from has not.
        read: What it reads in the sentence beside what the rules read there.
    """

    title: str
    architecture: str
    difference: str
    read: Mapping[Field, int | float | str]
    assumptions: tuple[Assumption, ...]
    not_understood: tuple[str, ...]


def restate(
    reading: Reading, overrides: Overrides, blueprint: Blueprint, novelty: Novelty | None = None
) -> Task:
    """The task. Options win over the sentence, and what they replaced is kept as an assumption.

    Args:
        reading: What the rules read in the sentence.
        overrides: What options say.
        blueprint: What is asked for, or what something new starts from.
        novelty: The something new.

    Raises:
        InvalidInput: the blueprint cannot be sized so.
    """
    more = novelty.read if novelty else {}
    said = _Said(
        params=_first(overrides.params, reading.count(Field.PARAMS), more.get(Field.PARAMS)),
        dataset=_first(overrides.dataset, reading.text(Field.DATASET), more.get(Field.DATASET)),
        seq_len=_first(overrides.seq_len, reading.count(Field.SEQ_LEN), more.get(Field.SEQ_LEN)),
        tokens=_first(overrides.tokens, reading.count(Field.TOKENS), more.get(Field.TOKENS)),
        steps=_first(reading.count(Field.STEPS), more.get(Field.STEPS)),
        time_budget_s=_first(
            overrides.time_budget_s, reading.amount(Field.TIME_BUDGET), more.get(Field.TIME_BUDGET)
        ),
        metric=reading.text(Field.METRIC),
        seed=_first(overrides.seed, reading.count(Field.SEED)) or 0,
        publish=_first(overrides.publish, _publish(reading)) or PublishTarget.HUB,
        max_usd=reading.amount(Field.MAX_USD),
    )
    if said.params is not None:
        blueprint.solve(said.params, seq_len=said.seq_len)  # refuses sizes that cannot be built
    paragraph = _paragraph(said, novelty.title if novelty else blueprint.TITLE)
    return Task(
        request=reading.sentence,
        restatement=f"{paragraph} {novelty.difference}" if novelty else paragraph,
        architecture=novelty.architecture if novelty else blueprint.NAME,
        starts_from=blueprint.NAME if novelty else None,
        params=said.params,
        dataset=said.dataset,
        dataset_column=_first(overrides.dataset_column, reading.text(Field.DATASET_COLUMN)),
        seq_len=said.seq_len,
        tokens=said.tokens,
        steps=said.steps,
        time_budget_s=said.time_budget_s,
        max_usd=said.max_usd,
        metric=said.metric or DEFAULT_METRIC,
        seed=said.seed,
        publish=said.publish,
        mode=overrides.mode or RunMode.HEADLESS,
        several_paths=novelty is not None or len(blueprint.VARIANTS) > 1,
        unknowns=_unknowns(said),
        assumptions=(*_overruled(reading, overrides), *(novelty.assumptions if novelty else ())),
        not_understood=novelty.not_understood if novelty else reading.not_understood,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the sentence and the options say together. ``None``: neither says it."""

    params: int | None
    dataset: str | None
    seq_len: int | None
    tokens: int | None
    steps: int | None
    time_budget_s: float | None
    metric: str | None
    seed: int
    publish: PublishTarget
    max_usd: float | None


_NOUNS = {
    Field.PARAMS: "number of parameters",
    Field.DATASET: "dataset",
    Field.DATASET_COLUMN: "column of the dataset",
    Field.SEQ_LEN: "sequence length",
    Field.TOKENS: "number of tokens",
    Field.STEPS: "number of steps",
    Field.TIME_BUDGET: "time budget",
    Field.MAX_USD: "amount of money",
    Field.SEED: "seed",
    Field.PUBLISH: "place to publish",
    Field.METRIC: "metric",
}
_PLACES = {
    PublishTarget.HUB: "A verified model is published to the Hugging Face Hub.",
    PublishTarget.FOLDER: "A verified model is published into a folder of the run.",
    PublishTarget.NONE: "Nothing is published.",
}


def _first(*values: Any) -> Any:
    """The first that is said."""
    return next((value for value in values if value is not None), None)


def _publish(reading: Reading) -> PublishTarget | None:
    said = reading.text(Field.PUBLISH)
    return None if said is None else PublishTarget(said)


def _paragraph(said: _Said, title: str) -> str:
    size = f"at {format_params(said.params)} parameters" if said.params else "at a size that is not said"
    data = f"on {said.dataset}" if said.dataset else "on a dataset that is not said"
    limits = [
        f"{format_params(said.tokens)} tokens" if said.tokens else "",
        f"{format_params(said.steps)} steps" if said.steps else "",
        f"{format_duration(said.time_budget_s)} of compute" if said.time_budget_s else "",
    ]
    limit = " and ".join(filter(None, limits))
    sentences = [
        f"Implement {title} {size} and train it from random initialisation {data}",
        f", in sequences of {said.seq_len} tokens" if said.seq_len else "",
        f", for at most {limit}." if limit else ", within a budget that is not said.",
        f" All randomness starts from seed {said.seed}.",
        " It succeeds when an independent verification passes all six checks; among the paths that do,",
        f" the winner is judged by {said.metric or DEFAULT_METRIC}. {_PLACES[said.publish]}",
        f" At most ${said.max_usd:g} may be spent on language models; training on this machine costs none."
        if said.max_usd is not None
        else "",
    ]
    return "".join(sentences)


def _unknowns(said: _Said) -> tuple[Unknown, ...]:
    is_limited = said.time_budget_s or said.tokens or said.steps
    candidates = (
        (said.dataset, "dataset", Impact.HIGH, "Which data should it learn from?"),
        (said.params, "params", Impact.HIGH, "How many parameters should it have?"),
        (is_limited, "time_budget_s", Impact.HIGH, "How much time may the whole run take?"),
        (said.metric, "metric", Impact.HIGH, "What is success measured by?"),
        (said.seq_len, "seq_len", Impact.LOW, "How long are the training sequences?"),
    )
    return tuple(
        Unknown(name=name, impact=impact, question=question)
        for value, name, impact, question in candidates
        if not value
    )


def _overruled(reading: Reading, overrides: Overrides) -> tuple[Assumption, ...]:
    """What the sentence says differently from an option."""
    replaced = []
    for field, option in OPTIONS.items():
        value = getattr(overrides, field)
        parts = [part for part in reading.understood if part.field is field and part.value != value]
        if value is not None and parts:
            written = " and ".join(repr(reading.sentence[part.start : part.end]) for part in parts)
            why = f"{option} wins over the sentence, which says {written}"
            replaced.append(Assumption(name=str(field), value=str(value), why=why))
    return tuple(replaced)
