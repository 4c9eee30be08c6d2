"""Starting the judge: a fresh interpreter that gets files and answers with a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.model import Model
from ml_intern_cli.errors import InvalidInput, MlInternError
from ml_intern_cli.stages.base import Progress, StageContext
from ml_intern_cli.stages.programs import killed_by, raise_if_disk_full, tail_of

if TYPE_CHECKING:
    from ml_intern_cli.executors.process import Finished

M = TypeVar("M", bound=Model)
_PROGRESS = re.compile(r"(?P<done>\d+)/(?P<total>\d+) (?P<what>.+)")  # as the judge writes it


def judge(
    context: StageContext,
    kind: type[M],
    action: str,
    *arguments: str,
    folder: Path,
    limit_s: float,
    reserved: bool = True,
) -> tuple[M | None, Finished, str]:
    """Run ``python -m ml_intern_cli.judge ACTION …`` on a path's folder.

    Returns:
        The verdicts, or ``None`` when the judged code kept the judge from reaching any (it hung,
        exited, or took the process down); how the process ended; and the tail of its stderr.

    Raises:
        StorageFailed: the disk is full.
        MlInternError: the answer cannot be read.
    """
    scratch = context.scratch
    answer = scratch / f"{action}.json"
    errors = scratch / f"{action}.stderr"
    scratch.mkdir(parents=True, exist_ok=True)
    for old in (answer, errors):
        old.unlink(missing_ok=True)
    argv = (
        sys.executable, "-m", "ml_intern_cli.judge", action,
        "--path", str(folder), "--data", str(context.layout.data),
        "--out", str(answer), *arguments,
    )  # fmt: skip
    finished = context.compute.run(
        argv,
        what=action,
        cwd=scratch,
        limit_s=limit_s,
        stderr=errors,
        on_tick=lambda _: _report(context, action, errors),
        writable=(scratch,),
        reserved=reserved,
    )
    tail = tail_of(errors)
    text = _answer(answer)
    raise_if_disk_full(context.layout, tail if text is None else text.decode("utf-8", errors="replace"))
    if text is None:
        if finished.exit_code == InvalidInput.exit_code:  # of the data, which no path is to blame for
            *_, message, hint = ("", "", *tail.splitlines()[-2:])
            raise InvalidInput(message, hint=hint)
        return None, finished, tail
    try:
        return kind.model_validate_json(text), finished, tail
    except ValueError as error:
        raise MlInternError(f"the judge's answer {answer} cannot be read: {error}") from error


def _answer(file: Path) -> bytes | None:
    """What the judge wrote; ``None`` when there is nothing, or something that it would not write."""
    try:
        return leavings.read_bytes(file.parent, file.name)
    except OSError:
        return None


def _report(context: StageContext, action: str, errors: Path) -> None:
    """Tell where the judge stands."""
    line = _PROGRESS.fullmatch(tail_of(errors, lines=1))
    if line is None:
        return
    context.report(
        Progress(
            stage=action,
            what=line["what"],
            path_id=context.path,
            done=int(line["done"]),
            total=int(line["total"]),
            budget_left_s=context.compute.remaining_s(),
        )
    )


def how_it_ended(finished: Finished) -> str:
    """A phrase for a judge that gave no answer."""
    if finished.out_of_time:
        return f"no answer within {finished.seconds:.0f} s"
    if finished.exit_code < 0:
        return f"the process was {killed_by(-finished.exit_code)}"
    return f"the process exited with code {finished.exit_code} before any verdict"
