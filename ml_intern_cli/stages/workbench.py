"""Where a brain writes the code of one path and tries it: a folder of its own, the walls, and the budget.

The draft lives in the run's scratch folder until the stage hands it over, so that a person's edits of
the path's own files are never under a brain's fingers, and a killed process finds its draft again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.code import Code
from ml_intern_cli.documents.layout import (
    CODE,
    CONFIG,
    EVAL_PY,
    MODEL_PY,
    POSTMORTEM,
    TRAIN_CONFIG,
    TRAIN_PY,
    VERIFY,
    path_folder,
)
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.stages.base import StageContext, read_document
from ml_intern_cli.stages.programs import heldout_shards
from ml_intern_cli.stages.smoke import smoke_of
from ml_intern_cli.stages.train import training_left_s

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Implementation, Ran
    from ml_intern_cli.documents.smoke import Smoke

_PROGRAMS = (MODEL_PY, TRAIN_PY, EVAL_PY, CONFIG)
_MOST_OF_SLICE = 0.5  # that trying may take from the path's own training
_LEAST_S = 2.0
_MOST_OUTPUT = 4 << 20  # bytes of what a program printed; the end counts


class PathBench:
    """The workbench of one path; see Workbench.

    Args:
        context: Of the stage.
        plan: The run's plan.
        path: Whose code is written.
    """

    def __init__(self, context: StageContext, plan: Plan, path: PathPlan) -> None:
        self._context = context
        self._plan = plan
        self._path = path
        self._one_at_a_time = threading.Lock()  # programs share this machine's cores and one watchdog

    @property
    def folder(self) -> Path:
        """The draft's folder."""
        return self._context.scratch / "drafts" / path_folder(self._path.id)

    @cached_property
    def postmortem(self) -> Postmortem | None:
        """Of the path that this one retries."""
        retried = self._path.retry_of
        if retried is None or not self._context.layout.path(retried, POSTMORTEM).is_file():
            return None
        return read_document(self._context.layout, Postmortem, f"{path_folder(retried)}/{POSTMORTEM}")

    @cached_property
    def start(self) -> Mapping[str, str]:
        """A blueprint's programs; those of the failed path where a brain wrote them or has to change them."""
        start = self._context.brain.start(self._path, self._plan)
        is_carried = self._plan.starts_from is not None or (
            self.postmortem is not None and self.postmortem.rewrite
        )
        if self._path.retry_of is None or not is_carried:
            return start
        before = self._context.layout.path(self._path.retry_of)
        kept = {name: leavings.read_text(before, name) for name in _PROGRAMS if (before / name).is_file()}
        return start | kept | {TRAIN_CONFIG: start[TRAIN_CONFIG]}

    @cached_property
    def written(self) -> Implementation | None:
        """The path's code with its CODE.md, if that answers what the plan says of the path now."""
        from ml_intern_cli.brains.protocol import Implementation

        layout, path = self._context.layout, self._path
        files = {name: layout.path(path.id, name) for name in _PROGRAMS}
        if not layout.path(path.id, CODE).is_file() or not all(file.is_file() for file in files.values()):
            return None
        code = read_document(layout, Code, f"{path_folder(path.id)}/{CODE}")
        fix = self.postmortem.fix if self.postmortem else None
        if (code.variant, code.approach, code.fix) != (path.variant, path.approach, fix):
            return None
        texts = {name: leavings.read_text(layout.path(path.id), name) for name in files}
        return Implementation(files=texts | {TRAIN_CONFIG: self.start[TRAIN_CONFIG]}, code=code)

    def run(self, argv: tuple[str, ...], *, limit_s: float) -> Ran:
        """Run a program in the draft's folder. See Workbench.run."""
        from ml_intern_cli.brains.protocol import Ran

        with self._one_at_a_time:
            allowed_s = min(limit_s, self._left_s())
            printed = self._context.scratch / "trial.out"
            printed.parent.mkdir(parents=True, exist_ok=True)
            printed.unlink(missing_ok=True)
            finished = self._context.compute.run(
                argv,
                what="trying code",
                cwd=self.folder,
                limit_s=allowed_s,
                stdout=printed,
                stderr=printed,
                writable=(self.folder,),
                hidden=heldout_shards(self._context.layout),
            )
            return Ran(
                exit_code=finished.exit_code,
                seconds=finished.seconds,
                out_of_time=finished.out_of_time,
                output=leavings.read_end(printed.parent, printed.name, most_bytes=_MOST_OUTPUT),
            )

    def smoke(self) -> Smoke:
        """The judge's verdict on the draft."""
        with self._one_at_a_time:
            self._left_s()
            return smoke_of(self._context, self._plan, self._path, self.folder, reserved=False)

    def _left_s(self) -> float:
        """Seconds that trying may still take. Raises MlInternError when there are none."""
        left_s = unpromised_s(self._context, self._plan) - (1 - _MOST_OF_SLICE) * self._path.slice_s
        if left_s < _LEAST_S:
            raise MlInternError(
                "no compute is left for trying things; what is left is for training",
                hint="hand in what you have",
            )
        return left_s


def unpromised_s(context: StageContext, plan: Plan) -> float:
    """What the cap leaves for this path's trying and training: not its judging, nor what is its siblings'."""
    promised = plan.path(context.path).judging_s
    for other in plan.paths:
        folder = context.layout.path(other.id)
        if other.id == context.path or (folder / POSTMORTEM).is_file() or (folder / VERIFY).is_file():
            continue
        promised += other.judging_s + training_left_s(context.layout, other)
    return context.compute.remaining_s() - promised
