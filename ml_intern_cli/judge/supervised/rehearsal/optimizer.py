"""Probes: the optimizer has every parameter, its settings and rate, and makes its update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import OPTIMIZER, RATE
from ml_intern_cli.judge.supervised.rehearsal.bench import difference, total_norm
from ml_intern_cli.judge.supervised.rehearsal.steps import named, whole_steps
from ml_intern_cli.judge.supervised.schedule import learning_rate_at

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


def _trained_parameters(bench: RehearsalBench) -> Measurement:
    event = whole_steps(bench)[0]
    groups: list[dict[str, Any]] = event.json("settings")
    held = {name for group in groups for name in group["names"]}
    model = bench.build(bench.seed)
    wanted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    left_out = [name for name in wanted if name not in held]
    reached = set().union(*(named(step, "grad:").keys() for step in whole_steps(bench)))
    start = next(one for one in bench.whole.processes[0] if one.kind == "start")
    trainable = set(start.json("trainable"))
    frozen = [name for name in wanted if name not in trainable]
    idle = [name for name in wanted if name in held and name not in reached and name not in frozen]
    declared = bench.artifact.declares_freezing and len(wanted) == sum(1 for _ in model.parameters())
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
    groups: list[dict[str, Any]] = whole_steps(bench)[0].json("settings")
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

    steps = whole_steps(bench)
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
        grads = named(event, "grad:")
        for name, parameter in own.items():
            parameter.grad = grads.get(name)
        for group, setting in zip(optimizer.param_groups, event.json("settings"), strict=True):
            group["lr"] = setting["lr"]
        optimizer.step()
        after = named(event, "after:")
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
