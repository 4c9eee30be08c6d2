"""Probes of what training leaves: checkpoints, and inputs that are as they were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Process, Start, Step


def _checkpoint_whole(bench: RehearsalBench) -> Measurement:
    compared = 0
    for start in bench.record.starts:
        step = _step_of(bench, start)
        if step is None:
            continue
        process, made = step
        problem, component = _differs(bench, start, process, made)
        if problem:
            return Measurement(
                passed=False,
                measured=f"another model in the checkpoint of step {made.number}",
                allowed="every parameter of that step, as the optimizer left it",
                component=f"{bench.line(r'save_file[(]', 'def save')}, {component}",
                detail=problem,
            )
        compared += 1
    return Measurement(
        passed=compared > 0,
        measured=f"{compared} checkpoints",
        allowed="every parameter of that step, as the optimizer left it",
        detail="" if compared else "no checkpoint of a recorded step was left",
        component="" if compared else bench.line(r"save_file[(]", "def save"),
    )


def _step_of(bench: RehearsalBench, start: Start) -> tuple[Process, Step] | None:
    """The step that the last checkpoint of a start is of."""
    wanted = start.last.get("step")
    for other in bench.record.starts:
        if other.number <= start.number and other.main is not None:
            for step in other.main.steps:
                if step.number == wanted:
                    return other.main, step
    return None


def _differs(bench: RehearsalBench, start: Start, process: Process, step: Step) -> tuple[str, str]:
    from ml_intern_cli.judge.rehearsal.recorder import sample

    tensors = _load(start)
    recorded = dict(zip(process.parameter_names, step.updates[-1].samples("after"), strict=True))
    ties = _ties(bench)
    updates_itself = callable(getattr(bench.replay.model, "after_optimizer_step", None))
    trainable = set(process.model["trainable"])
    for name, expected in recorded.items():
        if expected is None or (updates_itself and name not in trainable):
            continue
        stored = next((tensors[alias] for alias in (name, *ties.get(name, ())) if alias in tensors), None)
        if stored is None:
            return f"{name} is missing", name
        found = sample(stored)
        if found.shape != expected.shape or not bool((found == expected).all()):
            how = (
                "has another size" if found.shape != expected.shape else "is of another step or another model"
            )
            return f"{name} {how}", name
        if (
            str(stored.dtype).removeprefix("torch.")
            != {key: dtype for key, dtype, _ in process.model["tensors"]}[name]
        ):
            return f"{name} is stored as {stored.dtype}", name
    expected_names = set(bench.replay.model.state_dict())
    unexpected = sorted(tensors.keys() - expected_names)
    if unexpected:
        return f"holds {unexpected[0]}, which the model does not have", unexpected[0]
    parameters = {name for names in ties.items() for name in (names[0], *names[1])} | set(recorded)
    missing = sorted(expected_names - tensors.keys() - parameters)
    if missing:
        return f"{missing[0]} is missing", missing[0]
    return "", ""


def _ties(bench: RehearsalBench) -> dict[str, tuple[str, ...]]:
    """Parameter → its other names."""
    names: dict[int, list[str]] = {}
    for name, parameter in bench.replay.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: tuple(others) for first, *others in names.values()}


def _load(start: Start) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = start.kept / "ckpts" / Path(str(start.last.get("dir"))).name / "model.safetensors"
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise Unusable(f"ckpts/{file.parent.name}/model.safetensors cannot be read: {error}") from error


CHECKPOINT_WHOLE = Probe(
    name="checkpoint-whole",
    category=Category.ARTIFACT,
    meaning="a checkpoint holds the model of the step that it names, all of it, in full precision",
    threshold="every tensor there, equal to what the optimizer left in that step",
    threshold_source="the recorder writes the numbers down as the optimizer leaves them",
    usual_causes=(
        "saved before the step, or from a copy that is not trained",
        "tied or added tensors left out",
        "saved in half precision",
    ),
    run=_checkpoint_whole,
)


def _files_untouched(bench: RehearsalBench) -> Measurement:
    touched = bench.record.touched
    return Measurement(
        passed=not touched,
        measured=f"{len(touched)} files changed or made elsewhere",
        allowed="none: its own logs and ckpts/ only",
        component=touched[0] if touched else "",
        detail=", ".join(touched[:4]),
    )


FILES_UNTOUCHED = Probe(
    name="files-untouched",
    category=Category.ARTIFACT,
    meaning="training changes none of its inputs, and writes nowhere but into its own directory",
    threshold="model, programs, settings and data hash as before; nothing new beside the path",
    threshold_source="hashes taken before the first start and after the last",
    usual_causes=(
        "shards or settings rewritten on the way",
        "a tokenizer saved over the one in data/",
        "eval.py or the evaluation data made to measure",
    ),
    run=_files_untouched,
)
