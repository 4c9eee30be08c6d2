"""Where in the path's code a finding belongs: a line of train.py or model.py, or a module."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Artifact, Unusable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.supervised.bench import RowBench

LOSS = r"cross_entropy|mse_loss|nll_loss|l1_loss|CrossEntropyLoss|MSELoss|\.square\(\)\.mean"
OPTIMIZER = r"optim\.\w+\(|AdamW\(|Adam\(|SGD\("
RATE = r"\[.lr.\]\s*=|lr_scheduler|scheduler\.step"
SAMPLING = r"permutation|randperm|shuffle|default_rng|RandomSampler|arange\(num_rows"
CLIPPED = r"clip_grad|clamp_"
SAVING = r"save_file\(|def save_checkpoint"
LOADING = r"def load_checkpoint|load_file\("


def train_line(artifact: Artifact, pattern: str) -> str:
    """``train.py:LINE`` of the first line of code that matches, else ``train.py``."""
    try:
        text = (artifact.directory / "train.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "train.py"
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(pattern, line.split("#")[0]) and not line.lstrip().startswith(('"', "import", "from")):
            return f"train.py:{number}"
    return "train.py"


def forward_line(model: nn.Module) -> str:
    """``model.py:LINE`` where the forward pass of a module begins."""
    try:
        return f"model.py:{inspect.getsourcelines(type(model).forward)[1]}"
    except (OSError, TypeError):
        return "model.py"


def output_layer(bench: RowBench) -> str:
    """The last module with parameters that a forward pass calls, and the line of the model's own forward."""
    called: list[str] = []
    model = bench.model()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    try:
        bench.outputs(model, bench.batch(2)[0])
    except Unusable:
        called.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return f"{called[-1]}, {forward_line(model)}" if called else forward_line(model)


def first_divergence(
    bench: RowBench, model: nn.Module, first: torch.Tensor, second: torch.Tensor, *, row: int = 0
) -> str:
    """The innermost module that gets the same for a row and gives something else; else the model's forward.

    The two calls follow each other, so noise goes on from the one to the other.
    """
    import torch

    records: list[list[tuple[str, Any, Any]]] = [[], []]
    names = {module: name for name, module in model.named_modules()}
    for record, inputs in zip(records, (first, second), strict=True):

        def note(
            module: nn.Module, arguments: Any, output: Any, into: list[tuple[str, Any, Any]] = record
        ) -> None:
            given = arguments[0] if arguments else None
            if isinstance(given, torch.Tensor) and isinstance(output, torch.Tensor):
                into.append(
                    (names.get(module, ""), given.detach()[row : row + 1], output.detach()[row : row + 1])
                )

        hooks = [module.register_forward_hook(note) for module in model.modules()]
        try:
            with torch.no_grad(), bench.artifact.foreign_code("forward"):
                model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
    for (name, given, output), (_, other_given, other_output) in zip(*records, strict=False):
        alike = given.shape == other_given.shape and torch.allclose(given, other_given, rtol=1e-6, atol=1e-9)
        if alike and not torch.allclose(output, other_output, rtol=1e-6, atol=1e-9):
            module = model.get_submodule(name) if name else model
            own = forward_line(module) if type(module).__module__ == type(model).__module__ else ""
            return ", ".join(part for part in (name, own) if part)
    return forward_line(model)
