"""Probes of the optimizer's settings: what it holds, how that decays, at which rate it steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench


# --- optimizer-coverage --------------------------------------------------------------------------


def _optimizer_coverage(bench: RehearsalBench) -> Measurement:
    made = bench.made[0]
    trainable = set(made.process.model["trainable"])
    held = [name for update in made.step.updates for group in update.groups for name in group["names"]]
    strangers = [s for update in made.step.updates for group in update.groups for s in group["strangers"]]
    missing = [name for name in made.process.parameter_names if name in trainable and name not in held]
    twice = sorted({name for name in held if held.count(name) > 1})
    problems = [f"{len(missing)} not in the optimizer: {', '.join(missing[:4])}"] if missing else []
    if twice:
        problems.append(f"{len(twice)} in two groups: {', '.join(twice[:4])}")
    if strangers:
        problems.append(f"{len(strangers)} tensors in the optimizer are not the model's")
    if not trainable:
        problems.append("nothing is trainable")
    frozen = [name for name in made.process.parameter_names if name not in trainable]
    unsaid = [] if bench.artifact.declares_freezing else sorted(set(frozen) & _trainable_as_built(bench))
    if unsaid:
        problems.append(f"train.py freezes {len(unsaid)}, and no setting says so: {', '.join(unsaid[:4])}")
    place = bench.line("requires_grad", "freez") if unsaid else _built_at(bench)
    return Measurement(
        passed=not problems,
        measured=f"{len(trainable & set(held))} of {len(trainable)} trainable parameters, "
        f"{len(frozen)} frozen",
        allowed="every trainable parameter once, and nothing else",
        component=", ".join([place, *(missing or twice or unsaid)[:1]]) if problems else "",
        detail="; ".join(problems),
    )


def _trainable_as_built(bench: RehearsalBench) -> set[str]:
    return {name for name, parameter in bench.replay.model.named_parameters() if parameter.requires_grad}


def _built_at(bench: RehearsalBench) -> str:
    return bench.line(r"optim\.\w+\(", r"(AdamW|SGD|Adam)\(", "optimizer")


OPTIMIZER_COVERAGE = Probe(
    name="optimizer-coverage",
    category=Category.TRAINING,
    meaning="the optimizer that steps holds every trainable parameter of the model once, and nothing else",
    threshold="every trainable parameter once, and nothing else; none frozen that no setting calls frozen",
    threshold_source="a parameter outside the optimizer keeps its random start",
    usual_causes=(
        "the optimizer built before layers were added, replaced or re-initialised",
        "a filter on names or dimensions that drops some",
        "only frozen parameters handed over",
        "layers frozen on purpose, which freeze_… in train_config.json should say",
    ),
    run=_optimizer_coverage,
)


# --- weight-decay-groups -------------------------------------------------------------------------


def _weight_decay_groups(bench: RehearsalBench) -> Measurement:
    planned = bench.record.config.get("weight_decay")
    if not isinstance(planned, (int, float)):
        return Measurement(passed=True, measured="train_config.json has no weight_decay", allowed="-")
    made = bench.made[0]
    shapes = {str(name): shape for name, _, shape in made.process.model["tensors"]}
    embeddings = _embeddings(bench)
    wrong = []
    for update in made.step.updates:
        for group in update.groups:
            decay = group.get("weight_decay")
            if not isinstance(decay, (int, float)):
                continue
            for name in group["names"]:
                is_matrix = len(shapes[name]) >= 2
                allowed = {planned, 0.0} if name in embeddings else {planned if is_matrix else 0.0}
                if not any(abs(decay - value) <= 1e-9 + 1e-6 * abs(value) for value in allowed):
                    wrong.append((name, decay, planned if is_matrix else 0.0))
    return Measurement(
        passed=not wrong,
        measured=f"{len(wrong)} parameters with another decay than planned",
        allowed=f"{planned} on matrices, 0 on norms and biases",
        component=f"{bench.line('weight_decay.*[,}]$', 'weight_decay')}, {wrong[0][0]}" if wrong else "",
        detail="; ".join(f"{name} decays by {decay:g}, not {right:g}" for name, decay, right in wrong[:4]),
    )


def _embeddings(bench: RehearsalBench) -> set[str]:
    """Names of embedding weights, which some recipes decay and some don't."""
    import torch

    return {
        f"{name}.weight" for name, module in bench.replay.model.named_modules()
        if isinstance(module, torch.nn.Embedding)
    }  # fmt: skip


WEIGHT_DECAY_GROUPS = Probe(
    name="weight-decay-groups",
    category=Category.TRAINING,
    meaning="matrices decay as train_config.json says; norms, biases and other vectors do not",
    threshold="weight_decay on matrices (embeddings: or none), 0 on vectors",
    threshold_source="the settings that the optimizer holds when it steps",
    usual_causes=(
        "one group for all parameters",
        "groups split by a name that the model does not use",
        "a decay written into train.py",
    ),
    run=_weight_decay_groups,
)


# --- learning-rate -------------------------------------------------------------------------------


def scheduled(step: float, config: dict[str, Any]) -> float:
    """The planned rate after ``step`` steps: linear warm-up, then decay to the minimum."""
    peak, least = float(config["learning_rate"]), float(config.get("min_learning_rate") or 0.0)
    warmup, steps = int(config.get("warmup_steps") or 0), int(config["steps"])
    if step < warmup:
        return peak * (step + 1) / warmup if step >= 0 else 0.0
    progress = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    decayed = {"linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return peak - decayed.get(str(config.get("schedule")), 0.0) * (peak - least)


def _learning_rate(bench: RehearsalBench) -> Measurement:
    config = bench.record.config
    if not {"learning_rate", "schedule", "steps"} <= config.keys():
        return Measurement(passed=True, measured="train_config.json has no schedule", allowed="-")
    wrong = []
    for made in bench.made:
        index = made.step.number - 1
        around = [scheduled(index + shift, config) for shift in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        low, high = min(around) * (1 - 1e-4), max(around) * (1 + 1e-4)
        for update in made.step.updates:
            rates = {float(group["lr"]) for group in update.groups if "lr" in group}
            wrong += [(made, rate) for rate in sorted(rates) if not low <= rate <= high]
    if not wrong:
        return Measurement(
            passed=True,
            measured=f"as scheduled in {len(bench.made)} steps",
            allowed="the schedule of train_config.json, give or take a step",
        )
    made, rate = wrong[0]
    return Measurement(
        passed=False,
        measured=f"{rate:.3g} in {made.where}; {len(wrong)} steps are off",
        allowed=f"{scheduled(made.step.number - 1, config):.3g}, give or take a step",
        component=_scheduled_at(bench),
        detail=f"in a schedule of {config['steps']} steps with {config.get('warmup_steps')} of warm-up, "
        f"{config['schedule']} from {config['learning_rate']:g} to {config.get('min_learning_rate')}",
    )


def _scheduled_at(bench: RehearsalBench) -> str:
    """Where the rate is computed, unless it never changes; and where it is set."""
    sets = bench.line(r"\[.lr.\]\s*=", r"scheduler\.step|lr_scheduler|LambdaLR|OneCycle", r"\blr=")
    updates = [update for made in bench.made for update in made.step.updates]
    rates = {group.get("lr") for update in updates for group in update.groups}
    computes = bench.line(r"def \w*(learning_rate|lr_|_lr|schedule|warm)", r"def rate")
    return sets if len(rates) == 1 or computes == "train.py" else f"{computes}, {sets}"


LEARNING_RATE = Probe(
    name="learning-rate",
    category=Category.TRAINING,
    meaning="every step is made at the learning rate that train_config.json schedules for it",
    threshold="between the scheduled rates of the step before and the step after",
    threshold_source="conventions of counting differ by one step; the rates are read from the optimizer",
    usual_causes=(
        "no warm-up",
        "the schedule stepped once per micro-batch",
        "a schedule that starts again after a resume",
        "the rate set on another optimizer, or after the step",
    ),
    run=_learning_rate,
)
