"""The files of a checkpoint, read without any library that builds models: names, headers, promises.

A safetensors file is eight bytes of length, a JSON header that names every tensor with its dtype, shape
and place, and the tensors' bytes. Source: github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_intern_cli.judge.artifact import Unusable

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MOST_JSON_BYTES = 64 << 20  # tokenizer.json of 250k entries has 30 MB
_MOST_HEADER_BYTES = 100_000_000  # what safetensors itself allows
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
    "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""How config.json and safetensors call the same thing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as a header describes it."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file, and which it is."""

    component: str
    text: str


@dataclass(frozen=True)
class Files:
    """One checkpoint directory."""

    directory: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. Raises Unusable."""
        return self.json(CONFIG)

    @property
    def architecture(self) -> str:
        """The class that config.json names; empty where it names none."""
        try:
            named = self.config.get("architectures")
        except Unusable:
            return ""
        return str(named[0]) if isinstance(named, list) and named else ""

    def json(self, name: str) -> dict[str, Any]:
        """A file that holds one JSON object. Raises Unusable."""
        file = self.directory / name
        try:
            if file.stat().st_size > _MOST_JSON_BYTES:
                raise Unusable(f"{name} is larger than {_MOST_JSON_BYTES >> 20} MiB")
            value = json.loads(file.read_bytes())
        except FileNotFoundError as error:
            raise Unusable(f"{name} is missing") from error
        except (OSError, ValueError, RecursionError) as error:
            raise Unusable(f"{name} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise Unusable(f"{name} holds a {type(value).__name__}, not an object")
        return value

    @cached_property
    def weight_map(self) -> dict[str, str]:
        """Tensor → file as the index says; empty without an index. Raises Unusable."""
        if not (self.directory / INDEX).exists():
            return {}
        named = self.json(INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(one, str) for one in named.values()):
            raise Unusable(f"{INDEX} has no weight_map of names to files")
        return named

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """The files that the weights are in, as the index or their names say. Raises Unusable."""
        if self.weight_map:
            return tuple(sorted(set(self.weight_map.values())))
        return (SINGLE,)

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with the weight files and their index."""
        return self._read[1]

    @property
    def tensors(self) -> dict[str, Stored]:
        """Every tensor whose header can be read, by name."""
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[dict[str, Stored], tuple[Fault, ...]]:
        try:
            names, weight_map = self.weight_files, self.weight_map
        except Unusable as error:
            return {}, (Fault(INDEX, str(error)),)
        tensors: dict[str, Stored] = {}
        faults: list[Fault] = []
        for name in names:
            try:
                found = _header(self.directory / name, name)
            except Unusable as error:
                faults.append(Fault(name, str(error)))
                continue
            twice = [one for one in found if one in tensors]
            faults += [Fault(name, f"{one} is in {tensors[one].file} too") for one in twice]
            tensors |= found
        broken = {fault.component for fault in faults}
        for name, file in weight_map.items():
            if file not in broken and (name not in tensors or tensors[name].file != file):
                faults.append(Fault(file, f"{INDEX} has {name} in {file}, which does not hold it"))
        if weight_map:
            unlisted = [one for one in tensors.values() if one.name not in weight_map]
            faults += [Fault(one.file, f"{one.name} is not in {INDEX}") for one in unlisted]
        return tensors, tuple(faults)


def _header(file: Path, name: str) -> dict[str, Stored]:
    """The tensors that a safetensors file describes. Raises Unusable: it is not one, or is cut off."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(_MOST_HEADER_BYTES, size - 8):
                raise Unusable(f"{name} is no safetensors file: its header would have {length:,} bytes")
            described = json.loads(opened.read(length))
    except FileNotFoundError as error:
        raise Unusable(f"{name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"{name} cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise Unusable(f"{name} has a header that is no object")
    described.pop("__metadata__", None)
    tensors, spans = {}, []
    for tensor, facts in described.items():
        stored, span = _described(name, tensor, facts)
        tensors[tensor] = stored
        spans.append((span, tensor))
    end = 0
    for (start, stop), tensor in sorted(spans):
        if start != end:
            raise Unusable(f"{name}: the bytes of {tensor} begin at {start:,}, expected {end:,}")
        end = stop
    if size - 8 - length != end:
        raise Unusable(f"{name} has {size - 8 - length:,} bytes of tensors, its header describes {end:,}")
    return tensors


def _described(file: str, tensor: str, facts: Any) -> tuple[Stored, tuple[int, int]]:
    """One entry of a header, and from where to where its bytes lie. Raises Unusable."""
    try:
        dtype, shape, (start, stop) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
        stored = Stored(tensor, file, str(dtype), shape)
        is_sane = stop - start == stored.size * _BYTES[dtype] and start >= 0 and min(shape, default=0) >= 0
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable(f"{file}: the header's entry of {tensor} is malformed") from error
    if not is_sane:
        raise Unusable(f"{file}: {tensor} {list(shape)} {dtype} does not take {stop - start:,} bytes")
    return stored, (start, stop)
