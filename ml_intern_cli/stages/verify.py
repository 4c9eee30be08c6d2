"""verify: checkpoint, data and logs → VERIFY.md, the six checks recomputed by the judge.

Reads the artifact on disk; a log is a claim to be checked. Spends seconds to minutes of compute.
"""

from __future__ import annotations

import re

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import (
    BEST_CHECKPOINT,
    CONFIG,
    LAST_CHECKPOINT,
    MANIFEST,
    METRICS,
    MODEL_PY,
    PLAN,
    TOKENIZER,
    TRAIN_CONFIG,
    TRAIN_STDERR,
    VERIFY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.verify import Judgement, Verify
from ml_intern_cli.stages.base import Outcome, Ref, Stage, StageContext, StageResult, read_document
from ml_intern_cli.stages.judging import how_it_ended, judge
from ml_intern_cli.stages.programs import lacked_memory

_SHA256 = re.compile("[0-9a-f]{64}")
_LIMIT_S = 240.0
_LIMIT_S_PER_PARAM = 6e-6  # ten minutes more per 100M parameters
_SHARE_OF_CODE = 0.85  # of the limit, for the path's code: the rest is for the judge to say how that ended


def run(context: StageContext) -> StageResult:
    """Have the path verified."""
    plan = context.read(Plan, PLAN)
    path = plan.path(context.path)
    limit_s = _LIMIT_S + plan.params_planned * _LIMIT_S_PER_PARAM
    verify, finished, tail = judge(
        context,
        Verify,
        "verify",
        "--planned-tokens", str(plan.tokens(path)),
        "--target-params", str(plan.params_target),
        "--seed", str(path.seed),
        "--num-threads", str(path.num_threads),
        "--limit-s", str(_SHARE_OF_CODE * limit_s),
        *known_from_outside(context.layout, path.id),
        folder=context.layout.path(path.id),
        limit_s=limit_s,
    )  # fmt: skip
    if verify is None:
        last = tail.splitlines()[-1] if tail else "nothing on stderr"
        verify = _no_answer(plan, path, f"{how_it_ended(finished)}; {last}")
    name = f"{path_folder(path.id)}/{VERIFY}"
    failed = verify.failures
    return StageResult(
        outcome=Outcome.FAILED if failed else Outcome.DONE,
        summary=_summary(context, verify),
        documents={name: verify},
        details=tuple(f"{title}: {reason}" for title, reason in failed.items()) + ((name,) if failed else ()),
        notify=(("path_failed", f"{context.layout.slug}: path {path.id}: {next(iter(failed))}"),)
        if failed
        else (),
        out_of_memory=any(lacked_memory(reason) for reason in failed.values()),
    )


def known_from_outside(layout: RunLayout, path_id: str) -> list[str]:
    """What this program wrote down before and while the path's programs ran, where that still stands."""
    known = []
    receipt = leavings.read_object(layout.root, f"{layout.receipts.name}/train.{path_id}.json")
    inputs = receipt.get("inputs")
    for name, digest in inputs.items() if isinstance(inputs, dict) else ():
        sha256 = str(digest.get("sha256")) if isinstance(digest, dict) else ""
        # Of what leads out of the run the receipt has no hash of the content.
        if _SHA256.fullmatch(sha256) and not leavings.leads_out(layout.root, name):
            known += ["--sha256", f"{name.removeprefix(f'{path_folder(path_id)}/')}={sha256}"]
    spent = [
        row["data"].get("seconds")
        for row in leavings.read_rows(layout.root, layout.events.name)
        if row.get("event_type") == "spend"
        and isinstance(row.get("data"), dict)
        and (row["data"].get("path"), row["data"].get("what")) == (path_id, "training")
    ]
    seconds = sum(one for one in spent if isinstance(one, int | float))
    return [*known, *(["--train-s", str(seconds)] if seconds > 0 else [])]


def _summary(context: StageContext, verify: Verify) -> str:
    loss = "" if verify.final_eval_loss is None else f", eval {verify.final_eval_loss:.3f}"
    manifest = context.layout.document(MANIFEST)
    floor = Manifest.model_validate_json(manifest.read_text(encoding="utf-8")).loss_floor
    known = "" if floor is None or not loss else f" (floor {floor:.3f})"
    passed = sum(one.verdict is Verdict.PASS for one in verify.judgements.values())
    checks = f"{passed} of {len(verify.judgements)}"
    if verify.probes:
        checks += f", {sum(not probe.failed for probe in verify.probes)} of {len(verify.probes)} probes"
    return f"{checks}{loss}{known}"


def _no_answer(plan: Plan, path: PathPlan, why: str) -> Verify:
    failed = Judgement(verdict=Verdict.FAIL, reason=f"not judged: {why}")
    return Verify(
        samples=(),
        generation=failed,
        final_train_loss=None,
        final_eval_loss=None,
        plausible_low=0.0,
        plausible_high=0.0,
        loss=failed,
        eval_train_gap=None,
        tracks=failed,
        planned_tokens=plan.tokens(path),
        consumed_tokens=0,
        data=failed,
        stderr_findings=(),
        stderr=failed,
        target_params=plan.params_target,
        actual_params=0,
        params=failed,
    )


def _verdict(layout: RunLayout, path_id: str) -> str | None:
    return read_document(layout, Verify, f"{path_folder(path_id)}/{VERIFY}").first_failure


STAGE = Stage(
    name="verify",
    title="judge the trained model",
    reads=(
        Ref(f"{{path}}/{MODEL_PY}"),
        Ref(f"{{path}}/{CONFIG}"),
        Ref(f"{{path}}/{LAST_CHECKPOINT}"),
        Ref(f"{{path}}/{BEST_CHECKPOINT}"),
        Ref("{path}/ckpts/*/model.safetensors"),
        Ref(f"{{path}}/{METRICS}"),
        Ref("{path}/train.log"),
        Ref("{path}/gen_samples.log"),
        Ref(f"{{path}}/{TRAIN_CONFIG}"),
        Ref(f"{{path}}/{TRAIN_STDERR}"),
        Ref(PLAN, "path:{id}"),
        Ref(MANIFEST),
        Ref(TOKENIZER),
    ),
    writes=(f"{{path}}/{VERIFY}",),
    run=run,
    per_path=True,
    verdict=_verdict,
)
