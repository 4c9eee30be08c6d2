"""What a probe is: one test of one property of an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_intern_cli.judge.probes.bench import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run of a probe found."""

    passed: bool
    measured: str
    allowed: str
    detail: str = ""  # where and how, when the two values do not say it


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One property: how it is measured, what is allowed and why, what a failure usually means."""

    name: str  # stable, kebab-case: documents and fixes refer to it
    meaning: str
    threshold: str
    threshold_source: str
    usual_causes: tuple[str, ...]
    run: Callable[[Bench], Measurement]
    """Raises Unusable when the model cannot be used far enough to measure."""
