"""What the recorder wrote down, read back: starts → processes → steps → calls.

Whatever a rehearsed program does to the record's files, reading them ends in a value or in Unusable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.judge.artifact import Unusable

if TYPE_CHECKING:
    import torch

_DTYPES = {
    name: name
    for name in (
        "float32", "float64", "float16", "bfloat16", "complex64",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Blob:
    """The file that a process wrote its tensors to."""

    file: Path

    def read(self, reference: list[Any]) -> torch.Tensor:
        """The tensor that an event refers to. Raises Unusable."""
        import torch

        try:
            offset, name, shape = reference
            dtype = getattr(torch, _DTYPES[name])
            count = 1
            for size in shape:
                count *= int(size)
            if count == 0:
                return torch.zeros(shape, dtype=dtype)
            with self.file.open("rb") as stream:
                stream.seek(offset)
                content = bytearray(stream.read(count * dtype.itemsize))
            return torch.frombuffer(content, dtype=dtype, count=count).view(shape)
        except (OSError, TypeError, ValueError, KeyError) as error:
            raise Unusable(f"the record of the rehearsal cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the model from outside."""

    blob: Blob
    event: dict[str, Any]
    results: tuple[float, ...] = ()  # what loss() returned: total, cross-entropy
    backwards: tuple[dict[str, Any], ...] = ()

    @property
    def line(self) -> str:
        """``train.py:212``, or empty."""
        return str(self.event.get("line", ""))

    @property
    def method(self) -> str:
        """Which of forward and loss."""
        return str(self.event["method"])

    @property
    def model(self) -> int:
        """Which instance of the model."""
        return int(self.event["model"])

    @property
    def is_training(self) -> bool:
        """Whether gradients were enabled."""
        return bool(self.event["grad"])

    @property
    def training_mode(self) -> bool:
        """``model.training``."""
        return bool(self.event["training"])

    @property
    def autocast(self) -> str | None:
        """The dtype of autocast, or None when it was off."""
        name = self.event.get("autocast")
        return str(name).removeprefix("torch.") if name else None

    def tensor(self, key: str) -> torch.Tensor | None:
        """A tensor of the event, None where there is none."""
        reference = self.event.get(key)
        return self.blob.read(reference) if reference else None

    def inputs(self) -> list[torch.Tensor]:
        """The tensors that were handed over: ids ``(B, T)``, and targets where ``loss`` was called."""
        return [self.blob.read(reference) for reference in self.event["inputs"]]

    def recovered(self, key: str) -> torch.Tensor | None:
        """``targets`` or ``weights`` of a cross-entropy taken outside, from the gradient of the logits."""
        for back in self.backwards:
            if key in back:
                return self.blob.read(back[key])
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One step of one optimizer."""

    blob: Blob
    found: dict[str, Any]  # the event ``gradients``
    left: dict[str, Any]  # the event ``updated``

    @property
    def line(self) -> str:
        """Where step() was called."""
        return str(self.found.get("line", ""))

    @property
    def optimizer(self) -> str:
        """The name of its class."""
        return str(self.found["optimizer"])

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Settings, ``names`` and ``strangers`` per group."""
        return list(self.found["groups"])

    def samples(self, key: str) -> list[torch.Tensor | None]:
        """``gradients``, ``before`` or ``after``: the sampled numbers of every parameter."""
        event, name = {"gradients": (self.found, "samples"), "before": (self.found, "before"),
                       "after": (self.left, "samples")}[key]  # fmt: skip
        return [self.blob.read(reference) if reference else None for reference in event[name]]

    def moments(self, when: str) -> dict[str, dict[str, Any]]:
        """Parameter → kind → sampled numbers or a number, ``before`` or ``after``."""
        event = self.found if when == "before" else self.left
        return {
            name: {k: self.blob.read(v) if isinstance(v, list) else v for k, v in kinds.items()}
            for name, kinds in event["moments"].items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One update of the model: the training calls before it, the optimizers' steps, what followed."""

    number: int  # counted from the beginning of training
    calls: tuple[Call, ...]
    updates: tuple[Update, ...]
    after: tuple[Call, ...]  # evaluations and samples until the next step
    sums_next: tuple[int, ...] = ()  # of the model's tensors, as the next step's first call finds them

    @property
    def first(self) -> Call:
        """The first training call."""
        return self.calls[0]


@dataclass(frozen=True, kw_only=True)  # no slots: what is cached needs a place
class Process:
    """One process that trained."""

    rank: int
    model: dict[str, Any]  # the event ``model`` of the trained instance
    steps: tuple[Step, ...]
    before: tuple[Call, ...]  # evaluations before the first step

    @cached_property
    def parameter_names(self) -> list[str]:
        """In the order of the samples."""
        return [str(entry[0]) for entry in self.model["tensors"][: self.model["num_parameters"]]]

    @cached_property
    def tensor_names(self) -> list[str]:
        """Parameters, then buffers."""
        return [str(entry[0]) for entry in self.model["tensors"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of train.py, and what it left."""

    number: int
    first_step: int  # the step after the checkpoint that it went on from
    exit_code: int
    seconds: float
    problem: str  # why it was ended from outside; empty when it was not
    stderr: str  # the end
    processes: tuple[Process, ...]
    ended_by_recorder: int | None
    last: dict[str, Any]  # ckpts/last.json afterwards
    kept: Path  # train.log, metrics.jsonl and ckpts/ as they were afterwards

    @property
    def main(self) -> Process | None:
        """The process of rank 0."""
        return self.processes[0] if self.processes else None

    @property
    def last_step(self) -> int:
        """The last step that was made; ``first_step - 1`` when none was."""
        return self.main.steps[-1].number if self.main and self.main.steps else self.first_step - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A whole rehearsal.

    Attributes:
        config: The train_config.json of the rehearsal.
        original: The path's own.
        starts: In order: ended like a crash, asked to stop, run to the end.
        every: Steps between evaluations, and between checkpoints.
        touched: Files that train.py changed though they are not its own, and files it made elsewhere.
        program: The text of train.py, to name lines of it.
    """

    config: dict[str, Any]
    original: dict[str, Any]
    starts: tuple[Start, ...]
    every: int
    touched: tuple[str, ...]
    program: str
    limit_s: float
    folder: Path
    planned: dict[str, int] = field(default_factory=dict)


def read_processes(folder: Path, *, first_step: int) -> tuple[tuple[Process, ...], int | None]:
    """The processes that made at least one training call, by rank; and how the recorder ended one."""
    processes = []
    ended = None
    for file in sorted(folder.glob("*.jsonl")):
        events = _events(file)
        ended = ended or next((e["code"] for e in events if e["kind"] == "ended" and e["code"]), None)
        process = _process(events, Blob(file.with_suffix(".bin")), first_step)
        if process is not None:
            processes.append(process)
    return tuple(sorted(processes, key=lambda process: process.rank)), ended


def _events(file: Path) -> list[dict[str, Any]]:
    try:
        text = leavings.read_text(file.parent, file.name, errors="replace")
    except OSError:
        return []
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off by a crash
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            events.append(event)
    return events


def _process(events: list[dict[str, Any]], blob: Blob, first_step: int) -> Process | None:
    """One process's events, cut into steps; None when it trained nothing."""
    cutting = _Cutting(events, blob, first_step)
    for event in events:
        if event["kind"] == "call":
            cutting.call(event)
        elif event["kind"] == "gradients":
            cutting.found = event
        elif event["kind"] == "updated":
            cutting.updated(event)
    cutting.close(())
    models = {event["id"]: event for event in events if event["kind"] == "model"}
    calls = cutting.steps[0].calls if cutting.steps else cutting.calls
    if not calls:
        return None
    return Process(
        rank=cutting.rank,
        model=models[calls[0].model],
        steps=tuple(cutting.steps),
        before=tuple(cutting.before),
    )


class _Cutting:
    """Collects events until a step is whole: when the model is called for the next one."""

    def __init__(self, events: list[dict[str, Any]], blob: Blob, first_step: int) -> None:
        self._blob = blob
        self._first_step = first_step
        self._results = {
            event["call"]: tuple(event["values"]) for event in events if event["kind"] == "result"
        }
        self._backwards: dict[int, list[dict[str, Any]]] = {}
        for event in events:
            if event["kind"] == "backward":
                self._backwards.setdefault(event["call"], []).append(event)
        self.steps: list[Step] = []
        self.before: list[Call] = []
        self.calls: list[Call] = []
        self._updates: list[Update] = []
        self._after: list[Call] = []
        self.found: dict[str, Any] | None = None
        self.rank = 0

    def call(self, event: dict[str, Any]) -> None:
        """A call of the model: the first after an update begins a step."""
        number = event["number"]
        call = Call(
            blob=self._blob,
            event=event,
            results=self._results.get(number, ()),
            backwards=tuple(self._backwards.get(number, ())),
        )
        if call.is_training:
            if self._updates:
                self.close(tuple(event.get("sums", ())))
            self.calls.append(call)
        elif self.steps or self._updates or self.calls:
            self._after.append(call)
        else:
            self.before.append(call)

    def updated(self, event: dict[str, Any]) -> None:
        """An optimizer has stepped."""
        if self.found is not None:
            self.rank = int(self.found.get("rank", 0))
            self._updates.append(Update(blob=self._blob, found=self.found, left=event))
            self.found = None

    def close(self, sums_next: tuple[int, ...]) -> None:
        """The step is whole."""
        if self.calls and self._updates:
            self.steps.append(
                Step(
                    number=self._first_step + len(self.steps),
                    calls=tuple(self.calls),
                    updates=tuple(self._updates),
                    after=tuple(self._after),
                    sums_next=sums_next,
                )
            )
            self.calls, self._updates, self._after = [], [], []
