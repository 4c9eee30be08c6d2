"""The bench of the rehearsal's probes: the record, the judge's replay, and where every row comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.rehearsal.record import Call, Process, Record, Start, Step
from ml_intern_cli.judge.rehearsal.rehearse import rehearse
from ml_intern_cli.judge.rehearsal.replay import Recomputed, Replay
from ml_intern_cli.judge.rehearsal.starting import Launcher
from ml_intern_cli.judge.rehearsal.windows import Place, locate

if TYPE_CHECKING:
    import torch

_SHORTEST_ROW = 8  # tokens; a shorter row is too common to have one place
_FP32_TOLERANCE, _BF16_TOLERANCE = 1e-3, 2e-2


@dataclass(frozen=True, slots=True)
class Made:
    """A step, and who made it."""

    start: Start
    process: Process
    step: Step

    @property
    def where(self) -> str:
        """``step 6``, with the start when it is not the first."""
        again = f" of start {self.start.number}" if self.start.number > 1 else ""
        rank = f" on rank {self.process.rank}" if self.process.rank else ""
        return f"step {self.step.number}{rank}{again}"


class RehearsalBench:
    """One rehearsal of a language model. Everything is computed at most once, when a probe first asks.

    What depends on the task is in the names and methods above ``record``; of another task it is a subclass.
    """

    consumed = "tokens"  # what ckpts/last.json counts
    evaluated = "eval_tokens"  # what a row of metrics.jsonl counts

    def __init__(
        self,
        artifact: Artifact,
        corpus: Corpus,
        *,
        scratch: Path,
        num_parameters: int,
        launcher: Launcher,
        progress: Callable[[str], None] = lambda _: None,
        limit_s: float | None = None,
    ) -> None:
        self.artifact = artifact
        self.corpus = corpus
        self._scratch = scratch
        self._num_parameters = num_parameters
        self._launcher = launcher
        self._progress = progress
        self._limit_s = limit_s
        self._broken: Unusable | None = None
        self._own_moves: dict[tuple[int, int, int], dict[str, int]] = {}
        self._recomputed: dict[tuple[int, int, int], Recomputed] = {}

    @property
    def data_dir(self) -> Path:
        """The run's ``data/``."""
        return self.corpus.directory

    def size_of(self, call: Call) -> int:
        """What a call consumes: tokens."""
        return int(call.inputs()[0].numel())

    def windows_per_epoch(self) -> int:
        """How many different windows training can be fed."""
        return max(1, len(self.corpus.stream(Split.TRAIN)) // int(self.record.config.get("seq_len") or 1) - 1)

    def windows_per_step(self) -> int | None:
        """How many windows a step is planned to take, over all processes; None when nothing says."""
        config = self.record.config
        accumulation, micro_batch = config.get("accumulation"), config.get("micro_batch")
        if not isinstance(accumulation, int) or not isinstance(micro_batch, int):
            return None
        return accumulation * micro_batch

    def evaluated_targets(self, call: Call) -> torch.Tensor:
        """The true next tokens (B, T) of an evaluated call, all of whose rows have a place."""
        import numpy as np
        import torch

        length = call.inputs()[0].shape[1]
        places = [place for place in self.evaluated_places[id(call)] if place is not None]
        streams = [self.corpus.stream(place.split).read(place.start + 1, length) for place in places]
        return torch.from_numpy(np.stack(streams))

    def new_replay(self) -> Replay:
        """The judge's model. Raises Unusable."""
        return Replay(self.artifact)

    def give_up(self, reason: Unusable) -> None:
        """Rehearse nothing, for a reason that every probe then gives."""
        self._broken = reason

    @property
    def record(self) -> Record:
        """What happened. Raises Unusable."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._record
        except Unusable as error:
            self._broken = error  # a rehearsal that cannot be held is not tried once per probe
            raise

    @cached_property
    def _record(self) -> Record:
        return rehearse(
            self.artifact.directory,
            self.data_dir,
            scratch=self._scratch,
            num_parameters=self._num_parameters,
            launcher=self._launcher,
            progress=self._progress,
            limit_s=self._limit_s,
        )

    @property
    def first(self) -> Start:
        """The start that was never interrupted. Raises Unusable when it made no step."""
        start = self.record.starts[0]
        if start.main is None or not start.main.steps:
            raise Unusable("train.py made no step that could be followed")
        return start

    @cached_property
    def made(self) -> tuple[Made, ...]:
        """Every step of every start and process, in order; those made again after the crash too."""
        self.first  # noqa: B018 - raises when there is none
        return tuple(
            Made(start, process, step)
            for start in self.record.starts
            for process in start.processes
            for step in process.steps
        )

    @cached_property
    def fresh(self) -> tuple[Made, ...]:
        """Every step once: without those that a later start made again."""
        done = self.first.last_step
        return tuple(made for made in self.made if made.start.number == 1 or made.step.number > done)

    @cached_property
    def replay(self) -> Replay:
        """The judge's model. Raises Unusable."""
        return self.new_replay()

    def recomputed(self, made: Made) -> Recomputed | None:
        """The judge's own computation of a step; None where the state was not written down."""
        key = (made.start.number, made.process.rank, made.step.number)
        if key not in self._recomputed:
            if not made.step.first.event.get("state"):
                return None
            self._recomputed[key] = self.replay.step(made.process, made.step)
        return self._recomputed[key]

    def own_moves(self, made: Made) -> dict[str, int]:
        """As ``Replay.own_moves``, once per step."""
        key = (made.start.number, made.process.rank, made.step.number)
        if key not in self._own_moves:
            self._own_moves[key] = self.replay.own_moves(made.process, made.step)
        return self._own_moves[key]

    def tolerance(self, made: Made) -> float:
        """The relative difference that rounding explains, in the precision of a step's forward pass."""
        return _FP32_TOLERANCE if made.step.first.autocast is None else _BF16_TOLERANCE

    # --- where rows come from

    @cached_property
    def places(self) -> dict[int, list[Place | None]]:
        """The place of every row of every training call, by the call's identity."""
        calls = [call for made in self.made for call in made.step.calls]
        return self._located(calls, (Split.TRAIN, Split.VAL, Split.HELDOUT))

    @cached_property
    def evaluated_places(self) -> dict[int, list[Place | None]]:
        """The place of every row of every call without gradients, by the call's identity."""
        calls = [call for made in self.made for call in made.step.after]
        calls += [call for start in self.record.starts for p in start.processes for call in p.before]
        return self._located(calls, (Split.VAL, Split.TRAIN, Split.HELDOUT))

    def _located(self, calls: list[Call], splits: tuple[Split, ...]) -> dict[int, list[Place | None]]:
        shortest = min(_SHORTEST_ROW, int(self.record.config.get("seq_len") or 1))
        fed = {
            id(call): ids for call in calls if (ids := rows_of(call)) is not None and ids.shape[1] >= shortest
        }
        found = iter(locate(self.corpus, [row for ids in fed.values() for row in ids.numpy()], splits))
        return {key: [next(found) for _ in ids] for key, ids in fed.items()}

    # --- lines

    def line(self, *patterns: str) -> str:
        """``train.py:N`` of the first line that one of the patterns is found in; ``train.py`` if none is."""
        for pattern in patterns:
            for number, line in enumerate(self.record.program.splitlines(), start=1):
                if re.search(pattern, line.partition("#")[0]):
                    return f"train.py:{number}"
        return "train.py"


def rows_of(call: Call) -> torch.Tensor | None:
    """The token ids (B, T) of a call; None when it got something else."""
    import torch

    inputs = call.inputs()
    if not inputs or inputs[0].ndim != 2 or inputs[0].dtype not in (torch.int64, torch.int32):
        return None
    return inputs[0].long()


def targets_of(call: Call) -> torch.Tensor | None:
    """The targets (B, T) that a call's loss was taken against, -1 where none was; None if unknown."""
    ids = rows_of(call)
    if ids is None:
        return None
    if call.method == "loss":
        inputs = call.inputs()
        return inputs[1].long() if len(inputs) > 1 and inputs[1].shape == ids.shape else None
    targets = call.recovered("targets")
    return targets.view(ids.shape) if targets is not None and targets.numel() == ids.numel() else None
