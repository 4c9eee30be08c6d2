"""The rehearsal of classifiers and regressors: rows instead of windows, labels that come with them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe, run_probe
from ml_intern_cli.judge.rehearsal.batches import NO_REPLAY
from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
from ml_intern_cli.judge.rehearsal.gradients import ACCUMULATION, GRAD_CLIP, GRADIENT, ZERO_GRAD
from ml_intern_cli.judge.rehearsal.optimizer import LEARNING_RATE, OPTIMIZER_COVERAGE, WEIGHT_DECAY_GROUPS
from ml_intern_cli.judge.rehearsal.record import Call
from ml_intern_cli.judge.rehearsal.remains import CHECKPOINT_WHOLE, FILES_UNTOUCHED
from ml_intern_cli.judge.rehearsal.replay import Replay
from ml_intern_cli.judge.rehearsal.replicas import DATA_SHARDED, REPLICAS_AGREE
from ml_intern_cli.judge.rehearsal.reporting import EVAL_RECOMPUTED, LOGGED_LOSS, LOGGED_STEPS
from ml_intern_cli.judge.rehearsal.running import TRAIN_RUNS
from ml_intern_cli.judge.rehearsal.starting import Launcher
from ml_intern_cli.judge.rehearsal.states import RESUME, TRAIN_MODE
from ml_intern_cli.judge.rehearsal.updating import UPDATE
from ml_intern_cli.judge.rehearsal.verdicts import TRAIN_PY
from ml_intern_cli.judge.rehearsal.windows import Place

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

_LABELS = (r"targets?\s*=", r"def (\w*batch\w*|__getitem__|rows_after)")
_ORDER = (r"permutation|shuffle|randperm", r"def (rows_after|\w*order\w*|\w*batch\w*)")


class LabelledRows(Protocol):
    """One split: inputs ``(N, ...)`` and targets ``(N,)``."""

    @property
    def inputs(self) -> npt.NDArray[Any]:
        """As the data have them, not scaled."""
        ...

    @property
    def targets(self) -> npt.NDArray[Any]:
        """Class indices, or values in their own unit."""
        ...


class RowData(Protocol):
    """What the judge knows of labelled data."""

    directory: Path

    @property
    def is_classification(self) -> bool:
        """Whether targets are class indices."""
        ...

    @property
    def target_scaling(self) -> tuple[float, float]:
        """Mean and standard deviation that regression targets are scaled with in the loss."""
        ...

    def rows(self, split: Split) -> LabelledRows:
        """One split. Raises Unusable."""
        ...


class RowReplay(Replay):
    """The judge's own computation of losses over rows."""

    def __init__(self, bench: RowRehearsalBench) -> None:
        super().__init__(bench.artifact)
        self._bench = bench

    def loss(self, call: Call) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Cross-entropy against what train.py took it against; squared error against the true values."""
        inputs = call.inputs()[0]
        if self._bench.dataset.is_classification:
            targets = call.recovered("targets")
            if targets is None:
                raise Unusable("no cross-entropy flowed back into the model's output")
        else:
            targets = self._bench.true_targets(call, self._bench.places)
        loss = self._mean_loss(inputs, targets)
        return loss, loss, len(inputs)

    def _mean_loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        with self._artifact.foreign_code(f"forward(inputs of shape {tuple(inputs.shape)})"):
            outputs: torch.Tensor = self.model(inputs)
        if self._bench.dataset.is_classification:
            smoothing = float(self._bench.record.config.get("label_smoothing") or 0.0)
            return F.cross_entropy(outputs.float(), targets, label_smoothing=smoothing)
        deviation = self._bench.dataset.target_scaling[1]
        return F.mse_loss(outputs.reshape(-1) / deviation, targets / deviation)

    def _evaluated_loss(self, call: Call, targets: torch.Tensor) -> tuple[float, int]:
        return float(self._mean_loss(call.inputs()[0], targets)) * len(targets), len(targets)


class RowRehearsalBench(RehearsalBench):
    """One rehearsal of a classifier or regressor."""

    consumed = "rows"
    evaluated = "eval_rows"

    def __init__(
        self,
        artifact: Artifact,
        dataset: RowData,
        *,
        scratch: Path,
        num_parameters: int,
        launcher: Launcher,
        progress: Callable[[str], None] = lambda _: None,
        limit_s: float | None = None,
    ) -> None:
        super().__init__(
            artifact,
            None,  # type: ignore[arg-type]  # everything that asks a corpus is replaced below
            scratch=scratch,
            num_parameters=num_parameters,
            launcher=launcher,
            progress=progress,
            limit_s=limit_s,
        )
        self.dataset = dataset

    @property
    def data_dir(self) -> Path:
        """The run's ``data/``."""
        return self.dataset.directory

    def size_of(self, call: Call) -> int:
        """What a call consumes: rows."""
        return len(call.inputs()[0])

    def windows_per_epoch(self) -> int:
        """How many rows there are to train on."""
        return len(self.dataset.rows(Split.TRAIN).targets)

    def windows_per_step(self) -> int | None:
        """The planned batch."""
        planned = self.record.config.get("batch_size")
        return planned if isinstance(planned, int) else None

    def evaluated_targets(self, call: Call) -> torch.Tensor:
        """The targets (B,) of an evaluated call's rows."""
        return self.true_targets(call, self.evaluated_places)

    def true_targets(self, call: Call, places: dict[int, list[Place | None]]) -> torch.Tensor:
        """The targets (B,) of the rows of a call. Raises Unusable when a row is not of the data."""
        import torch

        found = []
        for place in places.get(id(call), []):
            if place is None:
                raise Unusable("a row is nowhere in the data")
            found.append(self.dataset.rows(place.split).targets[place.start])
        return torch.tensor(found)

    def label_tolerance(self, truth: float) -> float:
        """How far a recovered label may be off: a value is recovered from float32 numbers."""
        if self.dataset.is_classification:
            return 0.0
        return 0.01 * self.dataset.target_scaling[1] + 1e-4 * abs(truth)

    def new_replay(self) -> Replay:
        """The judge's model. Raises Unusable."""
        return RowReplay(self)

    @cached_property
    def _index(self) -> dict[Split, dict[bytes, int]]:
        """Split → content of a row → its number, the last of equal ones."""
        return {
            split: {row.tobytes(): number for number, row in enumerate(self.dataset.rows(split).inputs)}
            for split in Split
        }

    @cached_property
    def repeated(self) -> set[int]:
        """Training rows that are in the data more than once."""
        numbers: dict[bytes, list[int]] = {}
        for number, row in enumerate(self.dataset.rows(Split.TRAIN).inputs):
            numbers.setdefault(row.tobytes(), []).append(number)
        return {same[-1] for same in numbers.values() if len(same) > 1}

    def _located(self, calls: list[Call], splits: tuple[Split, ...]) -> dict[int, list[Place | None]]:
        places: dict[int, list[Place | None]] = {}
        for call in calls:
            inputs = call.inputs()
            if inputs:
                places[id(call)] = [self._place(row.numpy().tobytes(), splits) for row in inputs[0]]
        return places

    def _place(self, content: bytes, splits: tuple[Split, ...]) -> Place | None:
        for split in splits:
            if content in self._index[split]:
                return Place(split, self._index[split][content])
        return None


def _row_labels(bench: RowRehearsalBench) -> Measurement:
    right = counted = 0
    problem, component = "", ""
    for made in bench.made:
        for call in made.step.calls:
            targets = _taken(bench, call)
            places = bench.places.get(id(call), [])
            if targets is None or len(targets) != len(places):
                continue
            for target, place in zip(targets, places, strict=True):
                if place is None or place.start in bench.repeated:
                    continue
                truth = float(bench.dataset.rows(place.split).targets[place.start])
                fits = abs(target - truth) <= bench.label_tolerance(truth)
                counted, right = counted + 1, right + fits
                if not fits and not problem:
                    problem = (
                        f"{made.where}: row {place.start} is trained towards {target:g}, it is {truth:g}"
                    )
                    component = bench.line(*_LABELS)
    return Measurement(
        passed=not problem,
        measured=f"{right} of {counted} rows with their own label",
        allowed="all",
        component=component,
        detail=problem,
    )


def _taken(bench: RowRehearsalBench, call: Call) -> list[float] | None:
    """The targets that a loss was taken against, from the gradient of the outputs."""
    if bench.dataset.is_classification:
        targets = call.recovered("targets")
        return None if targets is None else targets.tolist()
    output, gradient = call.recovered("output"), call.recovered("gradient")
    if output is None or gradient is None or bench.windows_per_step() is None:
        return None
    # The gradient of mean(((output - target) / deviation)²) over all rows of the batch.
    deviation = bench.dataset.target_scaling[1]
    pull = gradient.double() * len(output) * deviation**2 / 2
    values: list[float] = (output.double() - pull).reshape(-1).tolist()
    return values


ROW_LABELS = Probe(
    name="row-labels",
    category=Category.DATA,
    meaning="every row is trained towards its own label",
    threshold="the class itself; a value to 1 % of the targets' standard deviation",
    threshold_source="read from the gradient of the outputs",
    usual_causes=(
        "inputs shuffled without their targets",
        "labels off by one, noisy, or of another split",
        "a broadcast of (B, 1) against (B,)",
        "another loss than planned",
    ),
    run=_row_labels,
)


def _rows_from_train(bench: RowRehearsalBench) -> Measurement:
    wrong = []
    count = 0
    for made in bench.fresh:
        for call in made.step.calls:
            for place in bench.places.get(id(call), []):
                count += 1
                if place is None:
                    wrong.append(f"{made.where}: a row is nowhere in the data")
                elif place.split is not Split.TRAIN:
                    wrong.append(f"{made.where}: row {place.start} of {place.split.value} is trained on")
    return Measurement(
        passed=not wrong,
        measured=f"{count - len(wrong)} of {count} rows are of the training split",
        allowed="all",
        component=bench.line(r"[\"']val[\"']", *_ORDER) if wrong else "",
        detail=wrong[0] if wrong else "",
    )


ROWS_FROM_TRAIN = Probe(
    name="rows-from-train",
    category=Category.DATA,
    meaning="every row that is trained on is one of the training split, as the data have it",
    threshold="all found among the training rows, bit for bit",
    threshold_source="compared with every row of every split",
    usual_causes=(
        "rows of val read",
        "inputs scaled twice, augmented or permuted in train.py",
        "another dtype",
    ),
    run=_rows_from_train,
)

ROW_PROBES: tuple[Probe[Any], ...] = (
    TRAIN_RUNS,
    ROW_LABELS,
    ROWS_FROM_TRAIN,
    NO_REPLAY,
    OPTIMIZER_COVERAGE,
    WEIGHT_DECAY_GROUPS,
    LEARNING_RATE,
    TRAIN_MODE,
    ZERO_GRAD,
    ACCUMULATION,
    GRAD_CLIP,
    GRADIENT,
    UPDATE,
    RESUME,
    LOGGED_LOSS,
    LOGGED_STEPS,
    EVAL_RECOMPUTED,
    CHECKPOINT_WHOLE,
    FILES_UNTOUCHED,
    REPLICAS_AGREE,
    DATA_SHARDED,
)
"""For classifiers and regressors. In the catalogue only ROW_LABELS and ROWS_FROM_TRAIN are new names."""


def rehearsed_rows(
    artifact: Artifact,
    dataset: RowData,
    *,
    num_parameters: int | None,
    scratch: Path | None,
    progress: Callable[[str], None],
) -> list[ProbeResult]:
    """As ``verdicts.rehearsed``, for labelled rows."""
    if not (artifact.directory / TRAIN_PY).is_file():
        return []
    kept = tempfile.TemporaryDirectory(dir=scratch, prefix="rehearsal-", ignore_cleanup_errors=True)
    with kept as folder, Launcher() as launcher:
        bench = RowRehearsalBench(
            artifact,
            dataset,
            scratch=Path(folder),
            num_parameters=num_parameters or 0,
            launcher=launcher,
        )
        if num_parameters is None:
            bench.give_up(Unusable("the model cannot be built"))
        results = []
        for number, probe in enumerate(ROW_PROBES, start=1):
            progress(f"{number}/{len(ROW_PROBES)} {probe.name}")
            results.append(run_probe(probe, bench, describe=artifact.describe))
    return results
