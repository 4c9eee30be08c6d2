"""A check is a few criteria; its verdict line shows each one's measured value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.verify import Judgement


@dataclass(frozen=True, slots=True)
class Criterion:
    """One comparison, and the words for it: ``eval 1.412, allowed [0.76, 4.91]``."""

    passed: bool
    text: str


def judgement(criteria: Sequence[Criterion]) -> Judgement:
    """Passes when all do. A failing verdict's reason names the failing criteria only."""
    failed = [criterion.text for criterion in criteria if not criterion.passed]
    return Judgement(
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        reason="; ".join(failed or [criterion.text for criterion in criteria]),
    )


def failure(reason: str) -> Judgement:
    """A failing verdict for something that could not be measured."""
    return judgement([Criterion(False, reason)])
