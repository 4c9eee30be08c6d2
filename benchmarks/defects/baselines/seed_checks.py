"""The six checks of the seed document, to the letter: on the logs, the samples, the stderr, the size.

Where the letter leaves it to a reader, this reading is taken: a sample is recognisable language when half
of its pairs of neighbouring words stand somewhere in the training text; what the stderr scan finds has
nobody to explain it, so it fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise

from benchmarks.defects.baselines.run_folder import Alarm, Run

_PROMPTS = ("Once upon a time,", "The", "")
_NEW_TOKENS = 100
_SCAN = re.compile(r"Traceback|RuntimeError|Warning|trust_remote_code|Stopping .*dataloader workers")
_LEAST_KNOWN_PAIRS = 0.5


def seed_checks(run: Run) -> Iterator[Alarm]:
    """What fails, in the order of the checks."""
    yield from _generation(run)
    yield from _loss(run)
    gap = abs(run.final_eval_loss - run.final_train_loss)
    if run.task != "regression" and not gap < 0.5:
        yield Alarm(f"eval tracks train: {gap:.3f}", "reporting")
    consumed = run.last.get("tokens", run.last.get("rows", 0))
    if not consumed >= 0.7 * run.planned:
        yield Alarm(f"data consumption: {consumed} of {run.planned}", "reporting")
    log = run.path / "train.stderr"
    found = _SCAN.search(log.read_text(errors="replace")) if log.exists() else None
    if found:
        yield Alarm(f"stderr: {found[0]}", "training")
    yield from _size(run)


def _loss(run: Run) -> Iterator[Alarm]:
    if run.outcomes < 2:
        return
    uniform = math.log(run.outcomes)
    for name, loss in (("train", run.final_train_loss), ("eval", run.final_eval_loss)):
        if (run.task == "language" and not 0.1 * uniform < loss < uniform) or not loss < uniform:
            yield Alarm(f"loss sanity: {name} {loss:.3f}", "reporting")


def _size(run: Run) -> Iterator[Alarm]:
    try:
        actual = sum(parameter.numel() for parameter in run.model.parameters())
    except Exception as error:  # noqa: BLE001, whatever the path's code raises
        yield Alarm(f"param count: {type(error).__name__}", "model")
        return
    if abs(actual / run.target_params - 1) > 0.15:
        yield Alarm(f"param count: {actual} of {run.target_params}", "model")


def _generation(run: Run) -> Iterator[Alarm]:
    if run.task != "language":
        return
    try:
        shares = [_known_pairs(run, prompt) for prompt in _PROMPTS]
    except Exception as error:  # noqa: BLE001, whatever the path's code raises
        yield Alarm(f"generation: {type(error).__name__}", "model")
        return
    if min(shares) < _LEAST_KNOWN_PAIRS:
        yield Alarm(f"generation: {min(shares):.2f} of a sample's word pairs are known", "model")


def _known_pairs(run: Run, prompt: str) -> float:
    """The share of a sample's word pairs that the training text has."""
    import torch
    from tokenizers import Tokenizer

    from benchmarks.defects.language_score import split

    tokenizer = Tokenizer.from_file(str(run.data / "tokenizer" / "tokenizer.json"))
    text = tokenizer.decode(split(run.data, "train")[:200_000].tolist())
    known = set(pairwise(text.split()))
    ids = tokenizer.encode(prompt).ids or [int(run.manifest["tokenizer"]["eos_token_id"])]
    start, generator = len(ids), torch.Generator().manual_seed(0)
    with torch.no_grad():
        while len(ids) < start + _NEW_TOKENS:
            output = run.model(torch.tensor([ids[-int(run.settings["seq_len"]) :]]))
            logits = output if isinstance(output, torch.Tensor) else output[0]
            top = (logits[0, -1].float() / 0.8).topk(50)
            ids.append(int(top.indices[torch.multinomial(top.values.softmax(-1), 1, generator=generator)]))
    words = tokenizer.decode(ids).split()
    pairs = list(pairwise(words))
    return sum(pair in known for pair in pairs) / max(1, len(pairs))
