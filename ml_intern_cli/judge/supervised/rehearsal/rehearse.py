"""Runs train.py three times on copies: whole, stopped, and gone on from there. Reads what was recorded."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.rehearsal.rehearse import heldout_files, own_folders
from ml_intern_cli.judge.supervised.host import Ended, run_limited

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.dataset import Dataset

_INJECT = Path(__file__).parent / "inject"
_LIMIT_S = 120.0  # per start; those of nine sound paths took 4 to 20 on two busy cores
_STOP_AFTER, _GO_ON = 4, 3
_MOST_STEPS = 150
_COPIED = {".py", ".json", ".txt"}


@dataclass(frozen=True, slots=True)
class Event:
    """One file of the recorder."""

    words: dict[str, str]
    tensors: dict[str, torch.Tensor]

    @property
    def kind(self) -> str:
        """start, step or evaluation."""
        return self.words.get("kind", "")

    def json(self, key: str) -> Any:
        """A word that holds JSON."""
        return json.loads(self.words.get(key, "null"))


@dataclass(slots=True)
class Start:
    """One start of train.py: how it ended, what it recorded per process, what it left."""

    ended: Ended
    processes: list[list[Event]]
    last: dict[str, Any]
    losses: dict[int, float]  # train.log
    metrics: list[dict[str, Any]]
    weights: dict[str, torch.Tensor] = field(default_factory=dict)  # of the last checkpoint
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)  # inputs that are not what they were

    def steps(self, process: int = 0) -> list[Event]:
        """The optimizer steps."""
        return [event for event in self.processes[process] if event.kind == "step"] if self.processes else []


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The three starts, and for how many steps the first was let run."""

    whole: Start
    stopped: Start
    resumed: Start | None
    num_steps: int


def rehearse(artifact: Artifact, dataset: Dataset) -> Rehearsal:
    """Raises Unusable when train.py or its settings are not there."""
    config = artifact.train_config
    if not (artifact.directory / "train.py").is_file():
        raise Unusable("train.py is missing")
    batch = config.get("batch_size")
    planned = config.get("steps")
    if not (isinstance(batch, int) and batch > 0 and isinstance(planned, int) and planned > 0):
        raise Unusable("train_config.json: steps and batch_size must be whole numbers above 0")
    epoch = math.ceil(dataset.manifest.splits[Split.TRAIN].rows / batch)
    num_steps = min(planned, _MOST_STEPS, max(_STOP_AFTER + _GO_ON + 1, epoch + 3))
    with tempfile.TemporaryDirectory(prefix="ml-intern-rehearsal-") as scratch, ThreadPoolExecutor(2) as pool:
        root = Path(scratch)
        for name in ("whole", "stopped"):
            _copy(artifact, dataset, root / name)
        data_dir = dataset.directory
        whole = pool.submit(_start, root / "whole", data_dir, num_steps, "first")
        stopped = pool.submit(_start, root / "stopped", data_dir, _STOP_AFTER, "first").result()
        is_stopped = stopped.last.get("status") == "stopped"
        resumed = _start(root / "stopped", data_dir, _GO_ON, "second") if is_stopped else None
        return Rehearsal(whole.result(), stopped, resumed, num_steps)


def replay(artifact: Artifact, dataset: Dataset, *, num_steps: int) -> dict[int, float]:
    """The losses that train.py logs when its first steps are made once more. Raises Unusable."""
    with tempfile.TemporaryDirectory(prefix="ml-intern-replay-") as scratch:
        root = Path(scratch)
        _copy(artifact, dataset, root / "whole")
        start = _start(root / "whole", dataset.directory, num_steps, "first")
    if not start.losses:
        raise Unusable(f"made once more, train.py logs no step: it {start.ended.reason}")
    return start.losses


def _copy(artifact: Artifact, dataset: Dataset, root: Path) -> None:
    """The path without what it left, and its data without the held-out rows."""
    path, data = root / "path-x", root / "data"
    path.mkdir(parents=True)
    data.mkdir()
    for file in sorted(artifact.directory.iterdir()):
        if file.suffix in _COPIED and file.is_file() and not file.is_symlink():
            leavings.copy(artifact.directory, file.name, path / file.name)
    config = artifact.train_config | {
        "data_dir": "../data",
        "eval_every": 3,
        "checkpoint_every": 2,
        "num_threads": 1,
        "time_limit_s": None,
    }
    (path / "train_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(dataset.directory / "manifest.json", data)
    for split in (Split.TRAIN, Split.VAL):
        info = dataset.manifest.splits[split]
        for entry in (info.inputs, info.targets):
            if (dataset.directory / entry.name).is_file():
                shutil.copy(dataset.directory / entry.name, data / entry.name)


def _start(root: Path, data_dir: Path, num_steps: int, label: str) -> Start:
    """One start of the copy in ``root``; the held-out rows of ``data_dir`` are out of its reach."""
    path, record = root / "path-x", root / f"record-{label}"
    before = _hashes(root)
    ended = run_limited(
        [sys.executable, "train.py"],
        cwd=path,
        time_limit_s=_LIMIT_S,
        environment={
            "PYTHONPATH": f"{_INJECT}:{Path(__file__).parents[4]}",
            "ML_INTERN_ROWS_RECORD": str(record),
            "ML_INTERN_ROWS_STEPS": str(num_steps),
            "ML_INTERN_ROWS_HIDDEN": json.dumps([str(file.resolve()) for file in heldout_files(data_dir)]),
            **own_folders(root, data_dir),
            "OMP_NUM_THREADS": "1",
        },
    )
    after = _hashes(root)
    last = leavings.read_object(path, "ckpts/last.json")
    start = Start(
        ended,
        _read(record),
        last,
        _read_losses(path),
        list(leavings.read_rows(path, "metrics.jsonl")),
        changed=[name for name, digest in before.items() if after.get(name) != digest],
    )
    directory = f"ckpts/{Path(str(last.get('dir'))).name}"
    start.weights = _tensors(path, f"{directory}/model.safetensors")
    start.moments = _tensors(path, f"{directory}/optimizer.safetensors")
    return start


def _hashes(root: Path) -> dict[str, str]:
    import hashlib

    files = [*root.glob("data/*"), *root.glob("path-x/*.py"), root / "path-x" / "config.json"]
    files.append(root / "path-x" / "train_config.json")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def _read(record: Path) -> list[list[Event]]:
    """The events of each process that trained, the one that started first being the first."""
    processes = []
    for folder in sorted(record.glob("*/"), key=lambda one: int(one.name) if one.name.isdigit() else 0):
        events = []
        for file in sorted(folder.glob("*.safetensors")):
            with _opened(file) as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                events.append(Event(dict(stored.metadata() or {}), tensors))
        if any(event.kind == "step" for event in events):
            processes.append(events)
    return processes


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        yield stored


def _tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, torch.Tensor] = load(leavings.read_bytes(path, name, most_bytes=1 << 30))
    except (OSError, SafetensorError):
        return {}
    return tensors


def _read_losses(path: Path) -> dict[int, float]:
    import re

    try:
        text = leavings.read_text(path, "train.log", errors="replace")
    except OSError:
        return {}
    return {
        int(step): float(loss)
        for step, loss in re.findall(r"^step=(\d+) loss=([-+.\deE]+|nan|inf)$", text, re.MULTILINE)
    }
