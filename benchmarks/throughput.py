"""Training throughput of our DeepSeek-V3 against transformers' module.

    python benchmarks/throughput.py 1M 100M

Both sides take the same steps (forward, backward, clipping, AdamW) with the same configuration on the
same random tokens, in turns, and medians are compared. transformers' module is timed with both of its
experts implementations that fit, and each side with each precision that is any good here; the table
shows each side at its fastest.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_intern_cli.brains import blueprints
from ml_intern_cli.quantities import parse_params

Step = Callable[[], None]
Variant = tuple[str, str]  # side, settings
EXPERTS = ("eager", "grouped_mm")  # batched_mm copies a matrix per token: tens of gigabytes at 100M
TOO_SLOW = 3.0  # times the fastest of the same kind: not timed further


def main() -> None:
    """Prints one Markdown table for the sizes on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=["1M", "100M"], help="parameters, such as 1M")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each variant")
    parser.add_argument("--vocab-size", type=int, help="default: of the tokenizer trained offline")
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    blueprint = blueprints.load("deepseek-v3")
    print("| size | configuration | side | fastest with | tokens/s | ratio |")
    print("|---|---|---|---|---:|---:|")
    for size in arguments.sizes:
        params = parse_params(size)
        vocab_size = arguments.vocab_size or blueprint.tokenizers(params)[-1].vocab_size
        config: dict[str, Any] = dict(blueprint.solve(params, vocab_size=vocab_size).config)
        length = config["max_position_embeddings"]
        batch = max(1, arguments.tokens_per_step // length)
        fastest = compare(config, batch=batch, length=length, device=device, rounds=arguments.rounds)
        shape = (
            f"H {config['hidden_size']}, {config['num_hidden_layers']} layers,"
            f" {config['n_routed_experts']} experts, V {vocab_size}, {batch} × {length}"
        )
        for side, (settings, seconds) in fastest.items():
            speed, ratio = batch * length / seconds, fastest["transformers"][1] / seconds
            print(f"| {size} | {shape} | {side} | {settings} | {speed:,.0f} | {ratio:.2f} |", flush=True)


def compare(
    config: dict[str, Any], *, batch: int, length: int, device: torch.device, rounds: int
) -> dict[str, tuple[str, float]]:
    """Of each side the fastest settings and the median seconds of a step with them."""
    torch.manual_seed(0)
    tokens = torch.randint(config["vocab_size"], (batch, length + 1), device=device)
    steps: dict[Variant, Step] = {}
    warm: dict[str, float] = {}
    for precision in usable_precisions(device):
        name = str(precision).removeprefix("torch.")
        for side, experts in (("ours", None), *(("transformers", experts) for experts in EXPERTS)):
            model = build("own" if experts is None else "transformers", config).to(device)
            if experts is not None:
                model.model.set_experts_implementation(experts)
            step = training_step(model, tokens, precision)
            seconds = seconds_of(step, device)
            warm[side] = min(seconds, warm.get(side, seconds))
            if seconds <= TOO_SLOW * warm[side]:
                steps[side, name if experts is None else f"{name}, {experts}"] = step

    times: dict[Variant, list[float]] = {variant: [] for variant in steps}
    for _, (variant, step) in itertools.product(range(rounds), steps.items()):
        times[variant].append(seconds_of(step, device))
    medians = sorted((statistics.median(values), variant) for variant, values in times.items())
    return {side: (settings, seconds) for seconds, (side, settings) in reversed(medians)}


def usable_precisions(device: torch.device) -> list[torch.dtype]:
    """The precisions whose matrix product is not far slower here than the fastest one's."""
    seconds = {}
    for precision in (torch.float32, torch.bfloat16):
        matrix = torch.randn(512, 512, device=device, dtype=precision)
        product = partial(torch.mm, matrix, matrix)
        seconds[precision] = min(seconds_of(product, device) for _ in range(3))  # the first warms up
    return [precision for precision in seconds if seconds[precision] <= TOO_SLOW * min(seconds.values())]


def build(variant: str, config: dict[str, Any]) -> Any:
    """A model of the blueprint in training mode, with the weights of seed 0."""
    torch.manual_seed(0)
    blueprint = blueprints.load("deepseek-v3")
    module = load(blueprints.folder("deepseek-v3") / blueprint.VARIANTS[variant].file)
    names = module.DeepseekV3Config.__dataclass_fields__
    fields = {name: value for name, value in config.items() if name in names}
    return module.DeepseekV3(module.DeepseekV3Config(**fields)).train()


def load(path: Path) -> ModuleType:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def training_step(model: Any, tokens: Tensor, precision: torch.dtype) -> Step:
    """One optimizer step as train.py takes it: by the model's own loss where it has one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step() -> None:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=precision is torch.bfloat16):
            if hasattr(model, "loss"):
                loss = model.loss(inputs, targets)[0]
            else:
                logits = model(inputs).flatten(0, 1).float()
                loss = functional.cross_entropy(logits, targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_optimizer_step()

    return step


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of ``work``, with what the device still has queued."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
