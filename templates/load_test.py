"""Loads the published model in every way its page describes, and says whether they agree.

    python load_test.py                       # the folder this file lies in
    python load_test.py --repo USER/NAME      # a download from the Hugging Face Hub
    python load_test.py --prompt "The"

Checked: the files are those that were published, by their checksums; the weights fit the bundled
`model.py`; plain `AutoModelForCausalLM` (no remote code), where transformers knows the architecture, gives
the same logits; the tokenizer gives back the text it was given; generation runs. The last line is the
result; the exit code is 0 when all of it holds, else 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

MAX_DIFFERENCE = 1e-4  # between the logits of the two implementations, in fp32
NEW_TOKENS = 40
TEXT = "Once upon a time, there was a little girl.\nShe said: “Good morning!”  — 3 · 7 = 21."


class LoadTestError(Exception):
    """The published files do not do what their page says."""


def main() -> int:
    """Run the test; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repo", help="repository on the Hub to download and test, such as user/name")
    parser.add_argument("--revision", help="commit or branch of that repository")
    parser.add_argument("--prompt", default="Once upon a time,")
    args = parser.parse_args()
    sys.dont_write_bytecode = True  # a published folder stays as it was published
    folder = (
        Path(snapshot_download(args.repo, revision=args.revision)) if args.repo else Path(__file__).parent
    )
    try:
        check_files(folder)
        print(f"load test passed: {run(folder, args.prompt)}")
    # Whatever a broken folder makes the libraries raise is the answer that was asked for.
    except Exception as error:  # noqa: BLE001
        print(f"load test failed: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


@torch.inference_mode()
def run(folder: Path, prompt: str) -> str:
    """Load, compare, generate; returns what was measured, in one line.

    Raises:
        LoadTestError: a check does not hold.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    check_tokenizer(tokenizer, vocab_size=config["vocab_size"])

    bundled = load_bundled(folder, config)
    input_ids = encode(tokenizer, prompt)
    if "model_type" in config:
        standard = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        compared = f"max |Δ logit| {compare(standard, bundled, input_ids):.1e}, "
        output = standard.generate(input_ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        print(f"{type(standard).__name__} from transformers, {type(bundled).__name__} from model.py")
    else:  # an architecture that transformers does not know
        compared = ""
        output = continue_greedily(bundled, input_ids, eos=tokenizer.eos_token_id)
        print(f"{type(bundled).__name__} from model.py")
    text = tokenizer.decode(output[0], skip_special_tokens=True)
    print(f"prompt: {prompt!r}\noutput: {text!r}")
    num_params = sum(parameter.numel() for parameter in bundled.parameters())  # tied weights once
    new_tokens = output.shape[1] - input_ids.shape[1]
    return f"{num_params:,} parameters, {compared}{new_tokens} tokens generated"


def check_files(folder: Path) -> None:
    """Raises LoadTestError unless every file has the checksum that SHA256SUMS gives."""
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise LoadTestError(f"{name} is not the file that was published")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, vocab_size: int) -> None:
    """Raises LoadTestError unless text survives encoding and decoding, and ids fit the model."""
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    if max(ids) >= vocab_size:
        raise LoadTestError(f"the tokenizer gives id {max(ids)}, the model has {vocab_size}")
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if decoded != TEXT:
        raise LoadTestError(f"the tokenizer does not give back its text: {decoded!r}")


def load_bundled(folder: Path, config: dict[str, Any]) -> nn.Module:
    """Build the class that config.json names from model.py, with the published weights in it.

    Raises:
        LoadTestError: names or shapes of the weights do not fit.
    """
    module = import_file(folder / "model.py")
    name = config["_model_class"]
    config_class = getattr(module, f"{name}Config")
    # The rest of config.json is for transformers.
    known = {key: value for key, value in config.items() if key in config_class.__dataclass_fields__}
    model: nn.Module = getattr(module, name)(config_class(**known))
    try:
        load_model(model, folder / "model.safetensors")
    except RuntimeError as error:
        raise LoadTestError(f"model.safetensors does not fit model.py: {error}") from error
    return model.eval()


def import_file(path: Path) -> ModuleType:
    """Import a module from a file outside the search path."""
    spec = importlib.util.spec_from_file_location("published_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    """Token ids (1, T) of the prompt; of the end-of-text token where the prompt is empty."""
    ids = tokenizer.encode(prompt, add_special_tokens=False) or [tokenizer.eos_token_id]
    return torch.tensor([ids])


def compare(standard: nn.Module, bundled: nn.Module, input_ids: Tensor) -> float:
    """The largest difference between both models' logits (1, T, V).

    Raises:
        LoadTestError: it exceeds ``MAX_DIFFERENCE``, or a logit is not finite.
    """
    expected = logits_of(standard(input_ids))
    found = logits_of(bundled(input_ids))
    if expected.shape != found.shape:
        raise LoadTestError(
            f"logits of shape {tuple(found.shape)} from model.py, {tuple(expected.shape)} expected"
        )
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise LoadTestError("a logit is not finite")
    difference = (expected - found).abs().max().item()
    if difference > MAX_DIFFERENCE:
        raise LoadTestError(
            f"model.py and transformers differ by {difference:.2e}, allowed {MAX_DIFFERENCE:.0e}"
        )
    return difference


def continue_greedily(model: nn.Module, input_ids: Tensor, *, eos: int | None) -> Tensor:
    """The ids (1, T) followed by the likeliest ones, up to the end of the text.

    Raises:
        LoadTestError: a logit is not finite.
    """
    for _ in range(NEW_TOKENS):
        logits = logits_of(model(input_ids))[:, -1]
        if not logits.isfinite().all():
            raise LoadTestError("a logit is not finite")
        input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], dim=1)
        if input_ids[0, -1] == eos:
            break
    return input_ids


def logits_of(output: Any) -> Tensor:
    """Logits (B, T, V): the output itself, its `.logits`, or the first of a tuple."""
    logits = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    assert isinstance(logits, Tensor)
    return logits


if __name__ == "__main__":
    sys.exit(main())
