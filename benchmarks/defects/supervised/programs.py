"""The classifiers and regressors: images, text with padding, tables, and two processes side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from benchmarks.defects.case import Half, Program
from benchmarks.defects.supervised import data
from benchmarks.defects.supervised.score import heldout_score
from ml_intern_cli.resources import resource

_PROGRAMS = Path(__file__).parents[1] / "programs"


def _files(name: str, model: str, train: Path) -> dict[str, str]:
    """Everything of a healthy path."""
    own = {file: (_PROGRAMS / name / file).read_text() for file in ("config.json", "train_config.json")}
    return {"model.py": (_PROGRAMS / model / "model.py").read_text(), "train.py": train.read_text()} | own


@cache
def _parameters(path_dir: Path) -> int:
    from ml_intern_cli.judge.artifact import Artifact, count_parameters

    return count_parameters(Artifact(path_dir).build(seed=0))


def judge_arguments(path_dir: Path, action: str) -> list[str]:
    """What the stages pass: sizes and row counts of the plan, which is the healthy configuration."""
    config = json.loads((path_dir / "train_config.json").read_text())
    arguments = ["--target-params", str(_parameters(path_dir)), "--num-threads", "1"]
    if action == "smoke":
        return arguments
    rows = config["steps"] * config["batch_size"]
    return [*arguments, "--planned-tokens", str(rows), "--seed", str(config["seed"])]


def _program(
    name: str,
    task: str,
    half: Half,
    what: str,
    build: Callable[[Path], None],
    *,
    model: str | None = None,
    train: Path | None = None,
) -> Program:
    return Program(
        name=name,
        task=task,
        half=half,
        what=what,
        data=build.__name__.removeprefix("build_"),
        build_data=build,
        files=partial(_files, name, model or name, train or resource("templates", "supervised", "train.py")),
        judge_arguments=judge_arguments,
        heldout_score=heldout_score,
    )


_PARALLEL = _PROGRAMS / "digits_ddp" / "train.py"

PROGRAMS = (
    _program(
        "digits_mixer", "classification", Half.CALIBRATION, "MLP-Mixer on 8 × 8 digits", data.build_digits
    ),
    _program("wine_mlp", "classification", Half.CALIBRATION, "MLP on 13 columns, 3 classes", data.build_wine),
    _program("cells_mlp", "regression", Half.CALIBRATION, "linear and MLP on 10 columns", data.build_cells),
    _program(
        "wine_ddp",
        "classification",
        Half.CALIBRATION,
        "two gloo processes, 13 columns",
        data.build_wine,
        model="digits_ddp",
        train=_PARALLEL,
    ),
    _program(
        "digits_cnn", "classification", Half.REPORT, "CNN with batch norm on 8 × 8 digits", data.build_digits
    ),
    _program(
        "text_encoder",
        "classification",
        Half.REPORT,
        "encoder on padded token ids, 6 classes",
        data.build_texts,
    ),
    _program(
        "cancer_mlp",
        "classification",
        Half.REPORT,
        "MLP with batch norm, 1 row in 6 positive",
        data.build_cancer,
    ),
    _program(
        "diabetes_mlp", "regression", Half.REPORT, "MLP with layer norm on 10 columns", data.build_diabetes
    ),
    _program(
        "digits_ddp",
        "classification",
        Half.REPORT,
        "two gloo processes on 8 × 8 digits",
        data.build_digits,
        train=_PARALLEL,
    ),
)
