"""Probes of what surrounds a step: modes, precision, and going on after a stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.rehearsal.reporting import evaluations

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.rehearsal.bench import Made, RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Call


# --- train-mode ----------------------------------------------------------------------------------


def _train_mode(bench: RehearsalBench) -> Measurement:
    problems = []
    frozen = _frozen_modules(bench)
    for made in bench.made:
        for call in made.step.calls:
            others = [name for name in call.event["other_modes"] if name not in frozen]
            if not call.training_mode or others:
                what = "the model is" if not call.training_mode else f"{others[0]} is"
                problems.append(
                    (
                        f"{made.where}: {what} in eval mode during training",
                        bench.line(r"\.train\(", r"\.eval\(") if not call.training_mode else others[0],
                    )
                )
                break
    evaluated = len(evaluations(bench))
    for evaluation in evaluations(bench):
        for call in evaluation.calls:
            if call.training_mode or call.event["other_modes"]:
                what = "the model" if call.training_mode else call.event["other_modes"][0]
                problems.append(
                    (f"evaluation after step {evaluation.step}: {what} is in train mode", call.line)
                )
                break
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} times wrong in {len(bench.made)} steps and {evaluated} evaluations",
        allowed="train mode in every step, eval mode in every evaluation",
        component=problems[0][1] if problems else "",
        detail=problems[0][0] if problems else "",
    )


def _frozen_modules(bench: RehearsalBench) -> set[str]:
    """Modules without a trainable parameter but with frozen ones: kept in eval mode with good reason."""
    trainable = set(bench.made[0].process.model["trainable"])
    return {
        name
        for name, module in bench.replay.model.named_modules()
        if list(module.parameters())
        and not any(f"{name}.{inner}" in trainable for inner, _ in module.named_parameters())
    }


TRAIN_MODE = Probe(
    name="train-mode",
    category=Category.TRAINING,
    meaning="the model is in train mode in every step, in eval mode in every evaluation, and back again",
    threshold="no exception, frozen modules apart",
    threshold_source="model.training of every module, read at every call",
    usual_causes=(
        "model.eval() missing before the evaluation (dropout stays active)",
        "model.train() missing after it (dropout stays off)",
        "the mode of another copy of the model set",
    ),
    run=_train_mode,
)


# --- training-precision --------------------------------------------------------------------------

_AUTOCAST = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


def _training_precision(bench: RehearsalBench) -> Measurement:
    planned = bench.record.config.get("precision")
    first = bench.made[0]
    narrow = [
        str(name)
        for name, dtype, _ in first.process.model["tensors"][: first.process.model["num_parameters"]]
        if dtype in ("bfloat16", "float16")
    ]
    used = sorted({str(call.autocast) for made in bench.made for call in made.step.calls})
    problem, component = "", ""
    if planned in _AUTOCAST:
        wrong = [
            (made, call)
            for made in bench.made
            for call in made.step.calls
            if call.autocast != _AUTOCAST[planned]
        ]
        if wrong:
            made, call = wrong[0]
            problem = f"{made.where}: autocast is {call.autocast or 'off'}, precision is {planned}"
            component = bench.line("autocast") if "autocast" in bench.record.program else call.line
        if narrow:
            problem, component = f"{len(narrow)} parameters are not float32: {narrow[0]}", narrow[0]
    return Measurement(
        passed=not problem,
        measured=f"autocast: {', '.join(used)}; {len(narrow)} narrow parameters",
        allowed=f"{planned} forward passes, float32 weights" if planned else "-",
        component=component,
        detail=problem,
    )


TRAINING_PRECISION = Probe(
    name="training-precision",
    category=Category.TRAINING,
    meaning="forward passes run in the planned precision, weights and optimizer in float32",
    threshold="autocast as `precision` says in every training call; every parameter float32",
    threshold_source="the state of autocast, read at every call",
    usual_causes=(
        "autocast left out, or entered around something else",
        "the whole model cast to bf16, where small updates round to nothing",
        "fp16 without loss scaling",
    ),
    run=_training_precision,
)


# --- resume --------------------------------------------------------------------------------------


def _resume(bench: RehearsalBench) -> Measurement:
    reference = {(made.process.rank, made.step.number): made for made in bench.made if made.start.number == 1}
    again = [
        (reference[key], made)
        for made in bench.made
        if made.start.number > 1 and (key := (made.process.rank, made.step.number)) in reference
    ]
    problem, component = "", ""
    for before, after in again:
        problem, component = _difference(bench, before, after)
        if problem:
            break
    if not problem:
        problem, component = _gap(bench)
    return Measurement(
        passed=not problem,
        measured=f"{len(again)} steps made again after the crash" + ("" if problem else ", each the same"),
        allowed="the same batches, random numbers, weights and moments, bit for bit",
        component=component,
        detail=problem,
    )


def _difference(  # noqa: PLR0911 - one return per thing that may differ, in the order in which they act
    bench: RehearsalBench, before: Made, after: Made
) -> tuple[str, str]:
    """What a step made again does differently, and where that is restored."""
    loads = bench.line(r"load_file\(|load_state_dict", r"def (load|resume)", "resume")
    first, second = before.step, after.step
    where = f"step {second.number}, made again after a resume"
    for one, two in zip(first.calls, second.calls, strict=False):
        if not _same_inputs(one, two):
            return f"{where}: another batch", loads
    if len(first.calls) != len(second.calls):
        return f"{where}: {len(second.calls)} micro-batches instead of {len(first.calls)}", loads
    sums, sums_again = first.first.event.get("sums"), second.first.event.get("sums")
    if sums and sums_again and sums != sums_again:
        names = before.process.tensor_names
        name = next(n for n, a, b in zip(names, sums, sums_again, strict=True) if a != b)
        return f"{where}: {name} is not what it was", loads
    rates = [[g.get("lr") for u in step.updates for g in u.groups] for step in (first, second)]
    if rates[0] != rates[1]:
        return f"{where}: learning rate {rates[1][0]} instead of {rates[0][0]}", loads
    for update, again in zip(first.updates, second.updates, strict=False):
        name = _other_moment(update.moments("before"), again.moments("before"))
        if name:
            return f"{where}: the optimizer's {name} is not what it was", loads
    if _rng_of(first.calls) != _rng_of(second.calls) and _draws(before):
        return f"{where}: other random numbers", bench.line("set_rng_state", "rng|manual_seed")
    if first.updates[-1].left["sums"] != second.updates[-1].left["sums"]:
        return f"{where}: the weights come out differently", loads
    return "", ""


def _same_inputs(one: Call, two: Call) -> bool:
    import torch

    return all(torch.equal(a, b) for a, b in zip(one.inputs(), two.inputs(), strict=False))


def _rng_of(calls: tuple[Call, ...]) -> list[bytes]:
    states = [call.tensor("rng") for call in calls]
    return [state.numpy().tobytes() if state is not None else b"" for state in states]


def _draws(made: Made) -> bool:
    """Whether the model draws random numbers, so that their state matters."""
    states = _rng_of(made.step.calls)
    return len(set(states)) > 1


def _other_moment(one: dict[str, dict[str, Any]], two: dict[str, dict[str, Any]]) -> str:
    for name, kinds in one.items():
        for kind, value in kinds.items():
            other = two.get(name, {}).get(kind)
            if other is None or not _equal(value, other):
                return f"{kind} of {name}"
    return ""


def _equal(one: torch.Tensor | float, two: torch.Tensor | float) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return bool(torch.allclose(one, two, rtol=1e-5, atol=1e-12))
    return float(one) == float(two)


def _gap(bench: RehearsalBench) -> tuple[str, str]:
    """What the start after SIGTERM found that the one before it did not leave."""
    starts = bench.record.starts
    if len(starts) < 3:
        return "", ""
    left, found = starts[1].main, starts[2].main
    if left is None or found is None or not left.steps or not found.steps:
        return "", ""
    last, first = left.steps[-1], found.steps[0]
    if first.number != last.number + 1:
        return "", ""
    loads = bench.line(r"load_file\(|load_state_dict", r"def (load|resume)", "resume")
    name = _other_moment(last.updates[-1].moments("after"), first.updates[-1].moments("before"))
    if name:
        return f"step {first.number}, after a stop: the optimizer's {name} is not what it was", loads
    sums = dict(zip(left.parameter_names, last.updates[-1].left["sums"], strict=True))
    now = dict(zip(found.tensor_names, first.first.event.get("sums", ()), strict=False))
    moved = [n for n in found.model["trainable"] if n in now and n in sums and now[n] != sums[n]]
    if moved and not callable(getattr(bench.replay.model, "after_optimizer_step", None)):
        return f"step {first.number}, after a stop: {moved[0]} is not what it was", loads
    return "", ""


RESUME = Probe(
    name="resume",
    category=Category.TRAINING,
    meaning="after a crash or a stop training goes on as if nothing had happened",
    threshold="the same batches, random numbers, weights and moments, bit for bit",
    threshold_source="steps that a crash made necessary again are compared with their first time",
    usual_causes=(
        "the data cursor, the optimizer or the random numbers not restored",
        "a schedule or an epoch order that starts again",
        "weights loaded into a model that the optimizer does not hold",
    ),
    run=_resume,
)
