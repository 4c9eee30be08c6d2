"""Is it there, is it whole: files, construction, size, shapes, round trip."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import (
    Unusable,
    count_parameters,
    judge_device,
    load_tensors,
    stored_tensors,
)
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.blame import code_place, culprit, first_not_finite, unequal, unregistered

if TYPE_CHECKING:
    from ml_intern_cli.judge.probes.bench import Bench


def _compile(bench: Bench) -> Measurement:
    files = sorted(bench.artifact.directory.glob("*.py"))
    problems = [] if any(file.name == "model.py" for file in files) else ["model.py is missing"]
    for file in files:
        try:
            compile(file.read_bytes(), file.name, "exec", dont_inherit=True)
        except SyntaxError as error:
            problems.append(f"{file.name}:{error.lineno}: {error.msg}")
        except ValueError as error:  # NUL bytes
            problems.append(f"{file.name}: {error}")
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} problems in {len(files)} files",
        allowed="0 problems",
        component=_file(problems[0]) if problems else "",
        detail="; ".join(problems),
    )


def _file(problem: str) -> str:
    """``train.py:12`` of ``train.py:12: invalid syntax``."""
    return code_place(problem) or problem.split(":", maxsplit=1)[0].split(" ", maxsplit=1)[0]


COMPILE = Probe(
    name="compile",
    category=Category.MODEL,
    meaning="every Python file of the path compiles",
    threshold="no syntax error",
    threshold_source="a program that does not compile cannot train",
    usual_causes=("an edit left half done", "a file cut off while it was written"),
    run=_compile,
)


def _instantiate(bench: Bench) -> Measurement:
    try:
        model = bench.model()
    except Unusable as error:
        component = code_place(str(error)) or ("config.json" if "config.json" in str(error) else "model.py")
        return Measurement(
            passed=False, measured="not built", allowed="built", component=component, detail=str(error)
        )
    measured = f"{type(model).__name__} with {len(list(model.parameters()))} parameter tensors"
    return Measurement(passed=True, measured=measured, allowed="built")


INSTANTIATE = Probe(
    name="instantiate",
    category=Category.MODEL,
    meaning="the class that config.json names is built from that configuration",
    threshold="an nn.Module, without an exception",
    threshold_source="the contract of a path: <Name>(<Name>Config(...))",
    usual_causes=(
        "a configuration value the code does not expect",
        "_model_class misspelt",
        "a missing import",
    ),
    run=_instantiate,
)

_SMALL_MODEL = 5_000_000


def _param_count(bench: Bench) -> Measurement:
    actual, target = count_parameters(bench.model()), bench.target_params
    drift = actual / target - 1
    allowed = 0.01 if target >= _SMALL_MODEL else 0.03
    return Measurement(
        passed=abs(drift) <= allowed,
        measured=f"{actual:,} ({drift:+.2%} of {target:,})",
        allowed=f"within ±{allowed:.0%}",
    )


PARAM_COUNT = Probe(
    name="param-count",
    category=Category.MODEL,
    meaning="the model has the size that was asked for, tied weights counted once",
    threshold="±1 % from 5M parameters up, ±3 % below",
    threshold_source="the accuracy to which sizes are solved; below 5M one step of a dimension is a percent",
    usual_causes=(
        "a layer missing or built twice",
        "weights tied or untied against the plan",
        "other dimensions",
    ),
    run=_param_count,
)


def _forward_shape(bench: Bench) -> Measurement:
    import torch

    allowed = f"(B, T, V) with V ≥ {bench.corpus.vocab_size}, finite"
    model = bench.model()
    longest = bench.artifact.seq_len
    shapes = []
    for batch, length in ((1, 1), (2, min(7, longest)), (1, longest)):
        ids = torch.randint(bench.corpus.vocab_size, (batch, length), device=judge_device())
        try:
            with torch.no_grad():
                shapes.append(tuple(bench.logits(model, ids).shape))
        except Unusable as error:
            return Measurement(
                passed=False,
                measured="no logits",
                allowed=allowed,
                component=code_place(str(error))
                or first_not_finite(bench, model, ids)
                or f"{type(model).__name__}.forward",
                detail=str(error),
            )
    too_few = [shape for shape in shapes if shape[2] < bench.corpus.vocab_size]
    return Measurement(
        passed=not too_few,
        measured=" ".join(str(shape) for shape in shapes),
        allowed=allowed,
        component="config.json: vocab_size" if too_few else "",
    )


FORWARD_SHAPE = Probe(
    name="forward-shape",
    category=Category.MODEL,
    meaning="logits have a row per token and a column per vocabulary entry, from one token to a full window",
    threshold="(B, T, V) for (1, 1), (2, 7), (1, seq_len); values finite; V not below the tokenizer's size",
    threshold_source="the contract of a path",
    usual_causes=(
        "a transposed dimension",
        "positions or masks sized for another length",
        "vocab_size of another tokenizer",
    ),
    run=_forward_shape,
)


def _save_load(bench: Bench) -> Measurement:
    import torch
    from safetensors.torch import load, save

    allowed = "identical logits"
    original = bench.drawn
    ids = bench.random_ids(2)
    restored = bench.artifact.build(
        bench.seed + 1
    ).eval()  # other random weights, so that nothing fits by luck
    try:
        load_tensors(restored, load(save(stored_tensors(original))))
    except Unusable as error:
        named = re.search(r"(?:tensor )?(\S+)(?: has shape| holds|;|$)", str(error))
        return Measurement(
            passed=False,
            measured="does not load",
            allowed=allowed,
            component=named[1] if named else "",
            detail=str(error),
        )
    with torch.no_grad():
        moved = float((bench.logits(original, ids) - bench.logits(restored, ids)).abs().max())
    component = ""
    if moved:
        component = unregistered(original) or culprit(
            bench, original, ids, ids, differs=unequal, other=restored
        )
    return Measurement(
        passed=moved == 0, measured=f"max |Δ| {moved:.2g}", allowed=allowed, component=component
    )


SAVE_LOAD = Probe(
    name="save-load",
    category=Category.MODEL,
    meaning="a checkpoint holds all of the model: saved, loaded into a new instance, it computes the same",
    threshold="identical logits (max |Δ| = 0)",
    threshold_source="the same numbers through the same operations give the same result",
    usual_causes=(
        "layers in a plain list instead of nn.ModuleList",
        "a tensor that is neither parameter nor buffer",
        "tied weights that are untied by loading",
    ),
    run=_save_load,
)
