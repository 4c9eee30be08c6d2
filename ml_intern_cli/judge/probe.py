"""What a probe is: one test of one property, with a name, a measured value and a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.judge.artifact import Unusable

B = TypeVar("B")


class Category(StrEnum):
    """Where what a probe finds was done."""

    MODEL = "model"  # the architecture: masks, positions, norms, initialisation, ties, experts
    TRAINING = "training"  # the loop: gradients, optimizer, schedule, accumulation, modes, random numbers
    DATA = "data"  # what is read: labels, windows, splits, tokenizer
    REPORTING = "reporting"  # what is claimed: losses, metrics, samples, where the checkpoint is from
    ARTIFACT = "artifact"  # what is left: tensors, configuration, tokenizer, files
    DISTRIBUTED = "distributed"  # several processes: replicas, shards of the data


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run of a probe found."""

    passed: bool
    measured: str
    allowed: str
    component: str = ""  # what is to blame: a module or parameter, a file and line, a tensor
    detail: str = ""  # where and how, when the two values do not say it


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Generic[B]):
    """One property: how it is measured, what is allowed and why, what a failure usually means.

    ``B`` is the bench it works on: what was built or recorded once for all probes of its kind.
    """

    name: str  # stable, kebab-case: documents and fixes refer to it
    category: Category
    meaning: str
    threshold: str
    threshold_source: str
    usual_causes: tuple[str, ...]
    run: Callable[[B], Measurement]
    """Raises Unusable when what is judged cannot be used far enough to measure."""


def run_probe(probe: Probe[B], bench: B, *, describe: Callable[[BaseException], str]) -> ProbeResult:
    """One probe's result. Whatever the judged code raises fails the probe, and says so.

    Args:
        probe: What to measure.
        bench: What to measure it on.
        describe: The words for an exception that came out of the judged code.
    """
    try:
        found = probe.run(bench)
    except Unusable as error:
        found = Measurement(
            passed=False, measured="not run", allowed=probe.threshold, detail=f"not run: {error}"
        )
    except Exception as error:  # noqa: BLE001 - the judged code may break the judge's own arithmetic in any way
        found = Measurement(
            passed=False, measured="raised", allowed=probe.threshold, detail=f"raised {describe(error)}"
        )
    detail = found.detail
    if not found.passed and found.measured != "not run":
        causes = f"usual causes: {'; '.join(probe.usual_causes)}"
        detail = f"{detail}. {causes}" if detail else causes
    return ProbeResult(
        name=probe.name,
        measured=found.measured,
        threshold=found.allowed,
        verdict=Verdict.PASS if found.passed else Verdict.FAIL,
        component=found.component,
        detail=detail,
    )
