"""smoke: the path's programs → SMOKE.md, before a second of training is spent.

Reads the path's programs and settings as they are on disk; the judge probes the untrained model and
rehearses train.py on a copy. Spends seconds of compute.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ml_intern_cli.documents.layout import (
    CONFIG,
    EVAL_PY,
    MANIFEST,
    MODEL_PY,
    PLAN,
    SMOKE,
    TRAIN_CONFIG,
    TRAIN_PY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.stages.base import Outcome, Ref, Stage, StageContext, StageResult, read_document
from ml_intern_cli.stages.judging import how_it_ended, judge
from ml_intern_cli.stages.programs import lacked_memory

_LIMIT_S = 420.0  # of which a rehearsal that hangs at each of its three starts takes 180
_LIMIT_S_PER_PARAM = 6e-6  # ten minutes more per 100M parameters: what a rehearsal may take at most


def run(context: StageContext) -> StageResult:
    """Have the path smoked."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    smoke = smoke_of(context, plan, path, context.layout.path(path.id), reserved=True)
    failed = [probe for probe in smoke.probes if probe.failed]
    count = f"{len(smoke.probes) - len(failed)} of {len(smoke.probes)} probes"
    drift = (
        f"{smoke.params:,} parameters ({smoke.params / plan.params_target - 1:+.1%}), "
        if smoke.params
        else ""
    )
    folder = path_folder(path.id)
    result = StageResult(
        summary=f"{drift}{count}, {smoke.seconds:.0f} s",
        documents={f"{folder}/{SMOKE}": smoke},
        notify=(("code_ready", f"{context.layout.slug}: path {path.id} passed smoke"),),
    )
    if not failed:
        return result
    is_of_training = failed[0].component.startswith((TRAIN_PY, EVAL_PY))
    program = failed[0].component.partition(":")[0] if is_of_training else MODEL_PY
    go_on = f"{folder}/{SMOKE} · fix {folder}/{program} and run: ml-intern run {context.layout.slug}"
    return replace(
        result,
        outcome=Outcome.FAILED,
        details=(*(f"{probe.name}: {probe.finding}" for probe in failed), go_on),
        notify=(("path_failed", f"{context.layout.slug}: path {path.id}: {failed[0].name}"),),
        out_of_memory=any(lacked_memory(probe.detail or "") for probe in failed),
    )


def smoke_of(context: StageContext, plan: Plan, path: PathPlan, folder: Path, *, reserved: bool) -> Smoke:
    """The judge's verdict on the code in a folder. ``reserved``: as for Compute.run."""
    smoke, finished, tail = judge(
        context,
        Smoke,
        "smoke",
        "--target-params", str(plan.params_target),
        "--num-threads", str(path.num_threads),
        folder=folder,
        limit_s=_LIMIT_S + plan.params_planned * _LIMIT_S_PER_PARAM,
        reserved=reserved,
    )  # fmt: skip
    if smoke is None:
        return _no_answer(path.id, plan, how_it_ended(finished), tail, finished.seconds)
    return smoke


def _no_answer(path_id: str, plan: Plan, ended: str, tail: str, seconds: float) -> Smoke:
    last = tail.splitlines()[-1] if tail else "nothing on stderr"
    probe = ProbeResult(
        name="judge-answered",
        measured=ended,
        threshold="all verdicts reached",
        verdict=Verdict.FAIL,
        detail=f"{ended}; {last}",
    )
    return Smoke(
        path=path_id, params=None, params_target=plan.params_target, seconds=seconds, probes=(probe,)
    )


def _verdict(layout: RunLayout, path_id: str) -> str | None:
    smoke = read_document(layout, Smoke, f"{path_folder(path_id)}/{SMOKE}")
    return ", ".join(probe.name for probe in smoke.probes if probe.failed) or None


STAGE = Stage(
    name="smoke",
    title="judge the untrained model",
    reads=(
        Ref(f"{{path}}/{MODEL_PY}"),
        Ref(f"{{path}}/{CONFIG}"),
        Ref(f"{{path}}/{TRAIN_PY}"),
        Ref(f"{{path}}/{EVAL_PY}"),
        Ref(f"{{path}}/{TRAIN_CONFIG}"),
        Ref(PLAN, "target"),
        Ref(MANIFEST),
    ),
    writes=(f"{{path}}/{SMOKE}",),
    run=run,
    per_path=True,
    verdict=_verdict,
)
