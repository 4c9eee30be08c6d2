"""Defects of what is left: tensors, configuration, tokenizer, files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.defects.case import Action, Claim, Defect, Edit, Family, Folder, Harm
from benchmarks.defects.families import claims
from benchmarks.defects.families.places import ALL, FOUR, ROTARY
from benchmarks.defects.families.shards import replace_tokenizer

_ARTIFACT = Family.ARTIFACT
_FILES = ("model.safetensors", "*.safetensors", "ckpts/*", "step-*")
_OUT, _OTHER_OUT = "blocks.0.attention.o_proj.weight", "blocks.1.attention.o_proj.weight"
_CONFIG = ("config.json", "config.json*", "*config*")


def _best_file(folder: Folder) -> Path:
    pointer = json.loads((folder.path / "ckpts" / "best.json").read_text())
    return folder.path / "ckpts" / str(pointer["dir"]) / "model.safetensors"


def _on_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Action:
    """Changes the tensors of the best checkpoint."""

    def act(folder: Folder) -> None:
        file = _best_file(folder)
        tensors = load_file(file)
        change(tensors)
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)

    return act


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors[_OTHER_OUT]


def _zero(tensors: dict[str, Tensor]) -> None:
    tensors[_OTHER_OUT] = torch.zeros_like(tensors[_OTHER_OUT])


def _swap(tensors: dict[str, Tensor]) -> None:
    tensors[_OUT], tensors[_OTHER_OUT] = tensors[_OTHER_OUT], tensors[_OUT]


def _transpose(tensors: dict[str, Tensor]) -> None:
    tensors[_OTHER_OUT] = tensors[_OTHER_OUT].t()


def _spoil(tensors: dict[str, Tensor]) -> None:
    tensors[_OTHER_OUT][3, 5] = torch.nan


def _untie(tensors: dict[str, Tensor]) -> None:
    """The head is stored too, as it was before the last updates."""
    stale = tensors["embed_tokens.weight"].clone()
    tensors["lm_head.weight"] = stale + 0.05 * torch.randn(
        stale.shape, generator=torch.Generator().manual_seed(0)
    )


def _round(tensors: dict[str, Tensor]) -> None:
    """Three bits per weight, one scale per tensor: a quantisation that is not said."""
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            scale = tensor.abs().max() / 3
            tensors[name] = (tensor / scale).round() * scale


def _halve(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.half()


def _add(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.2.attention.o_proj.weight"] = tensors[_OTHER_OUT].clone()


def _permute(tensors: dict[str, Tensor]) -> None:
    """Rows of the embedding are in another order, as for another tokenizer."""
    tensors["embed_tokens.weight"] = tensors["embed_tokens.weight"].roll(1, 0)


def _reinitialise(tensors: dict[str, Tensor]) -> None:
    """One layer is fresh: it was missing when the file was loaded and converted."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.startswith("blocks.1.") and tensor.ndim > 1:
            tensors[name] = 0.02 * torch.randn(tensor.shape, generator=generator)


def _truncate(folder: Folder) -> None:
    file = _best_file(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _pickle(folder: Folder) -> None:
    file = _best_file(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # not what is overwritten
    torch.save(tensors, file)


def _empty_checkpoint(folder: Folder) -> None:
    shutil.rmtree(_best_file(folder).parent)


def _without_optimizer(folder: Folder) -> None:
    last = json.loads((folder.path / "ckpts" / "last.json").read_text())
    (folder.path / "ckpts" / last["dir"] / "optimizer.safetensors").unlink()


def _configure(**values: Any) -> Action:
    def act(folder: Folder) -> None:
        folder.set("config.json", **values)

    return act


def _other_heads(folder: Folder) -> None:
    heads = {"gpt2": 8, "llama": 4}.get(folder.program.removesuffix("_moe"), 4)
    if folder.program.startswith("gpt2"):
        folder.set("config.json", num_attention_heads=heads)
    elif folder.program.startswith("llama"):
        folder.set("config.json", num_attention_heads=heads, num_key_value_heads=heads // 2, rope_theta=100.0)
    else:
        folder.set("config.json", qk_nope_head_dim=24, qk_rope_head_dim=8)


def _resumable(folder: Folder, sound: Path) -> Claim:
    del sound
    last = json.loads((folder.path / "ckpts" / "last.json").read_text())
    is_whole = (folder.path / "ckpts" / last["dir"] / "optimizer.safetensors").exists()
    return Claim(
        stated="last.json names a checkpoint to go on from",
        measured="with" if is_whole else "without the optimizer's moments",
        is_false=not is_whole,
    )


_TENSORS = (
    Defect(
        name="missing-tensor",
        family=_ARTIFACT,
        what="one matrix is not in the file",
        source="QwenLM/Qwen3-VL-Embedding #89 (a weight is missing from the shards)",
        programs=ALL,
        after=_on_tensors(_drop),
        component=(*_FILES, _OTHER_OUT),
        claim=claims.stored_tensors,
    ),
    Defect(
        name="extra-tensor",
        family=_ARTIFACT,
        what="the file holds a layer that the model does not have",
        source="vllm-project/vllm #6758 (weights that the model has no place for)",
        programs=FOUR,
        after=_on_tensors(_add),
        component=(*_FILES, "blocks.2*"),
        harm=Harm.CLAIM,
        claim=claims.stored_tensors,
    ),
    Defect(
        name="tensor-zeroed",
        family=_ARTIFACT,
        what="one matrix is all zeros",
        source="huggingface/safetensors and sharded saving: parameters gathered too late are empty",
        programs=ALL,
        after=_on_tensors(_zero),
        component=(*_FILES, _OTHER_OUT, "blocks.1*"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="tensors-swapped",
        family=_ARTIFACT,
        what="two layers' matrices changed places",
        source="NeuraLegion/shainet #111 (conversion between layouts)",
        programs=FOUR,
        after=_on_tensors(_swap),
        component=(*_FILES, _OUT, _OTHER_OUT, "blocks.*"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="tensor-transposed",
        family=_ARTIFACT,
        what="one square matrix is stored transposed",
        source="NeuraLegion/shainet #111 (conversion between layouts)",
        programs=FOUR,
        after=_on_tensors(_transpose),
        component=(*_FILES, _OTHER_OUT, "blocks.1*"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="tensor-not-finite",
        family=_ARTIFACT,
        what="one weight is NaN",
        source="DeepLocalize (ICSE 2021): not-finite weights",
        programs=ALL,
        after=_on_tensors(_spoil),
        component=(*_FILES, _OTHER_OUT),
    ),
    Defect(
        name="embedding-permuted",
        family=_ARTIFACT,
        what="the rows of the embedding are those of another tokenizer",
        source="huggingface/tokenizers documentation: ids are only valid with their tokenizer",
        programs=FOUR,
        after=_on_tensors(_permute),
        component=(*_FILES, "embed_tokens*", "lm_head*"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="layer-initialised-anew",
        family=_ARTIFACT,
        what="the last layer's weights are fresh, as after a load that found nothing for them",
        source="huggingface/transformers: 'newly initialized' weights at loading; #17877",
        programs=FOUR,
        after=_on_tensors(_reinitialise),
        component=(*_FILES, "blocks.1*"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="untied-on-save",
        family=_ARTIFACT,
        what="a tied head is stored as a tensor of its own, and stale",
        source="google/torchax #68, vllm-project/llm-compressor #2798 (tied weights become two)",
        programs=("gpt2", "gpt2_moe", "mla", "mla_moe"),
        after=_on_tensors(_untie),
        component=(*_FILES, "lm_head*", "embed_tokens*"),
        claim=claims.stored_tensors,
    ),
    Defect(
        name="weights-rounded",
        family=_ARTIFACT,
        what="weights are rounded to three bits, and nobody says so",
        source="arXiv 2210.17323 (plain rounding breaks small models)",
        programs=FOUR,
        after=_on_tensors(_round),
        component=(*_FILES, "*.weight"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="weights-in-half",
        family=_ARTIFACT,
        what="weights are stored in fp16 where the training's are fp32",
        source="QwenLM/Qwen3-VL-Embedding #89 (configuration and weights disagree)",
        programs=FOUR,
        after=_on_tensors(_halve),
        component=(*_FILES, "*.weight", "dtype"),
        harm=Harm.CLAIM,
        claim=claims.stored_tensors,
    ),
)

_REST = (
    Defect(
        name="config-other-heads",
        family=_ARTIFACT,
        what="config.json splits the same weights into other heads",
        source="QwenLM/Qwen3-VL-Embedding #89 (configuration and weights disagree)",
        programs=ALL,
        after=_other_heads,
        component=_CONFIG,
        also=(Family.REPORTING,),
        claim=claims.configuration,
    ),
    Defect(
        name="config-other-rotary-base",
        family=_ARTIFACT,
        what="config.json has another rotary base than the training",
        source="huggingface/transformers configurations: rope_theta lost in conversion; arXiv 2309.16039",
        programs=ROTARY,
        after=_configure(rope_theta=500.0),
        component=_CONFIG,
        also=(Family.REPORTING,),
        claim=claims.configuration,
    ),
    Defect(
        name="config-one-layer-more",
        family=_ARTIFACT,
        what="config.json has a layer more than the weights",
        source="QwenLM/Qwen3-VL-Embedding #89 (configuration and weights disagree)",
        programs=FOUR,
        after=_configure(num_hidden_layers=3),
        component=(*_CONFIG, *_FILES, "blocks.2*"),
        claim=claims.configuration,
    ),
    Defect(
        name="config-one-layer-less",
        family=_ARTIFACT,
        what="config.json has a layer less than the weights",
        source="QwenLM/Qwen3-VL-Embedding #89 (configuration and weights disagree)",
        programs=FOUR,
        after=_configure(num_hidden_layers=1),
        component=(*_CONFIG, *_FILES, "blocks.1*"),
        claim=claims.configuration,
    ),
    Defect(
        name="config-one-expert-per-token",
        family=_ARTIFACT,
        what="config.json says one expert per token, the training used two",
        source="huggingface/transformers #34609 and configurations of mixtures that disagree with their weights",
        programs=("gpt2_moe", "llama_moe", "mla_moe"),
        after=_configure(num_experts_per_tok=1),
        component=_CONFIG,
        also=(Family.REPORTING,),
        claim=claims.configuration,
    ),
    Defect(
        name="tokenizer-replaced",
        family=_ARTIFACT,
        what="the tokenizer was replaced after the training",
        source="huggingface/tokenizers documentation: ids are only valid with their tokenizer",
        programs=ALL,
        after=lambda folder: replace_tokenizer(folder.data, told=False),
        component=("tokenizer*", "data/tokenizer*"),
        also=(Family.DATA,),
        harm=Harm.CLAIM,
        claim=claims.tokenizer,
    ),
    Defect(
        name="file-truncated",
        family=_ARTIFACT,
        what="half of the weights' file is there",
        source="huggingface/safetensors: incomplete files after a full disk",
        programs=FOUR,
        after=_truncate,
        component=_FILES,
    ),
    Defect(
        name="file-pickled",
        family=_ARTIFACT,
        what="the file is a pickle with another name",
        source="huggingface/safetensors README (why pickles are unsafe)",
        programs=FOUR,
        after=_pickle,
        component=_FILES,
    ),
    Defect(
        name="checkpoint-gone",
        family=_ARTIFACT,
        what="best.json names a directory that is not there",
        source="the contract of a path: pointers name directories that are whole",
        programs=("gpt2", "llama"),
        after=_empty_checkpoint,
        component=(*_FILES, "best.json", "ckpts/best.json"),
    ),
    Defect(
        name="checkpoint-stale",
        family=_ARTIFACT,
        what="every checkpoint stores the weights of the first one",
        source="a state dict captured by reference too early; PyTorch's tutorial on saving warns of it",
        programs=ALL,
        edits=(
            Edit(
                "train.py",
                '    save_file({k: v.contiguous() for k, v in unique_state(model).items()}, directory / "model.safetensors")\n',
                "    global KEPT\n"
                '    KEPT = globals().get("KEPT") or {k: v.clone() for k, v in unique_state(model).items()}\n'
                '    save_file(KEPT, directory / "model.safetensors")\n',
            ),
        ),
        component=(*_FILES, "*.weight", "best.json"),
        also=(Family.REPORTING,),
    ),
    Defect(
        name="norms-left-out",
        family=_ARTIFACT,
        what="the weights of the norms are not stored",
        source="huggingface/accelerate #2807 (weights left out when saving)",
        programs=("llama", "llama_moe"),
        edits=(
            Edit(
                "train.py",
                "unique_state(model).items()}, directory",
                "unique_state(model).items() if k in moving(model)}, directory",
            ),
            Edit(
                "train.py",
                "class Logs:\n",
                "def moving(model: nn.Module) -> set[str]:\n"
                '    """Names of what trains."""\n'
                "    return {name for name, p in model.named_parameters() if p.requires_grad and 'norm' not in name}\n"
                "\n\nclass Logs:\n",
            ),
        ),
        component=(*_FILES, "*norm*"),
    ),
    Defect(
        name="optimizer-state-missing",
        family=_ARTIFACT,
        what="the last checkpoint has no optimizer state: training cannot go on from it",
        source="IntelLabs/distiller #145 (resume does not load the optimizer)",
        programs=("gpt2", "llama"),
        after=_without_optimizer,
        component=("optimizer.safetensors", "ckpts/*", "*optimizer*", *_FILES),
        harm=Harm.CLAIM,
        claim=_resumable,
    ),
)

DEFECTS: tuple[Defect, ...] = (*_TENSORS, *_REST)
