"""Evaluate a checkpoint of this directory: its loss on unseen text, and what it writes.

    python eval.py [--checkpoint best|last] [--split val] [--tokens N]

Reads model.py, config.json, train_config.json, ckpts/ and ../data; prints the loss and a sample
per prompt, and appends the loss to eval.log. Evaluation runs in fp32, whatever the training ran in,
so that anybody who repeats it gets the same number. train.py evaluates with the same functions.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
PROMPTS = ("Once upon a time,", "The", "")  # the empty prompt starts from the end-of-text token
SAMPLE_TOKENS = 100
TEMPERATURE = 0.8
TOP_K = 50
EVAL_TOKENS = 40_960  # the most that one evaluation reads
BATCH_WINDOWS = 8


class CannotStart(Exception):
    """A file is missing, damaged, or does not fit the others; the message is for the user."""


def main() -> int:
    """Evaluate what the arguments name. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint of this directory.")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--split", choices=("train", "val", "heldout"), default="val")
    parser.add_argument("--tokens", type=int, help="how many to evaluate; default: as many as training did")
    arguments = parser.parse_args()
    try:
        pointer = read_json(HERE / "ckpts" / f"{arguments.checkpoint}.json", "step", "dir")
        settings = read_json(HERE / "train_config.json", "seq_len", "num_threads", "data_dir", "seed")
        seq_len = settings["seq_len"]
        torch.set_num_threads(settings["num_threads"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model().to(device)
        load_weights(model, HERE / "ckpts" / pointer["dir"] / "model.safetensors")
        data_dir = (HERE / settings["data_dir"]).resolve()
        manifest = read_json(data_dir / "manifest.json")
        num_tokens = arguments.tokens or pointer.get("eval_tokens", EVAL_TOKENS)
        tokens = Tokens(data_dir, manifest, split=arguments.split)
        batches = leading_batches(tokens, seq_len=seq_len, max_tokens=num_tokens)
        writer = Writer(data_dir, manifest, seq_len=seq_len)
    except CannotStart as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2

    loss, evaluated = evaluate(model, batches)
    line = f"step={pointer['step']} eval_loss={loss:.4f}"
    with (HERE / "eval.log").open("a", encoding="utf-8") as log:
        log.write(f"{line} split={arguments.split} tokens={evaluated}\n")
    print(f"{line} split={arguments.split} tokens={evaluated}")
    for prompt in PROMPTS:
        print(f"\nPROMPT: {json.dumps(prompt)}\nOUTPUT: {writer.write(model, prompt, seed=settings['seed'])}")
    return 0


# --- the model -----------------------------------------------------------------------------------


def build_model() -> nn.Module:
    """The model of model.py with the sizes of config.json and fresh weights.

    ``_model_class`` names the class and, with ``Config`` appended, its configuration; keys of
    config.json that the configuration lacks (they are for other loaders) are left out.

    Raises:
        CannotStart: the two files do not fit each other.
    """
    config = read_json(HERE / "config.json", "_model_class")
    module = importlib.import_module("model")
    name = config["_model_class"]
    try:
        model_class, config_class = getattr(module, name), getattr(module, f"{name}Config")
        fields = {field.name for field in dataclasses.fields(config_class)}
        model: nn.Module = model_class(config_class(**{k: v for k, v in config.items() if k in fields}))
    except (AttributeError, TypeError) as error:
        raise CannotStart(f"config.json does not fit model.py: {error!r}") from error
    return model


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied weights once, under the name that the model registered first."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of a checkpoint into ``model``.

    Raises:
        CannotStart: the file is missing, damaged, or of another model.
    """
    try:
        saved = load_file(path)
        if saved.keys() != unique_state(model).keys():
            raise CannotStart(f"{path}: holds the weights of another model")
        model.load_state_dict(saved, strict=False)  # tied names are absent, everything else was compared
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CannotStart(f"{path}: {error}") from error


def logits_of(output: Any) -> Tensor:
    """The logits (B, T, V) in what a model returned: a tensor, a tuple that starts with it, `.logits`."""
    if isinstance(output, Tensor):
        return output
    logits: Tensor = output[0] if isinstance(output, tuple) else output.logits
    return logits


# --- the data ------------------------------------------------------------------------------------


class Tokens:
    """The token ids of one split: its memory-mapped shard files, seen as one sequence."""

    def __init__(self, data_dir: Path, manifest: dict[str, Any], *, split: str) -> None:
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self._shards: list[NDArray[Any]] = []
        for shard in manifest["splits"][split]["shards"]:
            path = data_dir / shard["name"]
            if not path.is_file() or path.stat().st_size != shard["tokens"] * dtype.itemsize:
                raise CannotStart(
                    f"{path}: does not hold the {shard['tokens']} tokens that manifest.json names"
                )
            if shard["tokens"]:  # an empty file cannot be mapped
                self._shards.append(np.memmap(path, dtype=dtype, mode="r"))
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """``length`` consecutive ids from ``start``, across shard borders."""
        pieces = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for shard, end in zip(self._shards[first:], self._ends[first:], strict=True):
            offset = start - (int(end) - len(shard))
            pieces.append(shard[offset : offset + length])
            start, length = start + len(pieces[-1]), length - len(pieces[-1])
            if not length:
                break
        return np.concatenate(pieces).astype(np.int64)


def leading_batches(
    tokens: Tokens, *, seq_len: int, max_tokens: int, batch_windows: int = BATCH_WINDOWS
) -> Iterator[Tensor]:
    """The first windows of a split, always the same ones, as batches (B, T + 1).

    At least one window is given, however small ``max_tokens``; a split shorter than a window is one
    short window.

    Raises:
        CannotStart: the split has fewer than two tokens.
    """
    if len(tokens) < 2:
        raise CannotStart("a split with fewer than two tokens cannot be evaluated")
    length = min(seq_len, len(tokens) - 1)
    count = max(1, min(max_tokens, len(tokens) - 1) // length)

    def batches() -> Iterator[Tensor]:
        for first in range(0, count, batch_windows):
            starts = range(first * length, min(first + batch_windows, count) * length, length)
            yield torch.from_numpy(np.stack([tokens.window(start, length + 1) for start in starts]))

    return batches()


# --- loss and samples ----------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterator[Tensor]) -> tuple[float, int]:
    """Mean cross-entropy in nats per token over batches (B, T + 1), and the number of tokens."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for batch in batches:
            input_ids, targets = batch[:, :-1].to(device), batch[:, 1:].to(device)
            logits = logits_of(model(input_ids)).flatten(0, 1).float()
            total += functional.cross_entropy(logits, targets.flatten(), reduction="sum").item()
            count += targets.numel()
    finally:
        model.train(was_training)
    return total / count, count


class Writer:
    """Continues prompts with a model: top-k sampling, the context cropped to the training length."""

    def __init__(self, data_dir: Path, manifest: dict[str, Any], *, seq_len: int) -> None:
        path = data_dir / "tokenizer" / "tokenizer.json"
        if not path.is_file():
            raise CannotStart(f"{path}: not found")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._eos: int = manifest["tokenizer"]["eos_token_id"]
        self._seq_len = seq_len

    @torch.no_grad()
    def write(
        self, model: nn.Module, prompt: str, *, seed: int, is_over: Callable[[], bool] = lambda: False
    ) -> str:
        """The continuation of ``prompt``: up to 100 tokens, or to the end of the text.

        ``is_over`` is asked before every token and ends the text early.
        """
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        was_training = model.training
        model.eval()
        ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False).ids or [self._eos]
        prompt_tokens = len(ids)
        while len(ids) - prompt_tokens < SAMPLE_TOKENS and not is_over():
            context = torch.tensor([ids[-self._seq_len :]], device=device)
            logits = logits_of(model(context))[0, -1].float().cpu() / TEMPERATURE
            top = logits.topk(min(TOP_K, len(logits)))
            choice = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            ids.append(int(top.indices[choice]))
            if ids[-1] == self._eos:
                break
        model.train(was_training)
        text: str = self._tokenizer.decode(ids[prompt_tokens:])
        return text


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CannotStart: it is missing, not a JSON object, or lacks a required key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotStart(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CannotStart(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CannotStart(f"{path}: not a JSON object")
    missing = [key for key in required if key not in value]
    if missing:
        raise CannotStart(f"{path}: lacks {', '.join(missing)}")
    return value


if __name__ == "__main__":
    sys.exit(main())
