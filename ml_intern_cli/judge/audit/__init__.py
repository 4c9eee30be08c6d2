"""Judging a model that this program did not make. Every probe, in the order they run."""

from __future__ import annotations

from ml_intern_cli.judge.audit import (
    artifact_probes,
    behaviour_probes,
    text_probes,
    variant_probes,
    weight_probes,
    writing_probes,
)
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.probe import Probe

PROBES: tuple[Probe[AuditBench], ...] = (
    *artifact_probes.PROBES,
    *weight_probes.PROBES,
    *text_probes.PROBES,
    *behaviour_probes.PROBES,
    *variant_probes.PROBES,
    *writing_probes.PROBES,
)
