"""The judge's own view of labelled rows: manifest, inputs and targets, each array checked when it is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from ml_intern_cli.documents.assessment import Task
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.documents.model import Model
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.artifact import Unusable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Array = npt.NDArray[Any]

_REBUILD = "delete data/ and run again"


class RowFile(Model):
    """One .npy file below data/."""

    name: str
    sha256: str


class RowSplit(Model):
    """One split."""

    rows: int = Field(gt=0)
    inputs: RowFile
    targets: RowFile


class InputsInfo(Model):
    """What one row of inputs is."""

    dtype: str = Field(pattern="^(float32|int64)$")
    shape: tuple[int, ...] = Field(min_length=1)  # per row; (T,) for token ids
    vocab_size: int | None = None
    pad_id: int | None = None


class Scaling(Model):
    """Statistics that train.py may scale inputs with."""

    mean: Any  # nested lists of the shape of a row, or one number
    std: Any
    fitted_on: str = "train"


class TargetScaling(Model):
    """What regression targets are scaled with for the loss."""

    mean: float
    std: float = Field(gt=0)


class RowManifest(Model):
    """data/manifest.json of a classification or regression task. Other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    task: Task
    source: str
    license: str = ""
    url: str | None = None
    inputs: InputsInfo
    target: str = "target"
    classes: tuple[str, ...] | None = None
    splits: dict[Split, RowSplit]
    scaling: Scaling | None = None
    target_scaling: TargetScaling | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs ``(N, *shape)`` and targets ``(N,)`` of one split."""

    inputs: Array
    targets: Array

    def __len__(self) -> int:
        return len(self.targets)


def is_supervised(data_dir: Path) -> bool:
    """Whether ``data/`` holds labelled rows: its manifest names a task."""
    try:
        manifest = json.loads((data_dir / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and "task" in manifest


class Dataset:
    """One run's data."""

    def __init__(self, directory: Path, manifest: RowManifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._splits: dict[Split, Rows] = {}

    @classmethod
    def open(cls, directory: Path) -> Dataset:
        """Reads the manifest; arrays are read when they are used.

        Raises:
            InvalidInput: the manifest cannot be read.
        """
        file = directory / "manifest.json"
        try:
            manifest = RowManifest.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise InvalidInput(f"{file}: {error}", hint=_REBUILD) from error
        missing = [split for split in Split if split not in manifest.splits]
        if missing:
            raise InvalidInput(f"{file}: no split {', '.join(missing)}", hint=_REBUILD)
        if manifest.task is Task.CLASSIFICATION and len(manifest.classes or ()) < 2:
            raise InvalidInput(f"{file}: classes: a classification needs at least two", hint=_REBUILD)
        return cls(directory, manifest)

    @property
    def is_classification(self) -> bool:
        """Whether targets are class indices."""
        return self.manifest.task is Task.CLASSIFICATION

    @property
    def num_classes(self) -> int:
        """C; 0 for regression."""
        return len(self.manifest.classes or ()) if self.is_classification else 0

    @property
    def is_tokens(self) -> bool:
        """Whether inputs are token ids ``(N, T)``."""
        return self.manifest.inputs.dtype == "int64"

    def rows(self, split: Split) -> Rows:
        """One split. Raises Unusable: a file is missing, corrupt, pickled, or not what the manifest says."""
        if split not in self._splits:
            info = self.manifest.splits[split]
            inputs = self._read(info.inputs.name, self.manifest.inputs.dtype)
            targets = self._read(info.targets.name, "int64" if self.is_classification else "float32")
            for name, array, shape in (
                (info.inputs.name, inputs, (info.rows, *self.manifest.inputs.shape)),
                (info.targets.name, targets, (info.rows,)),
            ):
                if array.shape != shape:
                    raise Unusable(f"{name} has shape {list(array.shape)}, the manifest says {list(shape)}")
            self._splits[split] = Rows(inputs, targets)
        return self._splits[split]

    def _read(self, name: str, dtype: str) -> Array:
        import numpy as np

        if Path(name).name != name:
            raise Unusable(f"{name!r} is no file name")
        try:
            array = np.load(self.directory / name, allow_pickle=False)
        except FileNotFoundError as error:
            raise Unusable(f"{name} is missing") from error
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise Unusable(f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
            raise Unusable(f"{name} does not hold {dtype}")
        return array

    def damaged_files(self) -> list[str]:
        """Names of files whose content is not what the manifest recorded."""
        files = [file for info in self.manifest.splits.values() for file in (info.inputs, info.targets)]
        return [file.name for file in files if _sha256(self.directory / file.name) != file.sha256]

    @property
    def target_scaling(self) -> tuple[float, float]:
        """Mean and standard deviation that train.py scales targets with; 0 and 1 where there are none."""
        scaling = self.manifest.target_scaling
        return (scaling.mean, scaling.std) if scaling and not self.is_classification else (0.0, 1.0)

    def features(self, split: Split) -> Floats:
        """Rows as vectors ``(N, F)`` for simple models: scaled with train's statistics; counts of tokens."""
        import numpy as np

        inputs = self.rows(split).inputs
        if self.is_tokens:
            return token_counts(inputs, self.manifest.inputs.vocab_size, self.manifest.inputs.pad_id)
        train = self.rows(Split.TRAIN).inputs.reshape(len(self.rows(Split.TRAIN)), -1).astype(np.float64)
        mean, std = train.mean(0), train.std(0)
        scaled: Floats = (inputs.reshape(len(inputs), -1) - mean) / np.where(std > 0, std, 1.0)
        return np.clip(scaled, -20, 20)


def fit_scaling(inputs: Floats, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Mean and std over rows and over every dimension in which ``shape`` is 1 or which it does not have."""
    import numpy as np

    row = inputs.shape[1:]
    if shape == row:
        return inputs.mean(0), inputs.std(0)
    padded = (1,) * (len(row) - len(shape)) + tuple(shape)
    if len(shape) == 1 and len(row) > 1 and shape[0] == row[0]:  # per channel, (C,) for rows of (C, H, W)
        padded = (shape[0],) + (1,) * (len(row) - 1)
    axes = (0, *[axis + 1 for axis, size in enumerate(padded) if size == 1])
    return np.asarray(inputs.mean(axes)).reshape(shape), np.asarray(inputs.std(axes)).reshape(shape)


def token_counts(ids: Array, vocab_size: int | None, pad_id: int | None) -> Floats:
    """log(1 + count) of every token id, padding left out: ``(N, V)``."""
    import numpy as np

    size = max(vocab_size or 0, int(ids.max()) + 1)
    counts = np.zeros((len(ids), size))
    for row, tokens in enumerate(ids):
        counts[row] = np.bincount(tokens[tokens >= 0], minlength=size)[:size]
    if pad_id is not None:
        counts[:, pad_id] = 0
    return np.log1p(counts)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "unreadable"
