"""Every probe that the judge knows, by what it works on. A new probe is written, then listed by its kind."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.judge.claims import CLAIMS
from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.probes import PROBES as UNTRAINED
from ml_intern_cli.judge.rehearsal import PROBES as REHEARSAL

CATALOGUE: dict[str, tuple[Probe[Any], ...]] = {
    "before training: the model": UNTRAINED,
    "before training: train.py, rehearsed": REHEARSAL,
    "after training: what it claims": CLAIMS,
}
"""Kind → probes in the order they run. Names are unique over all kinds."""
