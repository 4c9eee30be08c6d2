"""From the evidence of a failed path to its cause and, where one is known, the fix for the retry.

A rule looks at the evidence and either explains it or passes; the first that explains it wins, the surest
first. The fixes are deterministic:

    not finite               a quarter of the learning rate, a longer warm-up
    out of memory, killed    half the micro-batch, twice the accumulation: the same effective batch
    too few tokens           a longer slice from what is left of the budget, else steps that fit into it
    learned too little       more steps from what is left, or another learning rate
    overfitted               half the steps

A program that crashes and a probe that fails have none: code is not repaired by other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean

from ml_intern_cli.brains.protocol import Diagnosis, Evidence
from ml_intern_cli.documents.model import Scalar, Verdict
from ml_intern_cli.documents.plan import PathPlan
from ml_intern_cli.documents.verify import Judgement, Verify
from ml_intern_cli.frames import says_out_of_memory, without_explanations
from ml_intern_cli.quantities import format_count, format_duration

Changes = dict[str, Scalar]

_PACE_SAFETY = 0.9  # of the measured speed, so that the retry ends inside its slice
_MOST_LONGER = 4.0  # times the steps; what has not learned by then lacks something else
_WORTH_LONGER = 1.25  # times the steps; less does not change the outcome
_KILL_SIGNALS = {-9, 137}  # the kernel's out-of-memory killer, directly or through a shell
_FAILED = "train.py: failed: "  # how train.py begins the line that says why
_CANNOT_START = 2  # exit code of train.py for data or settings that it refuses


def diagnose(evidence: Evidence) -> Diagnosis:
    """The first explanation that fits."""
    return next((found for rule in _RULES if (found := rule(evidence)) is not None), None) or _crash(evidence)


def _smoke(evidence: Evidence) -> Diagnosis | None:
    if evidence.failed_stage != "smoke" or evidence.smoke is None:
        return None
    probe = next((one for one in evidence.smoke.probes if one.failed), None)
    if probe is None:
        return None
    advice = (
        "plan again, so that the sizing is solved anew"
        if probe.name == "param-count"
        else "the code of model.py has to change, not a number of the plan"
    )
    return _unfixable(
        f"smoke:{probe.name}",
        symptom=f"{probe.name}: measured {probe.measured}, allowed {probe.threshold}",
        root_cause=probe.detail or "the model does not have this property",
        fix=f"none by numbers: {advice}",
    )


def _not_finite(evidence: Evidence) -> Diagnosis | None:
    if "not finite at step" not in _reason(evidence):
        return None
    path = evidence.path
    changes: Changes = {
        "learning_rate": path.learning_rate / 4,
        "min_learning_rate": path.min_learning_rate / 4,
        "warmup_steps": min(path.steps, max(2 * path.warmup_steps, path.steps // 10, 1)),
    }
    return Diagnosis(
        cause="not-finite",
        symptom=f"training failed: {_reason(evidence)}",
        root_cause=f"a learning rate of {path.learning_rate:g} is too high: the updates diverge",
        fix=f"learning rate {path.learning_rate / 4:g}, warm-up over {changes['warmup_steps']} steps",
        changes=_within_budget(evidence, changes),
    )


def _out_of_memory(evidence: Evidence) -> Diagnosis | None:
    if evidence.failed_stage != "train":
        return None
    killed = evidence.exit_code in _KILL_SIGNALS and not _spent_its_slice(evidence)
    # Only the last line: train.py also notes each time that it recovered from a lack of memory.
    if not killed and not says_out_of_memory(f"{_reason(evidence)}\n{_last_line(evidence)}"):
        return None
    path = evidence.path
    symptom = (
        f"training was killed (exit code {evidence.exit_code})" if killed else "training ran out of memory"
    )
    root_cause = f"a micro-batch of {path.micro_batch} sequences does not fit into memory"
    smaller = max((size for size in range(1, path.micro_batch) if path.micro_batch % size == 0), default=None)
    if smaller is None:
        return _unfixable(
            "out-of-memory",
            symptom=symptom,
            root_cause="not even one sequence fits into memory",
            fix="none by numbers: use fewer parameters, shorter sequences or a machine with more memory",
        )
    accumulation = path.accumulation * path.micro_batch // smaller
    return Diagnosis(
        cause="out-of-memory",
        symptom=symptom,
        root_cause=root_cause,
        fix=f"micro-batch {smaller}, accumulation {accumulation}: the same effective batch",
        changes=_within_budget(evidence, {"micro_batch": smaller, "accumulation": accumulation}),
    )


def _time_ran_out(evidence: Evidence) -> Diagnosis | None:
    failed_check = evidence.verify is not None and evidence.verify.data.verdict is Verdict.FAIL
    stopped = evidence.last is not None and evidence.last.get("status") == "stopped"
    killed = evidence.failed_stage == "train" and _spent_its_slice(evidence)
    if not killed and not (failed_check and stopped):
        return None
    path, pace = evidence.path, _steps_per_s(evidence)
    cause = "time-limit" if evidence.verify is None else "verify:Data consumption"
    symptom = (
        _finding("Data consumption", evidence.verify.data)
        if evidence.verify is not None
        else f"training was stopped when its {format_duration(path.slice_s)} were spent"
    )
    root_cause = f"{pace:.2g} steps per second, where the plan needs {path.steps / path.slice_s:.2g}"
    needed_s = path.steps / pace
    if needed_s <= evidence.remaining_s:
        fix = f"a slice of {format_duration(needed_s)} for the same {format_count(path.steps)} steps"
        changes: Changes = {"slice_s": needed_s}
    else:
        steps = int(pace * evidence.remaining_s)
        if steps < max(1, _reached_step(evidence) // 2):
            return _unfixable(cause, symptom=symptom, root_cause=root_cause, fix=_no_time(evidence))
        fix = f"{format_count(steps)} steps, which fit into the {format_duration(evidence.remaining_s)} left"
        changes = _with_steps(path, steps) | {"slice_s": evidence.remaining_s}
    return Diagnosis(cause=cause, symptom=symptom, root_cause=root_cause, fix=fix, changes=changes)


def _wrong_artifact(evidence: Evidence) -> Diagnosis | None:
    """Probes and checks whose failure no other number of the plan can mend."""
    if evidence.verify is None:
        return None
    verify = evidence.verify
    probe = next((one for one in verify.probes if one.failed), None)
    if probe is not None:
        return _unfixable(
            f"verify:{probe.name}",
            symptom=f"{probe.name}: measured {probe.measured}, allowed {probe.threshold}",
            root_cause=probe.finding,
            fix="none by numbers: the programs, or what they claim, have to change",
        )
    explanations = {
        "Data consumption": "training ended by itself before the planned tokens: the data stops early",
        "Param count": "the checkpoint is of another model than the one planned",
        "Stderr scan": "training reported errors or warnings that nothing explains",
    }
    for name, root_cause in explanations.items():
        if verify.judgements[name].verdict is Verdict.FAIL:
            return _unfixable(
                f"verify:{name}",
                symptom=_finding(name, verify.judgements[name]),
                root_cause=root_cause,
                fix="none by numbers: the programs or the data have to change",
            )
    if verify.loss.verdict is Verdict.FAIL and not _is_above_range(verify):
        return _unfixable(
            "verify:Loss sanity",
            symptom=_finding("Loss sanity", verify.loss),
            root_cause="a loss that is too good, cannot be computed or is not what the log claims: "
            "the targets leak, or the checkpoint is not what was logged",
            fix="none by numbers: look for the leak in model.py and train.py",
        )
    return None


def _overfitted(evidence: Evidence) -> Diagnosis | None:
    verify = evidence.verify
    if verify is None or verify.tracks.verdict is not Verdict.FAIL:
        return None
    symptom = _finding("Eval tracks train", verify.tracks)
    train, held_out = verify.final_train_loss, verify.final_eval_loss
    if train is None or held_out is None or held_out < train or evidence.path.steps == 1:
        return _unfixable(
            "verify:Eval tracks train",
            symptom=symptom,
            root_cause="the held-out loss is not above the training loss: the two are computed differently",
            fix="none by numbers: compare how train.py and eval.py read the data",
        )
    steps = evidence.path.steps // 2
    return Diagnosis(
        cause="verify:Eval tracks train",
        symptom=symptom,
        root_cause="overfitted: the data is small for so many steps, and is seen too often",
        fix=f"{format_count(steps)} steps instead of {format_count(evidence.path.steps)}",
        changes=_within_budget(evidence, _with_steps(evidence.path, steps)),
    )


def _learned_too_little(evidence: Evidence) -> Diagnosis | None:
    """What is left of verification: the loss is above its range, or the samples are not language yet."""
    path, verify = evidence.path, evidence.verify
    name = verify.first_failure if verify else None
    if verify is None or name is None:
        return None
    cause, symptom = f"verify:{name}", f"{name}: {verify.failures[name]}"
    pace = _steps_per_s(evidence)
    longer = min(_MOST_LONGER, pace * evidence.remaining_s / path.steps)
    rising = _loss_is_rising(evidence.log_tail)
    root_cause = (
        "the learning rate is too high: the loss rises at the end" if rising else "trained too little"
    )
    if longer < _PACE_SAFETY:
        return _unfixable(cause, symptom=symptom, root_cause=root_cause, fix=_no_time(evidence))
    changes: Changes = {}
    fixes = []
    if rising or longer < _WORTH_LONGER:
        scale = 0.5 if rising else 2.0
        changes["learning_rate"] = path.learning_rate * scale
        changes["min_learning_rate"] = path.min_learning_rate * scale
        fixes.append(f"learning rate {path.learning_rate * scale:g}")
    if longer >= _WORTH_LONGER:
        steps = int(path.steps * longer)
        changes |= _with_steps(path, steps) | {"slice_s": steps / pace}
        fixes.append(f"{format_count(steps)} steps instead of {format_count(path.steps)}")
    return Diagnosis(
        cause=cause,
        symptom=symptom,
        root_cause=root_cause,
        fix=", ".join(fixes),
        changes=_within_budget(evidence, changes),
    )


def _crash(evidence: Evidence) -> Diagnosis:
    """Whatever no rule explains."""
    refused = evidence.exit_code == _CANNOT_START
    return _unfixable(
        "refused" if refused else "crash",
        symptom=f"exit code {evidence.exit_code}: {_last_line(evidence) or 'nothing on stderr'}",
        root_cause="train.py refuses its data or settings" if refused else "an error in the path's programs",
        fix="none by numbers: change what the message names",
    )


_RULES: tuple[Callable[[Evidence], Diagnosis | None], ...] = (
    _smoke,
    _not_finite,
    _out_of_memory,
    _time_ran_out,
    _wrong_artifact,
    _overfitted,
    _learned_too_little,
)


def _unfixable(cause: str, *, symptom: str, root_cause: str, fix: str) -> Diagnosis:
    return Diagnosis(cause=cause, symptom=symptom, root_cause=root_cause, fix=fix, changes={})


def _no_time(evidence: Evidence) -> str:
    return f"none within the budget: {format_duration(max(0.0, evidence.remaining_s))} is left"


def _finding(name: str, judgement: Judgement) -> str:
    return f"{name}: {judgement.reason}"


def _reason(evidence: Evidence) -> str:
    """Why training says it failed: in its last checkpoint, or, before the first one, on stderr."""
    if evidence.failed_stage != "train":
        return ""
    last = evidence.last or {}
    if last.get("status") == "failed":
        return str(last.get("reason") or "")
    failures = [
        line for line in without_explanations(evidence.stderr_tail).splitlines() if line.startswith(_FAILED)
    ]
    return failures[-1].removeprefix(_FAILED) if failures else ""


def _last_line(evidence: Evidence) -> str:
    lines = [line for line in without_explanations(evidence.stderr_tail).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _number(evidence: Evidence, key: str) -> float:
    value = (evidence.last or {}).get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _reached_step(evidence: Evidence) -> int:
    return int(_number(evidence, "step"))


def _spent_its_slice(evidence: Evidence) -> bool:
    return _number(evidence, "elapsed_s") >= _PACE_SAFETY * evidence.path.slice_s


def _steps_per_s(evidence: Evidence) -> float:
    """Steps per second that a retry can count on: measured on the failed path, else as planned."""
    elapsed_s, step = _number(evidence, "elapsed_s"), _number(evidence, "step")
    if elapsed_s > 0 and step > 0:
        return _PACE_SAFETY * step / elapsed_s
    return evidence.path.steps / evidence.path.slice_s


def _is_above_range(verify: Verify) -> bool:
    return verify.final_eval_loss is not None and verify.final_eval_loss > verify.plausible_high


def _loss_is_rising(log_tail: str) -> bool:
    """Whether the last quarter of the logged losses is above the first."""
    losses = [float(loss) for loss in re.findall(r"^step=\d+ loss=([0-9.]+)$", log_tail, re.MULTILINE)]
    quarter = len(losses) // 4
    return quarter > 0 and fmean(losses[-quarter:]) > 1.02 * fmean(losses[:quarter])


def _with_steps(path: PathPlan, steps: int) -> Changes:
    """Another number of steps, with the warm-up and the intervals in the same proportion."""
    steps = max(1, steps)
    scale = steps / path.steps
    return {
        "steps": steps,
        "warmup_steps": min(steps, round(path.warmup_steps * scale)),
        "eval_every": max(1, round(path.eval_every * scale)),
        "checkpoint_every": max(1, round(path.checkpoint_every * scale)),
    }


def _within_budget(evidence: Evidence, changes: Changes) -> Changes:
    """The changes, with fewer steps where what is left of the budget does not suffice for all of them."""
    path, pace = evidence.path, _steps_per_s(evidence)
    steps = int(changes.get("steps", path.steps))
    if "slice_s" in changes or evidence.remaining_s >= min(path.slice_s, steps / pace):
        return changes
    fewer = _with_steps(path, min(steps, int(pace * max(0.0, evidence.remaining_s))))
    warmup_steps = changes.get("warmup_steps", fewer["warmup_steps"])
    return changes | fewer | {"warmup_steps": min(int(fewer["steps"]), int(warmup_steps))}
