"""TrainCheck (OSDI 2025), from PyPI: invariants inferred from healthy trainings, checked on each case.

It needs an interpreter of its own in which ``traincheck`` and the programs' libraries are installed, named by
``--traincheck PYTHON``. As in its evaluation the first steps are traced, here six with two evaluations. Its
instrumentation puts lines above the script, which must therefore not begin with a ``__future__`` import: a
launcher that imports torch and then train.py stands in. The calls of PyTorch are traced; variables are not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.defects.processes import run

NAME = "TrainCheck"
_STEPS, _EVALUATE_EVERY = 6, 3
_COLLECT_LIMIT_S, _INFER_LIMIT_S, _CHECK_LIMIT_S = 300.0, 900.0, 300.0
_LAUNCHER = """import sys
import torch
sys.path.insert(0, {path!r})
sys.argv = ["train.py"]
import train
sys.exit(train.main())
"""


def infer(healthy: list[tuple[Path, Path]], scratch: Path, out: Path, *, python: str) -> None:
    """Writes the invariants that hold in healthy trainings.

    Args:
        healthy: (path, data) of each.
        scratch: A folder to work in.
        out: The file of invariants.
        python: The interpreter that has traincheck.
    """
    traces = [
        str(_trace(path, data, scratch / str(index), python)) for index, (path, data) in enumerate(healthy)
    ]
    run(
        "-m", "traincheck.infer_engine", "-f", *traces, "-o", str(out),
        cwd=scratch, limit_s=_INFER_LIMIT_S, python=python,
    )  # fmt: skip
    if not out.exists():
        raise OSError("traincheck inferred no invariants")


def check(path: Path, data: Path, invariants: Path, scratch: Path, *, python: str) -> list[str]:
    """The invariants that a path's first steps violate, in short."""
    try:
        trace = _trace(path, data, scratch, python)
    except OSError as error:
        return [str(error)]
    results = scratch / "results"
    run(
        "-m", "traincheck.checker", "-f", str(trace), "-i", str(invariants), "-o", str(results),
        "--no-html-report",
        cwd=scratch, limit_s=_CHECK_LIMIT_S, python=python,
    )  # fmt: skip
    summaries = list(results.rglob("violations_summary.json"))
    if not summaries:
        return ["traincheck gave no answer"]
    violations = json.loads(summaries[0].read_text(encoding="utf-8"))["violations"]
    return [json.dumps(violation)[:160] for violation in violations[:20]]


def _trace(path: Path, data: Path, scratch: Path, python: str) -> Path:
    """Traces the first steps of a path; returns the folder of the trace."""
    copy = scratch / "path-a"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("ckpts", "*.log", "*.jsonl", "*.stderr"))
    (scratch / "data").symlink_to(data.resolve())
    settings = json.loads((copy / "train_config.json").read_text())
    changed = {"steps": _STEPS, "warmup_steps": 2, "eval_every": _EVALUATE_EVERY, "checkpoint_every": 3}
    (copy / "train_config.json").write_text(json.dumps(settings | changed))
    (copy / "launch.py").write_text(_LAUNCHER.format(path=str(copy)))
    trace = scratch / "trace"
    run(
        "-m", "traincheck.collect_trace", "--pyscript", "launch.py", "--output-dir", str(trace),
        cwd=copy, limit_s=_COLLECT_LIMIT_S, python=python,
    )  # fmt: skip
    if not any(trace.glob("trace_*")):
        raise OSError("traincheck collected no trace")
    return trace
