"""Smoke: every probe on one path, before a second of training is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.smoke import ProbeResult, Smoke
from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.probes import PROBES, Measurement, Probe
from ml_intern_cli.judge.probes.bench import Bench


def smoke(path_dir: Path, *, data_dir: Path, target_params: int, progress: Callable[[str], None]) -> Smoke:
    """Runs all probes. A model that cannot be built fails them; it does not stop the judge.

    Args:
        path_dir: ``path-<id>/``.
        data_dir: ``data/`` of the same run.
        target_params: The size that was asked for.
        progress: Gets a line before each probe, ``4/13 causality``.

    Raises:
        InvalidInput: the data cannot be read, which no path is to blame for.
    """
    started = time.monotonic()
    artifact = Artifact(path_dir)
    bench = Bench(artifact, Corpus.open(data_dir), target_params=target_params)
    results = []
    for number, probe in enumerate(PROBES, start=1):
        progress(f"{number}/{len(PROBES)} {probe.name}")
        results.append(_run(probe, bench))
    return Smoke(
        path=artifact.path_id,
        params=_params(bench),
        params_target=target_params,
        seconds=round(time.monotonic() - started, 2),
        probes=tuple(results),
    )


def _run(probe: Probe, bench: Bench) -> ProbeResult:
    try:
        found = probe.run(bench)
    except Unusable as error:
        found = Measurement(
            passed=False, measured="not run", allowed=probe.threshold, detail=f"not run: {error}"
        )
    except Exception as error:  # noqa: BLE001 - the model's code may break the judge's own arithmetic in any way
        reason = bench.artifact.describe(error)
        found = Measurement(
            passed=False, measured="raised", allowed=probe.threshold, detail=f"raised {reason}"
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
        detail=detail,
    )


def _params(bench: Bench) -> int | None:
    try:
        return count_parameters(bench.model()) or None
    except Unusable:
        return None
