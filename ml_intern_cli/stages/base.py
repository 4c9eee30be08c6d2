"""What a stage is, what it is given, and what it gives back.

A stage reads documents and returns documents. It never prints, reads the environment, looks at the
clock or writes state: the pipeline (``ml_intern_cli.runs``) does that around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ml_intern_cli.documents.layout import RunLayout, path_folder
from ml_intern_cli.documents.model import Model

if TYPE_CHECKING:
    from datetime import datetime

    from ml_intern_cli.access import HubAccess
    from ml_intern_cli.brains.protocol import Brain, Overrides, Question
    from ml_intern_cli.executors.process import Finished

D = TypeVar("D", bound=Model)


@dataclass(frozen=True, slots=True)
class Ref:
    """Something a stage reads: a document (or a named part of it), a file, or files by pattern.

    ``{path}`` stands for the path's folder, ``{id}`` for its id.
    """

    name: str
    part: str | None = None

    def of(self, path_id: str | None) -> Ref:
        """This reference for one path."""
        if path_id is None:
            return self
        return Ref(fill(self.name, path_id), None if self.part is None else fill(self.part, path_id))

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}#{self.part}"


def fill(text: str, path_id: str | None) -> str:
    """``{path}/model.py`` → ``path-a/model.py``."""
    if path_id is None:
        return text
    return text.replace("{path}", path_folder(path_id)).replace("{id}", path_id)


class Outcome(StrEnum):
    """How a stage ended."""

    DONE = "done"
    FAILED = "failed"  # the path failed; its documents say how


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage gives back.

    Attributes:
        summary: One line for the terminal and the receipt.
        documents: Run-relative name → document, which the pipeline renders and writes in this order.
        files: Run-relative name → text of programs and configurations, written before the documents.
        details: Further lines, shown under a failure.
        revisions: Run-relative name → what becomes of a document that the run's paths share; it is made of
            what stands there when the stage ends. Written before the documents.
        notify: Events and their messages.
        out_of_memory: The path failed for want of memory, which beside others need not be its own fault.
    """

    outcome: Outcome = Outcome.DONE
    summary: str
    documents: Mapping[str, Model] = field(default_factory=dict)
    revisions: Mapping[str, Callable[[Any], Model]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    notify: tuple[tuple[str, str], ...] = ()
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """What a stage's outputs on disk say. Both are ``None`` when all is well."""

    missing: str | None = None  # what is not there yet, or does not reach its end
    failed: str | None = None  # the outputs are complete and say that the path failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        reads: Inputs; a change makes the stage stale.
        writes: Outputs, run-relative with ``{path}``; the stage is done when they exist and parse.
        announces: An event and its message, told before the stage runs; ``None``: nothing to tell.
        check: What else must hold of the outputs, for stages that can stop half-way.
        outgrown: Inputs, as ``str(Ref)``, whose change no longer makes the stage stale.
        verdict: Why the outputs say that the path failed, or ``None``; parses them.
        skip: Says why there is nothing to do, or ``None``.
        partial: What an interrupted run of the stage leaves and the next one goes on from; set aside
            when an input has changed since.
        keeps_edits: Outputs that the user edited are kept when the stage is redone: they are code.
    """

    name: str
    title: str  # what it does, for help and status
    reads: tuple[Ref, ...]
    writes: tuple[str, ...]
    run: Callable[[StageContext], StageResult]
    per_path: bool = False
    partial: tuple[str, ...] = ()
    keeps_edits: bool = False
    announces: Callable[[StageContext], tuple[str, str] | None] | None = None
    check: Callable[[RunLayout, str | None], Check] | None = None
    verdict: Callable[[RunLayout, str], str | None] | None = None
    skip: Callable[[RunLayout], str | None] | None = None
    outgrown: Callable[[RunLayout], frozenset[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Caps that options gave; ``None``: the default."""

    max_paths: int | None = None
    max_retries: int | None = None
    token_budget: int | None = None  # over all paths
    max_usd: float | None = None  # for language models


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where long work stands. Times are in seconds."""

    stage: str
    what: str
    path_id: str | None = None
    done: int | None = None
    total: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    left_s: float | None = None
    budget_left_s: float | None = None


class Compute(Protocol):
    """The only door to spending compute: checked before, counted during, stopped at the limit."""

    def remaining_s(self) -> float:
        """Seconds left under the cap of BUDGET.md."""
        ...

    def run(
        self,
        argv: tuple[str, ...],
        *,
        what: str,
        cwd: Path,
        limit_s: float,
        stdout: Path | None = None,
        stderr: Path | None = None,
        on_tick: Callable[[float], None] | None = None,
        writable: tuple[Path, ...] = (),
        hidden: tuple[Path, ...] = (),
        reserved: bool = False,
    ) -> Finished:
        """Run a program for at most ``limit_s`` seconds and never past the cap.

        Where the machine has a wall, the program may write to ``writable`` only, cannot read ``hidden``, and
        can read the run.

        ``reserved``: the plan set its time aside (judging), so it may also use the slack above the cap,
        should training have used that to the last second.

        Raises:
            Blocked: nothing is left to spend, or code that does not ship with this program would run without
                a wall and nobody has allowed it.
        """
        ...


class Memory(Protocol):
    """What a stage must know again when it was killed half-way. Forgotten when the stage is done."""

    def recall(self, key: str) -> str | None:
        """What was remembered, or ``None``."""
        ...

    def remember(self, key: str, value: str) -> None:
        """Write it down now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a stage is given.

    Attributes:
        request: The sentence, for the stage that reads it first.
        overrides: What options said, for the same stage; options win over the sentence.
        caps: Caps that options gave, for the first BUDGET.md.
        secrets: Values that must stand in nothing that is published.
        ask: Puts bundled questions to the user; ``None`` when nobody is there.
        with_session: What was said to language models is published too.
        cwd: Where relative paths of the user start.
    """

    layout: RunLayout
    path_id: str | None
    request: str
    overrides: Overrides
    caps: Caps
    brain: Brain
    compute: Compute
    memory: Memory
    hub: HubAccess
    secrets: tuple[str, ...]
    ask: Callable[[tuple[Question, ...]], dict[str, str]] | None
    report: Callable[[Progress], None]
    now: Callable[[], datetime]
    cwd: Path
    with_session: bool = False

    @property
    def path(self) -> str:
        """The id of the path this stage works on."""
        assert self.path_id is not None, "only stages per path may ask"  # noqa: S101, an invariant
        return self.path_id

    @property
    def scratch(self) -> Path:
        """A folder for what this stage makes on its way; it is gone when the stage is done."""
        return self.layout.scratch_of(self.path_id)

    def read(self, kind: type[D], name: str) -> D:
        """A document of the run, parsed.

        Raises:
            InvalidDocument: it does not parse, or is not there.
        """
        return read_document(self.layout, kind, name)


def read_document(layout: RunLayout, kind: type[D], name: str) -> D:
    """A document of a run, parsed. Raises InvalidDocument."""
    from ml_intern_cli.documents.registry import load

    document = load(layout.document(name), source=name)
    assert isinstance(document, kind), f"{name} holds a {type(document).__name__}"  # noqa: S101, an invariant
    return document
