"""Every probe of a rehearsal, in the order they run."""

from __future__ import annotations

from typing import Any

from ml_intern_cli.judge.probe import Probe
from ml_intern_cli.judge.supervised.rehearsal.loop import LOOP_PROBES, PROCESS_PROBES
from ml_intern_cli.judge.supervised.rehearsal.rows import REHEARSED, ROW_READING_PROBES

ROW_REHEARSAL_PROBES: tuple[Probe[Any], ...] = (
    REHEARSED,
    *PROCESS_PROBES,  # what they find shows in the others too
    *ROW_READING_PROBES,
    *LOOP_PROBES,
)
