"""What lies in the directory: files, headers, dtypes, and whether configuration and tensors fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.files import CONFIG, DTYPES
from ml_intern_cli.judge.probe import Category, Measurement, Probe

_MOST_NAMED = 4
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")
_ALIASES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
}
"""One number, and what configurations call it."""


def _files(bench: AuditBench) -> Measurement:
    files = bench.files
    faults = [*files.faults]
    passed = not faults
    return Measurement(
        passed=passed,
        measured=f"{len(files.tensors)} tensors in {len(files.weight_files)} files" if passed else "broken",
        allowed="every file and every named tensor is there, whole",
        component=faults[0].component if faults else "",
        detail="; ".join(fault.text for fault in faults[:_MOST_NAMED]),
    )


FILES = Probe(
    name="checkpoint-files",
    category=Category.ARTIFACT,
    meaning="the weight files are whole, and hold exactly the tensors that their index names",
    threshold="every file and every named tensor is there, whole",
    threshold_source="the safetensors format: the header says how many bytes follow",
    usual_causes=(
        "a download or a copy that was cut off",
        "shards of two checkpoints in one directory",
        "an index that was not written anew",
    ),
    run=_files,
)


def _dtype(bench: AuditBench) -> Measurement:
    config = bench.files.config
    declared = config.get("dtype", config.get("torch_dtype"))
    sizes: Counter[str] = Counter()
    for tensor in bench.files.tensors.values():
        if tensor.dtype in DTYPES.values():
            sizes[tensor.dtype] += tensor.size
    if not sizes:
        raise Unusable("no tensor can be read")
    stored = sizes.most_common(1)[0][0]
    if declared is None or "quantization_config" in config:
        return Measurement(passed=True, measured=f"{stored}, none declared", allowed="-")
    passed = DTYPES.get(str(declared)) == stored
    return Measurement(
        passed=passed,
        measured=f"{stored} for {sizes[stored] / sizes.total():.0%} of the numbers",
        allowed=f"{declared}, as {CONFIG} says",
        component="" if passed else f"{CONFIG}: dtype",
    )


DTYPE = Probe(
    name="checkpoint-dtype",
    category=Category.ARTIFACT,
    meaning="most of the weights are stored in the dtype that config.json declares",
    threshold="the dtype of most numbers is the declared one",
    threshold_source="transformers loads in the declared dtype: another one rounds, or doubles memory",
    usual_causes=("weights that were converted without their configuration", "a configuration of another"),
    run=_dtype,
)


def _fit(bench: AuditBench) -> Measurement:
    loaded = bench.loaded
    problems = [(name, f"missing tensor {name}, filled at random") for name in loaded.missing]
    problems += [(text.split()[0], text) for text in loaded.mismatched]
    problems += [(name, f"unexpected tensor {name}, left out") for name in loaded.unexpected]
    problems += [("", text) for text in loaded.errors]
    counts = f"{len(loaded.missing)} missing, {len(loaded.unexpected)} unexpected, "
    return Measurement(
        passed=not problems,
        measured=counts + f"{len(loaded.mismatched)} of another shape",
        allowed="none",
        component=problems[0][0] if problems else "",
        detail=_listed([text for _, text in problems]),
    )


WEIGHTS_FIT = Probe(
    name="weights-fit",
    category=Category.ARTIFACT,
    meaning="the model that config.json describes has exactly the tensors that are stored",
    threshold="no tensor missing, unexpected or of another shape",
    threshold_source="transformers fills what is missing at random and leaves out what it does not know",
    usual_causes=(
        "a configuration of another size",
        "a tensor that was left out when the model was saved",
        "names with a prefix too many (module., _orig_mod.)",
    ),
    run=_fit,
)


def _config(bench: AuditBench) -> Measurement:
    problems = list(_disagreements(bench))
    return Measurement(
        passed=not problems,
        measured="agrees" if not problems else f"{len(problems)} disagreements",
        allowed="every size in config.json is that of the tensors",
        component=f"{CONFIG}: {problems[0][0]}" if problems else "",
        detail=_listed([text for _, text in problems]),
    )


def _disagreements(bench: AuditBench) -> Iterator[tuple[str, str]]:
    """Fields of config.json that the stored shapes contradict, and how."""
    config, tensors = bench.files.config, bench.files.tensors
    layers = {int(found[1]) for name in tensors if (found := _LAYER.search(name))}
    field, declared = _number(config, "num_hidden_layers")
    if layers and declared is not None and layers != set(range(declared)):
        yield field, f"{field} is {declared}, the tensors are of {len(layers)} layers ({_span(layers)})"
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for suffix, axis, field, wanted in _expected(config):
        ends = [name for name in shapes if name.endswith(suffix) and len(shapes[name]) == 2]
        for name in ends[:1]:
            if shapes[name][axis] != wanted:
                yield (
                    field,
                    f"{field} asks for {name} with {wanted:,} {_AXES[axis]}, it has {shapes[name][axis]:,}",
                )


_AXES = ("rows", "columns")


def _expected(config: Mapping[str, Any]) -> Iterator[tuple[str, int, str, int]]:
    """How tensors end, an axis, and the field that fixes its length."""
    vocab = config.get("vocab_size")
    hidden_field, hidden = _number(config, "hidden_size")
    heads_field, heads = _number(config, "num_attention_heads")
    if isinstance(vocab, int):
        for suffix in ("embed_tokens.weight", "wte.weight", "embed_in.weight", "lm_head.weight"):
            yield suffix, 0, "vocab_size", vocab
    if hidden is not None:
        for suffix in ("embed_tokens.weight", "wte.weight", "embed_in.weight"):
            yield suffix, 1, hidden_field, hidden
    wide = config.get("intermediate_size")
    if isinstance(wide, int) and not config.get("num_experts", config.get("n_routed_experts")):
        yield "mlp.up_proj.weight", 0, "intermediate_size", wide
    if hidden is None or heads is None:
        return
    width = config.get("head_dim") or hidden // max(1, heads)
    if "q_lora_rank" not in config and "qk_nope_head_dim" not in config and isinstance(width, int):
        yield "self_attn.q_proj.weight", 0, heads_field, heads * width
        groups = config.get("num_key_value_heads", heads)
        if isinstance(groups, int):
            yield "self_attn.k_proj.weight", 0, "num_key_value_heads", groups * width


def _number(config: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """What this configuration calls a number, and its value."""
    field = next((one for one in _ALIASES[name] if one in config), name)
    value = config.get(field)
    return field, value if isinstance(value, int) else None


def _span(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return "; ".join(texts[:_MOST_NAMED]) + more


CONFIG_FITS_WEIGHTS = Probe(
    name="config-fits-weights",
    category=Category.ARTIFACT,
    meaning="layers, heads, widths and vocabulary in config.json are those of the stored tensors",
    threshold="every size in config.json is that of the tensors",
    threshold_source="exact: shapes are whole numbers",
    usual_causes=("config.json of another model", "a vocabulary that was enlarged without its embedding"),
    run=_config,
)

PROBES = (FILES, DTYPE, WEIGHTS_FIT, CONFIG_FITS_WEIGHTS)
