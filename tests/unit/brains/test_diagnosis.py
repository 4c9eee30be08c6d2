from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.diagnosis import diagnose
from ml_intern_cli.brains.protocol import Evidence
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.plan import PathPlan
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.verify import Judgement, Verify
from tests.examples import path_plan

PATH = path_plan(
    steps=1000,
    micro_batch=12,
    learning_rate=0.008,
    min_learning_rate=0.0008,
    warmup_steps=20,
    slice_s=100,
    judging_s=20,
    checkpoint_every=200,
    measured_tokens_per_s=9000,
)
RISING = "\n".join(f"step={step} loss={2 + step / 10:.4f}" for step in range(20))
FALLING = "\n".join(f"step={step} loss={6 - step / 10:.4f}" for step in range(20))


def evidence(stage: str, **found: Any) -> Evidence:
    given = {"path": PATH, "folder": Path("path-a"), "failed_stage": stage, "remaining_s": 1000.0}
    return Evidence(**{**given, **found})


def verify(*failing: str, train: float = 2.0, held_out: float = 2.1, high: float = 6.0) -> Verify:
    def judgement(name: str) -> Judgement:
        failed = name in failing
        return Judgement(verdict=Verdict.FAIL if failed else Verdict.PASS, reason=f"measured {name}")

    return Verify(
        samples=(),
        generation=judgement("Generation samples"),
        final_train_loss=train,
        final_eval_loss=held_out,
        plausible_low=0.7,
        plausible_high=high,
        loss=judgement("Loss sanity"),
        eval_train_gap=abs(held_out - train),
        tracks=judgement("Eval tracks train"),
        planned_tokens=100,
        consumed_tokens=50,
        data=judgement("Data consumption"),
        stderr_findings=(),
        stderr=judgement("Stderr scan"),
        target_params=10,
        actual_params=10,
        params=judgement("Param count"),
    )


def apply(changes: dict[str, Any], path: PathPlan = PATH) -> PathPlan:
    return PathPlan.model_validate(path.model_dump() | changes)


def last(
    status: str, *, step: int = 500, elapsed_s: float = 50.0, reason: str | None = None
) -> dict[str, object]:
    return {"step": step, "status": status, "reason": reason, "tokens": step * 100, "elapsed_s": elapsed_s}


def test_a_loss_that_is_not_finite_lowers_the_learning_rate_and_warms_up_longer() -> None:
    diagnosis = diagnose(evidence("train", last=last("failed", reason="not finite at step 12"), exit_code=3))
    assert diagnosis.cause == "not-finite"
    assert diagnosis.changes == {"learning_rate": 0.002, "min_learning_rate": 0.0002, "warmup_steps": 100}


def test_a_failure_before_the_first_checkpoint_is_read_from_stderr() -> None:
    tail = "note\ntrain.py: failed: not finite at step 2\n"
    diagnosis = diagnose(evidence("train", stderr_tail=tail, exit_code=3))
    assert diagnosis.cause == "not-finite"


@pytest.mark.parametrize(
    "found",
    [
        {"last": last("failed", reason="out of memory"), "exit_code": 3},
        {"stderr_tail": "Traceback …\ntorch.OutOfMemoryError: CUDA out of memory.", "exit_code": 1},
        {"stderr_tail": "RuntimeError: DefaultCPUAllocator: can't allocate memory", "exit_code": 1},
        {"exit_code": -9},
        {"exit_code": 137, "last": last("running")},
    ],
)
def test_a_lack_of_memory_halves_the_micro_batch_and_keeps_the_effective_batch(found: dict[str, Any]) -> None:
    diagnosis = diagnose(evidence("train", **found))
    assert diagnosis.cause == "out-of-memory"
    assert diagnosis.changes == {"micro_batch": 6, "accumulation": 2}


@pytest.mark.parametrize("micro_batch", [2, 3, 4, 5, 9, 12, 35])
def test_the_effective_batch_survives_any_micro_batch(micro_batch: int) -> None:
    path = apply({"micro_batch": micro_batch, "accumulation": 3})
    changed = apply(dict(diagnose(evidence("train", path=path, exit_code=-9)).changes), path)
    assert changed.micro_batch < micro_batch
    assert changed.micro_batch * changed.accumulation == micro_batch * 3


def test_one_sequence_that_does_not_fit_has_no_fix() -> None:
    diagnosis = diagnose(evidence("train", path=apply({"micro_batch": 1}), exit_code=-9))
    assert diagnosis.cause == "out-of-memory"
    assert diagnosis.changes == {}
    assert "fewer parameters" in diagnosis.fix


def test_a_lack_of_memory_that_training_recovered_from_is_not_the_cause_of_a_crash() -> None:
    stderr = "out of memory: micro-batch 6, accumulation 2\nTraceback …\nKeyError: 'eos'"
    diagnosis = diagnose(evidence("train", stderr_tail=stderr, exit_code=1))
    assert diagnosis.cause == "crash"
    assert "KeyError: 'eos'" in diagnosis.symptom
    assert diagnosis.changes == {}


def test_a_refusal_to_start_is_no_crash() -> None:
    diagnosis = diagnose(evidence("train", stderr_tail="the data has less than one batch", exit_code=2))
    assert (diagnosis.cause, diagnosis.changes) == ("refused", {})


def test_too_few_tokens_get_the_time_that_they_need_from_what_is_left() -> None:
    found = {
        "verify": verify("Data consumption", "Generation samples"),
        "last": last("stopped", elapsed_s=100.0),
    }
    diagnosis = diagnose(evidence("verify", **found))
    assert diagnosis.cause == "verify:Data consumption"
    assert diagnosis.changes == {"slice_s": pytest.approx(1000 / (0.9 * 5))}


def test_too_few_tokens_get_fewer_steps_where_the_time_is_not_left() -> None:
    found = {
        "verify": verify("Data consumption"),
        "last": last("stopped", elapsed_s=100.0),
        "remaining_s": 150.0,
    }
    diagnosis = diagnose(evidence("verify", **found))
    assert diagnosis.changes == {
        "steps": 675,
        "warmup_steps": 14,
        "eval_every": 68,
        "checkpoint_every": 135,
        "slice_s": 150.0,
    }
    retry = apply(dict(diagnosis.changes))
    assert retry.steps / retry.slice_s < 500 / 100


def test_too_few_tokens_with_hardly_any_budget_left_have_no_fix() -> None:
    found = {
        "verify": verify("Data consumption"),
        "last": last("stopped", elapsed_s=100.0),
        "remaining_s": 10.0,
    }
    diagnosis = diagnose(evidence("verify", **found))
    assert diagnosis.changes == {}
    assert "10 s is left" in diagnosis.fix


def test_training_that_the_watchdog_killed_ran_out_of_time_and_not_of_memory() -> None:
    diagnosis = diagnose(evidence("train", exit_code=-9, last=last("running", step=300, elapsed_s=99.0)))
    assert diagnosis.cause == "time-limit"
    assert set(diagnosis.changes) == {"slice_s"}


def test_data_that_ends_early_by_itself_has_no_fix() -> None:
    diagnosis = diagnose(evidence("verify", verify=verify("Data consumption"), last=last("done")))
    assert (diagnosis.cause, diagnosis.changes) == ("verify:Data consumption", {})


def test_a_model_that_learned_too_little_trains_longer() -> None:
    found = {
        "verify": verify("Generation samples"),
        "last": last("done", step=1000, elapsed_s=90.0),
        "log_tail": FALLING,
    }
    diagnosis = diagnose(evidence("verify", **found))
    assert diagnosis.cause == "verify:Generation samples"
    retry = apply(dict(diagnosis.changes))
    assert (retry.steps, retry.warmup_steps, retry.learning_rate) == (4000, 80, PATH.learning_rate)
    assert retry.slice_s == pytest.approx(400.0)


def test_a_model_that_learned_too_little_takes_a_higher_rate_where_no_more_time_is_left() -> None:
    found = {"verify": verify("Loss sanity", held_out=7.0), "last": last("done", step=1000, elapsed_s=90.0)}
    diagnosis = diagnose(evidence("verify", remaining_s=100.0, **found))
    assert diagnosis.changes == {"learning_rate": 0.016, "min_learning_rate": 0.0016}


def test_a_loss_that_rises_at_the_end_lowers_the_rate() -> None:
    found = {"verify": verify("Loss sanity", held_out=7.0), "last": last("done"), "log_tail": RISING}
    diagnosis = diagnose(evidence("verify", remaining_s=100.0, **found))
    assert diagnosis.changes["learning_rate"] == 0.004


def test_a_model_that_learned_too_little_is_given_up_where_less_time_is_left_than_it_had() -> None:
    found = {"verify": verify("Generation samples"), "last": last("done", step=1000, elapsed_s=90.0)}
    assert diagnose(evidence("verify", remaining_s=50.0, **found)).changes == {}


def test_overfitting_halves_the_steps() -> None:
    diagnosis = diagnose(evidence("verify", verify=verify("Eval tracks train", train=1.0, held_out=2.0)))
    assert diagnosis.changes == {"steps": 500, "warmup_steps": 10, "eval_every": 50, "checkpoint_every": 100}


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        (verify("Loss sanity", held_out=0.1), "verify:Loss sanity"),
        (verify("Loss sanity"), "verify:Loss sanity"),
        (verify("Stderr scan"), "verify:Stderr scan"),
        (verify("Param count"), "verify:Param count"),
        (verify("Eval tracks train", train=3.0, held_out=2.0), "verify:Eval tracks train"),
    ],
)
def test_what_no_number_can_mend_has_no_changes_and_says_so(report: Verify, cause: str) -> None:
    diagnosis = diagnose(evidence("verify", verify=report, last=last("done")))
    assert (diagnosis.cause, diagnosis.changes) == (cause, {})
    assert diagnosis.fix.startswith("none by numbers: ")


@pytest.mark.parametrize(("probe", "advice"), [("causality", "model.py"), ("param-count", "plan again")])
def test_a_failed_probe_is_named_and_has_no_fix_by_numbers(probe: str, advice: str) -> None:
    good = ProbeResult(name="compile", measured="5 files", threshold="all", verdict=Verdict.PASS)
    bad = ProbeResult(
        name=probe, measured="0.81", threshold="1e-5", verdict=Verdict.FAIL, detail="token 40 moved 12"
    )
    smoke = Smoke(path="a", params_target=10, seconds=1.0, probes=(good, bad))
    diagnosis = diagnose(evidence("smoke", smoke=smoke))
    assert (diagnosis.cause, diagnosis.changes) == (f"smoke:{probe}", {})
    assert diagnosis.symptom == f"{probe}: measured 0.81, allowed 1e-5"
    assert advice in diagnosis.fix


@pytest.mark.parametrize(
    "found",
    [
        {"failed_stage": "train", "exit_code": -9},
        {"failed_stage": "train", "last": last("failed", reason="not finite at step 1")},
        {"failed_stage": "verify", "verify": verify("Eval tracks train", train=1.0)},
        {
            "failed_stage": "verify",
            "verify": verify("Data consumption"),
            "last": last("stopped", elapsed_s=100.0),
        },
        {"failed_stage": "verify", "verify": verify("Generation samples"), "last": last("done")},
    ],
)
@pytest.mark.parametrize("remaining_s", [-5.0, 0.0, 30.0, 95.0, 130.0, 1e5])
def test_every_retry_is_a_valid_path_that_fits_into_what_is_left(
    found: dict[str, Any], remaining_s: float
) -> None:
    stage = found["failed_stage"]
    rest = {name: value for name, value in found.items() if name != "failed_stage"}
    diagnosis = diagnose(evidence(stage, remaining_s=remaining_s, **rest))
    if not diagnosis.changes or remaining_s <= 0:
        return
    retry = apply({"slice_s": min(PATH.slice_s, remaining_s)} | dict(diagnosis.changes))
    assert retry.slice_s <= remaining_s
    assert retry.warmup_steps <= retry.steps
    planned_pace = PATH.steps / PATH.slice_s
    assert retry.steps <= max(1, 1.05 * planned_pace * retry.slice_s)
