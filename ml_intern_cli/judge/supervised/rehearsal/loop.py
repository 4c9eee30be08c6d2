"""What the loop makes of it: gradients, clipping, settings, update, modes, and going on after a stop."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import CLIPPED, LOADING, OPTIMIZER, RATE
from ml_intern_cli.judge.supervised.rehearsal.bench import difference, total_norm
from ml_intern_cli.judge.supervised.schedule import learning_rate_at

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.supervised.rehearsal.rehearse import Event

_LOOKED_AT = 5  # steps whose gradients are recomputed
_CLOSE = 2e-3


def _whole_steps(bench: RehearsalBench, process: int = 0) -> list[Event]:
    """Steps kept with gradients and weights. Raises Unusable when there are none."""
    steps = [event for event in bench.whole.steps(process) if "settings" in event.words]
    if not steps:
        raise Unusable("no optimizer step was recorded")
    return steps


def _named(event: Event, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in event.tensors.items() if name.startswith(prefix)
    }


def _fresh_gradients(bench: RehearsalBench) -> Measurement:
    steps = _whole_steps(bench)
    worst, problem = 0.0, ""
    earlier: dict[str, torch.Tensor] = {}
    for number, event in enumerate(steps[:_LOOKED_AT]):
        got = _named(event, "grad:")
        if not got:
            problem = problem or f"step {number + 1} has no gradients"
            continue
        expected = {name: value for name, value in bench.expected_gradients(number).items() if name in got}
        away = _direction(expected, got)
        worst = max(worst, away)
        if away > _CLOSE and not problem:
            kept = {name: value + earlier[name] for name, value in expected.items() if name in earlier}
            if kept and _direction(kept, got) <= _CLOSE:
                problem = f"step {number + 1}: the gradients of the step before were not cleared (zero_grad)"
            elif len(bench.whole.processes) > 1 and _direction(bench.own_gradients(0, number), got) <= _CLOSE:
                problem = f"step {number + 1}: gradients are not averaged over the processes"
            else:
                worst_name = difference(_unit(expected), _unit(got))[1]
                problem = f"step {number + 1}: gradients are not those of its batch, most so {worst_name}"
        earlier = got
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g} in direction",
        allowed=f"≤ {_CLOSE:g}",
        component=bench.place("forward") + (", zero_grad" if "zero_grad" in problem else "")
        if problem
        else "",
        detail=problem,
    )


def _direction(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Relative distance after both are brought to length one: clipping does not count."""
    common = {name: second[name] for name in first if name in second}
    if total_norm(first) == 0 or total_norm(common) == 0:
        return 0.0 if total_norm(first) == total_norm(common) else 1.0
    return difference(_unit(first), _unit(common))[0]


def _unit(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    size = max(total_norm(values), 1e-30)
    return {name: value / size for name, value in values.items()}


FRESH_GRADIENTS = Probe(
    name="fresh-gradients",
    category=Category.TRAINING,
    meaning="the optimizer gets the gradients of this step's batch, and nothing of the last one's",
    threshold="relative distance in direction ≤ 2e-3 from the judge's own backward pass, over 5 steps",
    threshold_source=(
        "measured: float32 backward passes agree to 1e-7; with the last step's gradients added they are 0.3 "
        "and more away"
    ),
    usual_causes=("zero_grad missing", "gradients not averaged over processes", "gradients changed by hand"),
    run=_fresh_gradients,
)


def _clipping(bench: RehearsalBench) -> Measurement:
    limit = bench.setting("grad_clip")
    worst, problem = 0.0, ""
    for number, event in enumerate(_whole_steps(bench)[:_LOOKED_AT]):
        got = _named(event, "grad:")
        expected = {name: value for name, value in bench.expected_gradients(number).items() if name in got}
        if _direction(expected, got) > _CLOSE:
            continue  # fresh-gradients says so
        before = total_norm(expected)
        due = min(before, limit) if limit > 0 else before
        measured = total_norm(got)
        away = abs(measured - due) / max(due, 1e-12)
        worst = max(worst, away)
        if away > _CLOSE and not problem:
            problem = f"step {number + 1}: a gradient of {before:.3g} reaches the optimizer as {measured:.3g}"
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g}",
        allowed=f"norm clipped to {limit:g}" if limit > 0 else "not clipped",
        component=f"{bench.line(CLIPPED)}, grad_clip" if problem else "",
        detail=problem,
    )


CLIPPING = Probe(
    name="clipping",
    category=Category.TRAINING,
    meaning="the gradient reaches the optimizer in its size, clipped to grad_clip by its norm",
    threshold="norm within 0.2 %",
    threshold_source="measured: float32 norms agree to 7e-7",
    usual_causes=("clipping after the step, or not at all", "clipping by value", "a scaled loss"),
    run=_clipping,
)


def _trained_parameters(bench: RehearsalBench) -> Measurement:
    event = _whole_steps(bench)[0]
    groups: list[dict[str, Any]] = event.json("settings")
    held = {name for group in groups for name in group["names"]}
    model = bench.build(bench.seed)
    wanted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    left_out = [name for name in wanted if name not in held]
    reached = set().union(*(_named(step, "grad:").keys() for step in _whole_steps(bench)))
    start = next(one for one in bench.whole.processes[0] if one.kind == "start")
    trainable = set(start.json("trainable"))
    frozen = [name for name in wanted if name not in trainable]
    idle = [name for name in wanted if name in held and name not in reached and name not in frozen]
    declared = bench.declares_freezing() and len(wanted) == sum(1 for _ in model.parameters())
    problems = []
    if declared and not frozen:
        problems.append("config.json says that layers are frozen, and all are trained")
    problems += [f"{name} is in no group of the optimizer" for name in left_out]
    problems += [f"{name} is frozen by train.py" for name in frozen]
    problems += [f"{name} never gets a gradient" for name in idle]
    return Measurement(
        passed=not problems,
        measured=(
            f"{len(wanted) - len({*left_out, *frozen, *idle})} of {len(wanted)} trainable tensors are trained"
        ),
        allowed="all",
        component=", ".join([*(left_out + frozen + idle or ["config.json"])[:2], bench.line(OPTIMIZER)])
        if problems
        else "",
        detail="; ".join(problems[:4]),
    )


TRAINED_PARAMETERS = Probe(
    name="trained-parameters",
    category=Category.TRAINING,
    meaning="every tensor that model.py leaves trainable is in the optimizer and gets gradients",
    threshold="all",
    threshold_source="exact, by the identity of the tensors",
    usual_causes=(
        "an optimizer built from a part of the model",
        "requires_grad switched off in train.py",
        "a model replaced after the optimizer was built",
    ),
    run=_trained_parameters,
)


def _optimizer_settings(bench: RehearsalBench) -> Measurement:
    groups: list[dict[str, Any]] = _whole_steps(bench)[0].json("settings")
    model = dict(bench.build(bench.seed).named_parameters())
    problems = []
    betas = [bench.setting("beta1"), bench.setting("beta2")]
    for group in groups:
        kind = group["optimizer"]
        if kind != "AdamW":
            problems.append(f"the optimizer is {kind}, not AdamW")
            break
        if [float(one) for one in group.get("betas", betas)] != betas:
            problems.append(f"betas are {group['betas']}, train_config.json says {betas}")
        if not 1e-9 <= float(group.get("eps", 1e-8)) <= 1e-6:
            problems.append(f"epsilon is {group['eps']:g}")
        if group.get("maximize"):
            problems.append("the optimizer maximises")
        for name in group["names"]:
            due = bench.setting("weight_decay") if name in model and model[name].ndim >= 2 else 0.0
            if name in model and not math.isclose(float(group["weight_decay"]), due, abs_tol=1e-12):
                problems.append(f"{name} has weight decay {group['weight_decay']:g}, due {due:g}")
    names = [name for group in groups for name in group["names"]]
    return Measurement(
        passed=not problems,
        measured=f"{groups[0]['optimizer']}, {len(groups)} groups, {len(names)} tensors",
        allowed="AdamW with the configured betas, epsilon 1e-9 to 1e-6, decay on matrices only",
        component=f"{bench.line(OPTIMIZER)}, optimizer" if problems else "",
        detail="; ".join(dict.fromkeys(problems[:4])),
    )


OPTIMIZER_SETTINGS = Probe(
    name="optimizer-settings",
    category=Category.TRAINING,
    meaning="the optimizer is the one that train_config.json describes, with decay on matrices only",
    threshold="equal numbers",
    threshold_source="exact; source: TheDeepChecker (low Adam epsilon), DeepCrime (optimizer, weight decay)",
    usual_causes=("another optimizer", "decay on norms and biases", "defaults in place of the configuration"),
    run=_optimizer_settings,
)


def _rate_schedule(bench: RehearsalBench) -> Measurement:
    config = bench.artifact.train_config
    worst, problem = 0.0, ""
    for event in bench.whole.steps():
        step = int(event.words["step"])
        planned = learning_rate_at(step - 1, config)
        for rate in event.json("rates"):
            away = abs(rate - planned) / max(planned, 1e-12)
            worst = max(worst, away)
            if away > 1e-4 and not problem:
                problem = f"step {step} is made with {rate:.4g}, planned {planned:.4g}"
    peak = float(config["learning_rate"])
    if not problem and peak > 1.0:
        problem = f"a learning rate of {peak:g} is no rate for AdamW"
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g} over {len(bench.whole.steps())} steps",
        allowed="≤ 1e-4",
        component=("train_config.json" if "no rate" in problem else f"{bench.line(RATE)}, learning_rate_at")
        if problem
        else "",
        detail=problem,
    )


RATE_SCHEDULE = Probe(
    name="rate-schedule",
    category=Category.TRAINING,
    meaning="each step is made with the learning rate that warm-up and schedule give it",
    threshold="relative difference ≤ 1e-4",
    threshold_source="exact but for rounding",
    usual_causes=("a scheduler that is not stepped, or twice", "no warm-up", "a rate written into the code"),
    run=_rate_schedule,
)


def _update_rule(bench: RehearsalBench) -> Measurement:
    import torch

    steps = _whole_steps(bench)
    start = next(event for event in bench.whole.processes[0] if event.kind == "start")
    groups: list[dict[str, Any]] = steps[0].json("settings")
    if groups[0]["optimizer"] != "AdamW":
        return Measurement(
            passed=True, measured=f"{groups[0]['optimizer']}: see optimizer-settings", allowed="-"
        )
    names = [name for group in groups for name in group["names"] if name in start.tensors]
    own = {name: torch.nn.Parameter(start.tensors[name].clone()) for name in names}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [own[name] for name in group["names"] if name in own],
                "weight_decay": group["weight_decay"],
                "betas": tuple(group["betas"]),
                "eps": group["eps"],
            }
            for group in groups
        ]
    )
    problem, worst = "", 0.0
    for number, event in enumerate(steps):
        before = {name: parameter.detach().clone() for name, parameter in own.items()}
        grads = _named(event, "grad:")
        for name, parameter in own.items():
            parameter.grad = grads.get(name)
        for group, setting in zip(optimizer.param_groups, event.json("settings"), strict=True):
            group["lr"] = setting["lr"]
        optimizer.step()
        after = _named(event, "after:")
        moved = {name: parameter.detach() - before[name] for name, parameter in own.items()}
        theirs = {name: after[name] - before[name] for name in own if name in after}
        away, name = difference(moved, theirs)
        worst = max(worst, away)
        if away > 0.01 and not problem:
            still = total_norm(theirs) == 0
            problem = f"step {number + 1}: " + (
                "no weight moved"
                if still
                else f"the weights did not move as AdamW moves them, most so {name}"
            )
        digests = {mode["weights"] for mode in event.json("forwards")}
        last = steps[number - 1].words.get("weights") if number else None
        if last and digests and digests != {last} and not problem:
            problem = f"step {number + 1}: weights were changed between the last step and this forward pass"
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(after.get(key, parameter))
    return Measurement(
        passed=not problem,
        measured=f"relative |Δ| {worst:.1g} of the update over {len(steps)} steps",
        allowed="≤ 1 %",
        component=f"{bench.place('step')}, optimizer" if problem else "",
        detail=problem,
    )


UPDATE_RULE = Probe(
    name="update-rule",
    category=Category.TRAINING,
    meaning="weights move as AdamW moves them with those gradients, and only then",
    threshold="relative distance of the update ≤ 1 %; weights untouched between two steps",
    threshold_source="measured: the judge's own AdamW makes the same updates, bit for bit",
    usual_causes=("weights reset or overwritten", "moments lost at every step", "a step that is skipped"),
    run=_update_rule,
)


def _modes(bench: RehearsalBench) -> Measurement:
    problems = []
    for events in bench.whole.processes:
        for event in events:
            if event.kind == "step":
                for mode in event.json("forwards"):
                    if mode["training"] != "True":
                        problems.append(f"step {event.words['step']} trains in eval mode")
                    elif json.loads(mode["odd"]):
                        problems.append(f"step {event.words['step']} trains with {mode['odd']} in eval mode")
            elif event.kind == "evaluation":
                if event.words["training"] == "True":
                    problems.append(f"the evaluation after step {event.words['step']} is in train mode")
                elif json.loads(event.words["odd"]):
                    problems.append(f"an evaluation has {event.words['odd']} in train mode")
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} calls in the wrong mode",
        allowed="0",
        component=bench.place("evaluation" if "evaluation" in problems[0] else "forward") if problems else "",
        detail="; ".join(dict.fromkeys(problems[:3])),
    )


MODES = Probe(
    name="row-modes",
    category=Category.TRAINING,
    meaning="the model trains in train mode and is evaluated in eval mode",
    threshold="every call",
    threshold_source="exact; source: TrainCheck (transformers-33844)",
    usual_causes=("model.eval() missing before an evaluation", "model.train() missing after one"),
    run=_modes,
)


def _fresh_noise(bench: RehearsalBench) -> Measurement:
    import torch

    model = bench.redrawn(1).train()
    inputs, _ = bench.batch(8)
    torch.manual_seed(bench.seed)
    before = torch.get_rng_state()
    with torch.no_grad(), bench.artifact.foreign_code("forward"):
        model(inputs)
    if bool((torch.get_rng_state() == before).all()):
        return Measurement(passed=True, measured="the model draws no random numbers", allowed="-")
    states = [mode["noise"] for event in bench.whole.steps() for mode in event.json("forwards")]
    repeated = len(states) - len(set(states))
    return Measurement(
        passed=not repeated,
        measured=f"{repeated} of {len(states)} training passes start from random numbers used before",
        allowed="0",
        component=f"{bench.place('forward', depth=1)}, dropout" if repeated else "",
    )


FRESH_NOISE = Probe(
    name="fresh-noise",
    category=Category.TRAINING,
    meaning="dropout and other noise are drawn anew in every step",
    threshold="no state of the random numbers comes twice",
    threshold_source="exact; source: TrainCheck (SO-67180955)",
    usual_causes=("a seed set in every step", "random numbers restored at every evaluation"),
    run=_fresh_noise,
)


def _resumed(bench: RehearsalBench) -> Measurement:
    rehearsal = bench.rehearsal
    resumed = rehearsal.resumed
    if rehearsal.num_steps <= 4:
        return Measurement(passed=True, measured="too few steps to stop between", allowed="-")
    if resumed is None:
        raise Unusable("train.py did not stop, so it cannot go on")
    problems = []
    if resumed.ended.code != 0:
        problems.append(f"started again, train.py {resumed.ended.reason}")
    step = resumed.last.get("step")
    stopped = rehearsal.stopped.last.get("step")
    later = [event for event in bench.whole.steps() if event.words["step"] == str(step)]
    if not problems and not (isinstance(step, int) and isinstance(stopped, int) and step > stopped):
        problems.append(f"stopped at step {stopped}, started again it ended at {step}")
    measured = "not compared"
    if not problems and later and (after := _named(later[0], "after:")):
        saved = {name: after[name] for name in resumed.weights if name in after}
        away = max(
            (float((saved[name] - resumed.weights[name]).abs().max()) for name in saved), default=math.inf
        )
        measured = f"max |Δ| {away:.2g} at step {step}"
        if away > 0:
            problems.append(
                f"stopped at {stopped} and gone on to {step}, the weights are others than without a stop"
            )
    return Measurement(
        passed=not problems,
        measured=measured,
        allowed="identical weights",
        component=bench.line(LOADING) if problems else "",
        detail="; ".join(problems),
    )


RESUMED = Probe(
    name="resumed",
    category=Category.TRAINING,
    meaning="stopped after 4 steps and started again, training goes on as if nothing had happened",
    threshold="identical weights (max |Δ| = 0)",
    threshold_source="the same operations in the same order on the same machine",
    usual_causes=(
        "optimizer state not saved",
        "the data cursor starts over",
        "random numbers not restored",
        "the step count starts over",
    ),
    run=_resumed,
)


def _saved_state(bench: RehearsalBench) -> Measurement:
    stopped = bench.rehearsal.stopped
    steps = stopped.steps()
    step = stopped.last.get("step")
    event = next((one for one in steps if one.words["step"] == str(step)), None)
    if event is None or not (after := _named(event, "after:")):
        raise Unusable(f"ckpts/last.json names step {step}, which was not recorded")
    problems = []
    if not stopped.weights:
        problems.append("the last checkpoint has no readable model.safetensors")
    shared = bench.build(bench.seed).state_dict()
    pointers = {shared[name].data_ptr() for name in stopped.weights if name in shared}
    for name, value in after.items():
        saved = stopped.weights.get(name)
        if saved is None:
            if name in shared and shared[name].data_ptr() not in pointers and stopped.weights:
                problems.append(f"{name} is not in the checkpoint")
        elif saved.shape != value.shape or saved.dtype != value.dtype or not bool((saved == value).all()):
            problems.append(f"{name} in the checkpoint is not what it was at step {step}")
    groups: list[dict[str, Any]] = event.json("settings")
    reached = set(_named(event, "grad:"))
    held = [name for group in groups for name in group["names"] if name in reached]
    without = [name for name in held if not any(key.startswith(f"{name}.") for key in stopped.moments)]
    problems += [f"the optimizer's state of {name} is not saved" for name in without]
    return Measurement(
        passed=not problems,
        measured=f"{len(stopped.weights)} tensors, {len(stopped.moments)} of the optimizer",
        allowed="the weights of that step, and the optimizer's state of each",
        component=problems[0].split(" is ")[0].removeprefix("the optimizer's state of ").split(" in ")[0]
        if problems
        else "",
        detail="; ".join(problems[:3]),
    )


SAVED_STATE = Probe(
    name="saved-state",
    category=Category.ARTIFACT,
    meaning="a checkpoint holds the weights of its step, all of them, and the optimizer's state",
    threshold="identical tensors",
    threshold_source="exact",
    usual_causes=(
        "weights saved before the step",
        "a part of the model saved",
        "rounded to half",
        "buffers left out",
    ),
    run=_saved_state,
)


def _replicas_in_step(bench: RehearsalBench) -> Measurement:
    processes = bench.whole.processes
    if len(processes) < 2:
        return Measurement(passed=True, measured="one process", allowed="-")
    worst, problem = 0.0, ""
    counts = [len(bench.whole.steps(number)) for number in range(len(processes))]
    if max(counts) - min(counts) > 1:
        problem = f"the processes make {', '.join(map(str, counts))} steps"
    for events in zip(*(_whole_steps(bench, number) for number in range(len(processes))), strict=False):
        first, *others = (_named(event, "after:") for event in events)
        for other in others:
            away, name = difference(first, other)
            worst = max(worst, away)
            if away > 1e-6 and not problem:
                problem = f"after step {events[0].words['step']} the replicas differ, most so in {name}"
    return Measurement(
        passed=not problem,
        measured=f"{len(processes)} processes, relative |Δ| {worst:.1g}",
        allowed="≤ 1e-6",
        component=bench.place("forward") if problem else "",
        detail=problem,
    )


REPLICAS_IN_STEP = Probe(
    name="replicas-in-step",
    category=Category.DISTRIBUTED,
    meaning="every process holds the same weights after each step",
    threshold="relative |Δ| ≤ 1e-6",
    threshold_source="the same update of the same weights; source: TrainCheck (pytorch-104336, x-jxmnop)",
    usual_causes=("gradients not averaged", "another start per process", "a process that skips updates"),
    run=_replicas_in_step,
)


def _ranks_apart(bench: RehearsalBench) -> Measurement:
    processes = bench.readings
    if len(processes) < 2:
        return Measurement(passed=True, measured="one process", allowed="-")
    rows_per_epoch = bench.dataset.manifest.splits[Split.TRAIN].rows
    shared = total = 0
    for readings in zip(*processes, strict=False):
        rows = [row for reading in readings for row in reading.rows]
        step = readings[0].step
        if (step - 1) * len(rows) // rows_per_epoch != (step * len(rows) - 1) // rows_per_epoch:
            continue  # an epoch ends within it, and the next one may begin with the same rows
        total += len(rows)
        shared += len(rows) - len(set(rows))
    if not total:
        return Measurement(passed=True, measured="an epoch ends within every step", allowed="-")
    return Measurement(
        passed=shared <= 0.02 * total,
        measured=f"{shared} of {total} rows go to two processes in one step",
        allowed="≤ 2 %, natural duplicates",
        component=bench.place("forward") if shared > 0.02 * total else "",
    )


RANKS_APART = Probe(
    name="ranks-apart",
    category=Category.DISTRIBUTED,
    meaning="the processes share the batch out: no row goes to two of them in a step",
    threshold="≤ 2 % of the rows of steps within one epoch",
    threshold_source="exact but for natural duplicates; measured: 0 in two programs over 1,000 seeds each",
    usual_causes=("no sampler per process", "the same seed for every process"),
    run=_ranks_apart,
)

PROCESS_PROBES: tuple[Probe[RehearsalBench], ...] = (RANKS_APART, REPLICAS_IN_STEP)
LOOP_PROBES: tuple[Probe[RehearsalBench], ...] = (
    TRAINED_PARAMETERS,
    OPTIMIZER_SETTINGS,
    RATE_SCHEDULE,
    FRESH_GRADIENTS,
    CLIPPING,
    UPDATE_RULE,
    MODES,
    FRESH_NOISE,
    SAVED_STATE,
    RESUMED,
)
