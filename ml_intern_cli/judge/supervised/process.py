"""One judgement in a process that may die: whatever the path's code does to it, there is a verdict.

Smoke has to run the untrained model in its own interpreter, for its gradients. So that interpreter is a
child: when it exits, hangs or is killed, the parent writes the failed verdict itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.supervised.host import run_limited

SMOKE_LIMIT_S = 400.0
"""Nine sound paths took 16 to 41 s on two busy cores."""


def smoke_apart(
    path_dir: Path,
    *,
    data_dir: Path,
    target_params: int | None,
    threads: int,
    time_limit_s: float = SMOKE_LIMIT_S,
) -> Smoke:
    """The verdict of ``smoke_rows``, or a failed one that says how its process ended.

    Raises:
        InvalidInput: the data cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="ml-intern-judge-") as scratch:
        out = Path(scratch)
        arguments = [
            str(path_dir),
            str(data_dir),
            str(target_params or 0),
            str(threads),
            str(out / "smoke.json"),
        ]
        ended = run_limited(
            [sys.executable, "-m", "ml_intern_cli.judge.supervised.process", *arguments],
            cwd=out,
            time_limit_s=time_limit_s,
            environment={"OMP_NUM_THREADS": str(threads)},
        )
        try:
            smoke = Smoke.model_validate_json(leavings.read_bytes(out, "smoke.json"))
        except (OSError, ValidationError):
            smoke = None
        if smoke is not None and ended.code == 0:
            return smoke
        if ended.code == InvalidInput.exit_code:
            raise InvalidInput(ended.stderr.strip(), hint="delete data/ and run again")
    result = ProbeResult(
        name="instantiate",
        measured="no answer",
        threshold=f"an answer within {time_limit_s:.0f} s",
        verdict=Verdict.FAIL,
        component="model.py",
        detail=f"the process that ran model.py {ended.reason}",
    )
    return Smoke(
        path=path_dir.name.removeprefix("path-"),
        params=None,
        params_target=target_params or 1,
        seconds=round(ended.seconds, 2),
        probes=(result,),
    )


def main(argv: list[str]) -> int:
    """The child: smokes, and writes the answer aside before it renames it."""
    import torch

    from ml_intern_cli.judge.supervised.smoke import smoke_rows

    path_dir, data_dir, out = Path(argv[0]), Path(argv[1]), Path(argv[4])
    torch.set_num_threads(int(argv[3]))
    try:
        smoke = smoke_rows(
            path_dir,
            data_dir=data_dir,
            target_params=int(argv[2]) or None,
            progress=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    except InvalidInput as error:
        sys.stderr.write(error.message)
        return error.exit_code
    aside = out.with_suffix(".tmp")
    aside.write_text(smoke.model_dump_json(), encoding="utf-8")
    aside.replace(out)
    sys.stderr.flush()
    os._exit(0)  # nothing that the path's code left behind runs any more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
