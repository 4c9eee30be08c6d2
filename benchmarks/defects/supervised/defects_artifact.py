"""Defects of the checkpoint: tensors that are missing, damaged, permuted, stale, or of another size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.defects.case import Action, Defect, Family, Folder, Harm
from benchmarks.defects.supervised import claims, score
from benchmarks.defects.supervised.names import CLASSIFIERS, TAXONOMY, TEMPLATE

_CHECKPOINT = ("ckpts*", "model.safetensors", "*model.safetensors")
Tensors = dict[str, Tensor]


def _weights(folder: Folder) -> Path:
    return folder.path / "ckpts" / folder.json("ckpts/best.json")["dir"] / "model.safetensors"


def _tensors(folder: Folder) -> Tensors:
    """Copies: the file that they would be mapped from is about to be written."""
    return {name: tensor.clone() for name, tensor in load_file(_weights(folder)).items()}


def _on_tensors(change: Callable[[Tensors], Tensors]) -> Action:
    """Writes the best checkpoint again."""

    def action(folder: Folder) -> None:
        changed = change(_tensors(folder))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, _weights(folder))

    return action


def _permuted_classes(tensors: Tensors) -> Tensors:
    return tensors | {name: tensors[name].roll(1, 0) for name in ("head.weight", "head.bias")}


def _without_head_bias(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "head.bias"}


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.dim() >= 2 and not name.startswith("input_")


def _last_matrix(tensors: Tensors) -> str:
    return [name for name in tensors if _is_matrix(name, tensors[name])][-1]


def _not_a_number(tensors: Tensors) -> Tensors:
    name = _last_matrix(tensors)
    tensors[name].view(-1)[3] = float("nan")
    return tensors


def _coarse(tensors: Tensors) -> Tensors:
    """Three bits and a sign per weight of a matrix."""
    return {
        name: (tensor / tensor.abs().max() * 3).round() * tensor.abs().max() / 3
        if _is_matrix(name, tensor)
        else tensor
        for name, tensor in tensors.items()
    }


def _transposed(tensors: Tensors) -> Tensors:
    return tensors | {"second.weight": tensors["second.weight"].T}


def _reset_statistics(tensors: Tensors) -> Tensors:
    return {
        name: torch.zeros_like(tensor)
        if name.endswith("running_mean")
        else torch.ones_like(tensor)
        if name.endswith("running_var")
        else tensor
        for name, tensor in tensors.items()
    }


def _reset_scaling(tensors: Tensors) -> Tensors:
    starts = {"input_mean": torch.zeros_like, "input_std": torch.ones_like}
    return tensors | {name: start(tensors[name]) for name, start in starts.items()}


def _reset_target_scaling(tensors: Tensors) -> Tensors:
    starts = {"target_mean": torch.zeros_like, "target_std": torch.ones_like}
    return tensors | {name: start(tensors[name]) for name, start in starts.items()}


def _untrained(folder: Folder) -> None:
    torch.manual_seed(folder.json("train_config.json")["seed"])
    fresh = score.build(folder.path).state_dict()
    trained = _tensors(folder)
    kept = {name: trained[name] for name in trained if name.startswith(("input_", "target_"))}
    save_file({name: tensor.contiguous() for name, tensor in fresh.items()} | kept, _weights(folder))


def _truncated(folder: Folder) -> None:
    path = _weights(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _pickled(folder: Folder) -> None:
    torch.save(_tensors(folder), _weights(folder))


def _of_another_size(key: str, factor: float) -> Action:
    def action(folder: Folder) -> None:
        folder.set("config.json", **{key: int(folder.json("config.json")[key] * factor)})

    return action


def _of_another_depth(folder: Folder) -> None:
    folder.set("config.json", num_blocks=folder.json("config.json")["num_blocks"] - 1)


def _defect(
    name: str,
    what: str,
    source: str,
    programs: tuple[str, ...],
    after: Action,
    component: tuple[str, ...] = (),
    claim: claims.Stated | None = None,
) -> Defect:
    return Defect(
        name=name,
        family=Family.ARTIFACT,
        what=what,
        source=source,
        programs=programs,
        after=after,
        component=(*_CHECKPOINT, *component),
        harm=Harm.CLAIM if claim else Harm.SCORE,
        claim=claim,
    )


_SERVING = f"{TAXONOMY} (deployment); training-serving skew"

DEFECTS = (
    _defect(
        "classes-permuted-on-save",
        "the head's rows are saved in another order than the manifest has the classes",
        f"{_SERVING}: label order of a saved model",
        CLASSIFIERS,
        _on_tensors(_permuted_classes),
        ("head*", "best.json", "*best.json"),
    ),
    _defect(
        "head-bias-missing",
        "a tensor of the model is not in the checkpoint",
        "missing tensors on save; transformers, newly initialised weights",
        ("wine_mlp", "digits_cnn", "cells_mlp", "text_encoder"),
        _on_tensors(_without_head_bias),
        ("head*",),
        claims.checkpoint_complete,
    ),
    _defect(
        "a-weight-not-a-number",
        "one weight is NaN",
        f"{TAXONOMY} (NaN); checkpoint after a diverged step",
        ("digits_mixer", "digits_cnn", "diabetes_mlp"),
        _on_tensors(_not_a_number),
        ("*.weight",),
    ),
    _defect(
        "weights-coarse",
        "matrices are rounded to seven values",
        "quantisation without calibration",
        ("digits_mixer", "cells_mlp", "text_encoder"),
        _on_tensors(_coarse),
        ("*.weight", "best.json", "*best.json"),
    ),
    _defect(
        "matrix-transposed",
        "a square matrix is saved transposed",
        "conversion between frameworks (TensorFlow and PyTorch layouts)",
        ("wine_mlp", "cells_mlp"),
        _on_tensors(_transposed),
        ("second*", "best.json", "*best.json"),
    ),
    _defect(
        "statistics-reset-on-save",
        "running means and variances of batch norm are those of the start",
        f"{_SERVING}: buffers lost",
        ("digits_cnn", "cancer_mlp"),
        _on_tensors(_reset_statistics),
        ("norm*", "blocks.*norm*", "*running*", "best.json", "*best.json"),
    ),
    _defect(
        "scaling-reset-on-save",
        "the scaling of the inputs is 0 and 1 in the checkpoint",
        f"{_SERVING}: preprocessing lost",
        ("wine_mlp", "cancer_mlp", "digits_mixer", "diabetes_mlp"),
        _on_tensors(_reset_scaling),
        ("input_*", "best.json", "*best.json"),
    ),
    _defect(
        "target-scaling-reset-on-save",
        "the scaling of the target is 0 and 1 in the checkpoint",
        f"{_SERVING}: postprocessing lost",
        ("cells_mlp", "diabetes_mlp"),
        _on_tensors(_reset_target_scaling),
        ("target_*", "best.json", "*best.json"),
    ),
    _defect(
        "untrained-weights-saved",
        "the checkpoint holds the weights of the start",
        "stale checkpoint; state saved before it was trained",
        ("digits_mixer", "text_encoder", "cancer_mlp"),
        _untrained,
        ("*.weight", "best.json", "*best.json"),
    ),
    _defect(
        "checkpoint-truncated",
        "the file of the weights ends after two thirds",
        "a copy that was cut off",
        TEMPLATE[:4],
        _truncated,
    ),
    _defect(
        "checkpoint-pickled",
        "the file of the weights is a pickle with the name of a safetensors file",
        "torch.save under another name; nothing is unpickled here",
        ("wine_mlp", "text_encoder"),
        _pickled,
    ),
    _defect(
        "config-of-another-width",
        "config.json has twice the width of the weights",
        "config and weights of two runs",
        ("digits_mixer", "wine_mlp", "cancer_mlp", "diabetes_mlp"),
        _of_another_size("hidden_size", 2),
        ("config.json*", "*.weight", "*.bias", "norm*"),
    ),
    _defect(
        "config-of-another-depth",
        "config.json has one block less than the weights",
        "config and weights of two runs",
        ("digits_mixer", "text_encoder"),
        _of_another_depth,
        ("config.json*", "blocks*"),
    ),
)
