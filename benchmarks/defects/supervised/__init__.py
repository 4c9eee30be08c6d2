"""Classifiers and regressors of the benchmark: their data, programs, defects and clean variations."""

from __future__ import annotations

from benchmarks.defects.case import Clean, Defect, Program
from benchmarks.defects.supervised import (
    clean,
    defects_artifact,
    defects_data,
    defects_distributed,
    defects_model,
    defects_reporting,
    defects_training,
    programs,
)

PROGRAMS: tuple[Program, ...] = programs.PROGRAMS
DEFECTS: tuple[Defect, ...] = (
    *defects_model.DEFECTS,
    *defects_training.DEFECTS,
    *defects_data.DEFECTS,
    *defects_reporting.DEFECTS,
    *defects_artifact.DEFECTS,
    *defects_distributed.DEFECTS,
)
CLEAN: tuple[Clean, ...] = clean.CLEAN
