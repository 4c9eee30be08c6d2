"""A retry has to move the probe that it was made for, or it is the last one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_intern_cli.brains.protocol import Evidence
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.registry import render
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.stages.diagnose import _unmoved
from tests.examples import EXAMPLES


def _measured(smoke: Smoke, probe: str, measured: str) -> Smoke:
    probes = tuple(
        one.model_copy(update={"measured": measured}) if one.name == probe else one for one in smoke.probes
    )
    return smoke.model_copy(update={"probes": probes})


def _evidence(root: Path, *, failed_stage: str = "smoke") -> tuple[RunLayout, str, Evidence]:
    """Of path a2, which retries a; both failed the same probe."""
    layout = RunLayout(root)
    plan: Any = EXAMPLES["PLAN.md"]
    smoke: Any = EXAMPLES["SMOKE.md"]
    postmortem: Any = EXAMPLES["POSTMORTEM.md"]
    probe = smoke.probes[0].name
    first = _measured(smoke, probe, "0.5")
    layout.path("a").mkdir(parents=True)
    layout.path("a", "SMOKE.md").write_text(render(first))
    evidence = Evidence(
        path=plan.paths[0].model_copy(update={"id": "a2", "retry_of": "a"}),
        folder=layout.path("a2"),
        failed_stage=failed_stage,
        before=postmortem.model_copy(update={"probe": probe, "failed_stage": failed_stage}),
        smoke=first,
        verify=None,
        last=None,
        exit_code=None,
        stderr_tail="",
        log_tail="",
        remaining_s=600.0,
    )
    return layout, probe, evidence


def test_a_retry_that_measures_the_same_is_the_last(tmp_path: Path) -> None:
    layout, probe, evidence = _evidence(tmp_path)
    assert _unmoved(layout, probe, evidence) == probe


def test_a_retry_that_moved_its_probe_or_fails_another_may_be_followed_by_one_more(tmp_path: Path) -> None:
    layout, probe, evidence = _evidence(tmp_path)
    assert evidence.smoke is not None
    moved = replace(evidence, smoke=_measured(evidence.smoke, probe, "0.4"))
    assert _unmoved(layout, probe, moved) is None
    assert _unmoved(layout, evidence.smoke.probes[1].name, evidence) is None


def test_the_same_check_of_verification_twice_is_enough(tmp_path: Path) -> None:
    layout, probe, evidence = _evidence(tmp_path, failed_stage="verify")
    assert _unmoved(layout, probe, evidence) == probe


def test_a_first_attempt_has_nothing_to_move(tmp_path: Path) -> None:
    layout, probe, evidence = _evidence(tmp_path)
    assert _unmoved(layout, probe, replace(evidence, before=None)) is None
