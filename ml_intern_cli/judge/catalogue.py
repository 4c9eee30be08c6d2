"""Every probe that the judge knows, by what it works on. A new probe is written, then listed by its kind."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.judge.audit import PROBES as AUDIT
from ml_intern_cli.judge.claims import CLAIMS
from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.probes import PROBES as UNTRAINED
from ml_intern_cli.judge.rehearsal import PROBES as REHEARSAL
from ml_intern_cli.judge.supervised.claims import CLAIM_PROBES
from ml_intern_cli.judge.supervised.data_probes import DATA_PROBES
from ml_intern_cli.judge.supervised.probes import ROW_PROBES
from ml_intern_cli.judge.supervised.rehearsal.probes import ROW_REHEARSAL_PROBES

CATALOGUE: dict[str, tuple[Probe[Any], ...]] = {
    "before training: the model": UNTRAINED,
    "before training: train.py, rehearsed": REHEARSAL,
    "after training: what it claims": CLAIMS,
    "classifiers and regressors: the data": DATA_PROBES,
    "classifiers and regressors, before training: the model": ROW_PROBES,
    "classifiers and regressors, before training: train.py rehearsed": ROW_REHEARSAL_PROBES,
    "classifiers and regressors, after training: what is claimed": CLAIM_PROBES,
    "audit: a checkpoint made elsewhere": AUDIT,
}
"""Kind → probes in the order they run. Names are unique over all kinds."""
