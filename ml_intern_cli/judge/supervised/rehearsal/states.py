"""Probes: modes and noise of the model while it trains, what is saved, and going on from that."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.supervised.places import LOADING
from ml_intern_cli.judge.supervised.rehearsal.steps import named

if TYPE_CHECKING:
    from ml_intern_cli.judge.supervised.rehearsal.bench import RehearsalBench


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


def _saved_state(bench: RehearsalBench) -> Measurement:
    stopped = bench.rehearsal.stopped
    steps = stopped.steps()
    step = stopped.last.get("step")
    event = next((one for one in steps if one.words["step"] == str(step)), None)
    if event is None or not (after := named(event, "after:")):
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
    reached = set(named(event, "grad:"))
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
    if not problems and later and (after := named(later[0], "after:")):
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
