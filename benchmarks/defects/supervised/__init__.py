"""Classifiers and regressors of the benchmark: their data, programs, defects and clean variations.

Needs scikit-learn, whose bundled data sets they use: ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

from benchmarks.defects.supervised import (
    defects_artifact,
    defects_data,
    defects_distributed,
    defects_model,
    defects_reporting,
    defects_training,
)
from benchmarks.defects.supervised.clean import CLEAN
from benchmarks.defects.supervised.programs import PROGRAMS

DEFECTS = (
    *defects_model.DEFECTS,
    *defects_training.DEFECTS,
    *defects_data.DEFECTS,
    *defects_reporting.DEFECTS,
    *defects_artifact.DEFECTS,
    *defects_distributed.DEFECTS,
)

__all__ = ["CLEAN", "DEFECTS", "PROGRAMS"]
