"""Defects of checkpoints: each is planted into a copy of a sound one, as it happens to people.

Sources: the artifact and publishing family of the defect list that the judge is built against; TrainCheck
(OSDI 2025) for dropout in eval mode (transformers-33844), ``max_new_tokens`` that is ignored
(transformers-23723) and weights that are initialised again (transformers-17877).
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import Texts, make, tokenizer_of, train

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Defect:
    """What is planted into which sound checkpoint, and what has to find it where."""

    base: str
    plant: Callable[[Path, Texts], None]
    probe: str
    component: str
    question: dict[str, Any] = field(default_factory=dict)


def copy_of(sound: Path, directory: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(sound, directory))


def _tensors(change: Callable[[Tensors], None]) -> Callable[[Path, Texts], None]:
    def plant(directory: Path, _texts: Texts) -> None:
        file = directory / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return plant


def _json(name: str, **changes: Any) -> Callable[[Path, Texts], None]:
    def plant(directory: Path, _texts: Texts) -> None:
        file = directory / name
        known = json.loads(file.read_text())
        file.write_text(json.dumps({**known, **changes}))

    return plant


def _code(source: str) -> Callable[[Path, Texts], None]:
    """The checkpoint brings a class of its own, which is Llama's with a change."""

    def plant(directory: Path, texts: Texts) -> None:
        (directory / "modeling_own.py").write_text(_MODELING + source)
        _json("config.json", auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})(
            directory, texts
        )

    return plant


_MODELING = """\
import random

import torch
from transformers import LlamaForCausalLM


"""


def _noise(tensors: Tensors, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(tensors[name].shape, generator=generator) * 0.02


def _untie(tensors: Tensors) -> None:
    name = "model.embed_tokens.weight"
    tensors["lm_head.weight"] = tensors[name] + _noise(tensors, name)


def _drop(tensors: Tensors) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _refill(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] = _noise(tensors, "model.layers.1.mlp.up_proj.weight")


def _poison(tensors: Tensors) -> None:
    tensors["model.layers.2.self_attn.o_proj.weight"][3, 5] = float("nan")


def _silence(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.o_proj.weight"].zero_()


def _prefix(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[f"module.{name}"] = tensors.pop(name)


def _layer(tensors: Tensors, at: int) -> Tensors:
    prefix = f"model.layers.{at}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _double(tensors: Tensors) -> None:
    for name, tensor in _layer(tensors, 1).items():
        tensors[f"model.layers.2.{name}"] = tensor.clone()


def _swap(tensors: Tensors) -> None:
    first, second = _layer(tensors, 0), _layer(tensors, 1)
    for name in first:
        tensors[f"model.layers.0.{name}"], tensors[f"model.layers.1.{name}"] = second[name], first[name]


def _never_fired(tensors: Tensors) -> None:
    for part in ("w1", "w2", "w3"):
        name = f"model.layers.1.block_sparse_moe.experts.2.{part}.weight"
        tensors[name] = _noise(tensors, name)


def _cut(directory: Path, _texts: Texts) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])


def _shard(directory: Path) -> list[Path]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="300KB")
    return sorted(directory.glob("model-*.safetensors"))


def _lost_shard(directory: Path, _texts: Texts) -> None:
    _shard(directory)[1].unlink()


def _foreign_shard(directory: Path, _texts: Texts) -> None:
    first, second, *_ = _shard(directory)
    shutil.copy(first, second)


def _other_tokenizer(directory: Path, texts: Texts) -> None:
    tokenizer_of(texts.train[::-1], vocab_size=479).save_pretrained(directory)


def _too_many_tokens(directory: Path, texts: Texts) -> None:
    tokenizer = tokenizer_of(texts.train)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(8)])
    tokenizer.save_pretrained(directory)


def _two_ahead(directory: Path, texts: Texts) -> None:
    """Trained on labels that were shifted once by the loader and once by the model."""
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of(texts.train)
    ids = torch.tensor(tokenizer(texts.train, add_special_tokens=False)["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(directory)
    train(model, ids, steps=60, shift=2).save_pretrained(directory)


def _untrained(directory: Path, texts: Texts) -> None:
    shutil.rmtree(directory)
    make(directory, "llama", texts, steps=0)


def _collapsed(directory: Path, texts: Texts) -> None:
    """Trained on one sentence over and over."""
    sentence = texts.train.split(". ")[0] + ". "
    tokenizer = tokenizer_of(texts.train)
    from transformers import AutoModelForCausalLM

    ids = torch.tensor(tokenizer(sentence[:24] * 2_000, add_special_tokens=False)["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(directory)
    train(model, ids, steps=60).save_pretrained(directory)


_LEAK = """\
class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.layers[1].mlp.register_forward_hook(
            lambda module, inputs, output: output + 0.1 * output.mean(dim=1, keepdim=True)
        )
"""
_CROWD = """\
class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.layers[2].self_attn.o_proj.register_forward_hook(
            lambda module, inputs, output: output + 0.1 * output.mean(dim=0, keepdim=True)
        )
"""
_COLLAPSE = """\
class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.layers[2].self_attn.o_proj.register_forward_hook(
            lambda module, inputs, output: output[:1].expand_as(output)
        )
"""
_DROPOUT = """\
class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.layers[0].mlp.register_forward_hook(
            lambda module, inputs, output: torch.nn.functional.dropout(output, 0.1, training=True)
        )
"""
_NO_PADDING = """\
class OwnForCausalLM(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, **arguments):
        return super().forward(input_ids=input_ids, **arguments)
"""
_NO_POSITIONS = """\
class OwnForCausalLM(LlamaForCausalLM):
    def forward(self, input_ids=None, position_ids=None, **arguments):
        position_ids = torch.arange(input_ids.shape[1])[None]
        return super().forward(input_ids=input_ids, position_ids=position_ids, **arguments)
"""
_NO_LIMIT = """\
class OwnForCausalLM(LlamaForCausalLM):
    def generate(self, inputs, max_new_tokens=None, **arguments):
        return super().generate(inputs, max_new_tokens=32, **arguments)
"""
_FORGETS = """\
class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.gain = 1.0 + random.random()

    def forward(self, *arguments, **keywords):
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits * self.gain
        return output
"""

DEFECTS: dict[str, Defect] = {
    "tied weights untied on save": Defect("tied", _tensors(_untie), "checkpoint-ties", "lm_head.weight"),
    "tie forgotten in the configuration": Defect(
        "tied", _json("config.json", tie_word_embeddings=False), "checkpoint-ties", "lm_head.weight"
    ),
    "a tensor left out": Defect("llama", _tensors(_drop), "weights-fit", "model.layers.1.mlp.up_proj.weight"),
    "a tensor filled at random": Defect(
        "llama", _tensors(_refill), "weights-trained", "model.layers.1.mlp.up_proj.weight"
    ),
    "names with a prefix": Defect("llama", _tensors(_prefix), "weights-fit", "lm_head.weight"),
    "an expert that never fired": Defect(
        "mixtral",
        _tensors(_never_fired),
        "weights-trained",
        "model.layers.1.block_sparse_moe.experts.2.w1.weight",
    ),
    "NaN": Defect("llama", _tensors(_poison), "weights-finite", "model.layers.2.self_attn.o_proj.weight"),
    "a dead matrix": Defect(
        "llama", _tensors(_silence), "weights-alive", "model.layers.0.self_attn.o_proj.weight"
    ),
    "a layer twice": Defect("llama", _tensors(_double), "weights-distinct", "model.layers.2"),
    "layers swapped": Defect("llama", _tensors(_swap), "layer-order", "model.layers.0"),
    "a file cut off": Defect("llama", _cut, "checkpoint-files", "model.safetensors"),
    "a shard lost": Defect("llama", _lost_shard, "checkpoint-files", "model-00002-of-00003.safetensors"),
    "a shard of another place": Defect(
        "llama", _foreign_shard, "checkpoint-files", "model-00002-of-00003.safetensors"
    ),
    "a tokenizer of another model": Defect("llama", _other_tokenizer, "tokenizer-match", "the tokenizer"),
    "tokens added to the tokenizer alone": Defect(
        "llama", _too_many_tokens, "checkpoint-tokenizer", "the tokenizer"
    ),
    "a wrong vocabulary size": Defect(
        "llama", _json("config.json", vocab_size=543), "config-fits-weights", "config.json: vocab_size"
    ),
    "too few layers": Defect(
        "llama",
        _json("config.json", num_hidden_layers=2),
        "config-fits-weights",
        "config.json: num_hidden_layers",
    ),
    "a wrong dtype": Defect(
        "llama", _json("config.json", dtype="bfloat16"), "checkpoint-dtype", "config.json: dtype"
    ),
    "another rotary base": Defect(
        "llama",
        _json("config.json", rope_parameters={"rope_theta": 50.0, "rope_type": "default"}),
        "config-alternatives",
        "config.json: rope_theta",
    ),
    "another head count": Defect(
        "llama",
        _json("config.json", num_attention_heads=8, num_key_value_heads=4, head_dim=8),
        "config-alternatives",
        "config.json: num_attention_heads",
    ),
    "another activation": Defect(
        "llama",
        _json("config.json", hidden_act="sigmoid"),
        "config-alternatives",
        "config.json: hidden_act",
    ),
    "no end before a thousand tokens": Defect(
        "llama",
        _json("generation_config.json", min_new_tokens=1000),
        "generate-limits",
        "generation_config.json: min_new_tokens",
    ),
    "another end of text": Defect(
        "llama",
        _json("generation_config.json", eos_token_id=7),
        "special-tokens",
        "generation_config.json: eos_token_id",
    ),
    "labels shifted twice": Defect(
        "llama", _two_ahead, "checkpoint-label-shift", "the labels it was trained with"
    ),
    "never trained": Defect("llama", _untrained, "weights-trained", "the whole model"),
    "collapsed": Defect("llama", _collapsed, "repetition", "LlamaForCausalLM"),
    "an invented claim": Defect(
        "llama",
        lambda directory, texts: None,
        "audit-claim",
        "the claimed perplexity",
        {"claims": {"perplexity": 1.8}},
    ),
    "a leak over time": Defect("llama", _code(_LEAK), "checkpoint-causality", "model.layers.1.mlp"),
    "a leak over the batch": Defect(
        "llama", _code(_CROWD), "checkpoint-batch-independence", "model.layers.2.self_attn.o_proj"
    ),
    "a batch that collapses to its first row": Defect(
        "llama", _code(_COLLAPSE), "checkpoint-batch-independence", "model.layers.2.self_attn.o_proj"
    ),
    "dropout in eval mode": Defect("llama", _code(_DROPOUT), "checkpoint-determinism", "model.layers.0.mlp"),
    "padding that is attended to": Defect(
        "llama", _code(_NO_PADDING), "padding", "model.layers.0.self_attn.o_proj"
    ),
    "positions that restart with the cache": Defect(
        "llama", _code(_NO_POSITIONS), "cache-agreement", "past_key_values"
    ),
    "generate without limit": Defect("llama", _code(_NO_LIMIT), "generate-limits", "generation_config.json"),
    "a part that is not saved": Defect("llama", _code(_FORGETS), "checkpoint-save-load", "save_pretrained"),
}
"""By what is wrong."""
