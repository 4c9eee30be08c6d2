"""What is planted where: programs, defects, clean variations, and the run folder they are applied to.

A program, defect or clean variation is plain data. To add some, put them into a module and list that in
``registry.py``.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Family(StrEnum):
    """Where a defect was made; the names of the judge's categories."""

    MODEL = "model"
    TRAINING = "training"
    DATA = "data"
    REPORTING = "reporting"
    ARTIFACT = "artifact"
    DISTRIBUTED = "distributed"


class Half(StrEnum):
    """Thresholds were set on one half of the programs; the figures that count are of the other."""

    CALIBRATION = "calibration"
    REPORT = "report"


class Harm(StrEnum):
    """What a defect does: it worsens the score on held-out data, or it makes something stated untrue."""

    SCORE = "score"
    CLAIM = "claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A healthy path: its files, its data, and how it is judged."""

    name: str
    task: str  # "language", "classification" or "regression"
    half: Half
    what: str  # a few words for the tables
    data: str  # key of the data; programs with the same key share them
    build_data: Callable[[Path], None]  # fills a data/ folder; called once per key and kept
    files: Callable[[], dict[str, str]]  # name → text of everything that is in path-a/ before training
    judge_arguments: Callable[[Path, str], list[str]]
    """(path_dir, "smoke" or "verify") → what the judge is told beside --path, --data, --out. ``path_dir`` is
    the healthy path: sizes and plans come from the plan, never from the code that is judged."""
    heldout_score: Callable[[Path, Path], float]
    """(path_dir, data_dir) → lower is better, computed without the judge on the held-out split. Runs in a
    process of its own; NaN or an exception stand for a model that cannot be used."""


class Unfit(Exception):
    """An edit does not fit the program; the message says which text was found how often."""


@dataclass(slots=True)
class Folder:
    """A run while it is prepared: ``path-a/`` and ``data/``, and what was touched."""

    root: Path
    program: str
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    """(file, first line, last line) around each edit of a Python file: its function, else the lines."""
    other_run: Callable[[], Path] = Path
    """A healthy training of the same program with another seed: its finished path, not to be changed."""

    @property
    def path(self) -> Path:
        """The path's directory."""
        return self.root / "path-a"

    @property
    def data(self) -> Path:
        """The run's data."""
        return self.root / "data"

    def read(self, name: str) -> str:
        """A file of the path."""
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        """Replaces a file of the path."""
        (self.path / name).write_text(text, encoding="utf-8")

    def replace(self, name: str, old: str, new: str, *, times: int = 1) -> None:
        """Replaces text that must be there exactly so often."""
        text = self.read(name)
        if text.count(old) != times:
            raise Unfit(f"{self.program}: {name}: {old!r} is there {text.count(old)} times, not {times}")
        at = text.index(old)
        edited = text.replace(old, new)
        self.write(name, edited)
        if name.endswith(".py"):
            first = text.count("\n", 0, at) + 1
            self.spans.append((name, *enclosing(edited, first, first + new.count("\n"))))

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the path."""
        value: dict[str, Any] = json.loads(self.read(name))
        return value

    def set(self, name: str, **values: Any) -> None:
        """Changes keys of a JSON file of the path."""
        self.write(name, json.dumps(self.json(name) | values, indent=2) + "\n")


def enclosing(source: str, first: int, last: int) -> tuple[int, int]:
    """The lines of the innermost function around some lines; where there is none, ten more on each side."""
    best = (max(1, first - 10), last + 10)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return best
    functions = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno <= first
        and last <= (node.end_lineno or node.lineno)
    ]
    return max(functions, default=best)


@dataclass(frozen=True, slots=True)
class Edit:
    """Text of one file that is replaced; ``times`` is how often it must be there."""

    file: str
    old: str
    new: str
    times: int = 1


Action = Callable[[Folder], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that the run states, and what is so."""

    stated: str
    measured: str
    is_false: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One planted defect."""

    name: str  # kebab-case, unique
    family: Family
    what: str  # one line: what is wrong
    source: str  # repository and issue, paper, or question: where the idea is from
    programs: tuple[str, ...]  # what it is planted in
    edits: tuple[Edit, ...] | Mapping[str, tuple[Edit, ...]] = ()
    """Text that is replaced before training; a mapping goes by the program's name."""
    before: Action | None = None  # anything else that is done to path and data before training
    after: Action | None = None  # done to an honestly trained path and its data, after training
    component: tuple[str, ...] = ()
    """What may be named as the culprit: patterns as in fnmatch (``blocks.*.attention*``, ``train.log``). The
    functions that ``edits`` touch count too, as ``train.py:LINE``."""
    also: tuple[Family, ...] = ()  # other categories that are as right, where a defect lives in two
    harm: Harm = Harm.SCORE  # what it is expected to do; measured, not assumed
    claim: Callable[[Folder, Path], Claim] | None = None
    """(the finished run, the healthy program's finished path) → what is stated and what is so."""
    traincheck: str = ""  # which of TrainCheck's 20 errors it ports

    @property
    def trains(self) -> bool:
        """Whether it needs a training of its own; else it is done to the sound one."""
        return bool(self.edits) or self.before is not None

    def plant(self, folder: Folder) -> None:
        """Everything that happens before training. Raises Unfit."""
        edits = self.edits.get(folder.program, ()) if isinstance(self.edits, Mapping) else self.edits
        if isinstance(self.edits, Mapping) and not edits:
            raise Unfit(f"{self.name} has no edit for {folder.program}")
        for edit in edits:
            folder.replace(edit.file, edit.old, edit.new, times=edit.times)
        if self.before:
            self.before(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """A harmless variation: any alarm on it is a false one."""

    name: str
    what: str
    programs: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    before: Action | None = None
    after: Action | None = None
    interrupt: bool = False  # training is stopped by SIGTERM in the middle and started again
    stderr: str = ""  # lines that stand in train.stderr as well
    replan: bool = False  # sizes and token counts are those of the changed configuration: it was planned so

    trains = True

    def plant(self, folder: Folder) -> None:
        """Everything that happens before training. Raises Unfit."""
        for edit in self.edits:
            folder.replace(edit.file, edit.old, edit.new, times=edit.times)
        if self.before:
            self.before(folder)


@dataclass(frozen=True, slots=True)
class Case:
    """One program with one defect or one variation."""

    program: Program
    change: Defect | Clean

    @property
    def id(self) -> str:
        """Stable, and unique over all cases."""
        kind = "defect" if isinstance(self.change, Defect) else "clean"
        return f"{kind}/{self.change.name}/{self.program.name}"

    @property
    def is_defect(self) -> bool:
        """Whether something is wrong with it."""
        return isinstance(self.change, Defect)


def copy_folder(source: Path, target: Path) -> None:
    """A copy that may be damaged; nothing is shared with the original."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
