"""What is left on disk is whole: tensors, ties, configuration, tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.artifact import Unusable, read_checkpoint
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.probe import Category, Measurement, Probe

_ROUND_TRIP_DOCUMENTS = 32
_ROUND_TRIP_TOKENS = 256
_LEAST_ROUND_TRIP = 0.9
_OF_SHA256 = 64  # hexadecimal digits
_ALLOWED = "tensors, ties, configuration and tokenizer fit each other"


def _artifact(bench: ClaimBench) -> Measurement:
    problem = next(_problems(bench), None)
    if problem is not None:
        component, told = problem
        return Measurement(
            passed=False, measured="do not fit", allowed=_ALLOWED, component=component, detail=told
        )
    return Measurement(passed=True, measured=f"{len(bench.weights)} tensors fit", allowed=_ALLOWED)


def _problems(bench: ClaimBench) -> Iterator[tuple[str, str]]:
    yield from _tensors(bench)
    yield from _configuration(bench)
    yield from _tokenizer(bench)


def _tensors(bench: ClaimBench) -> Iterator[tuple[str, str]]:
    import torch

    state, weights = bench.model.state, bench.weights
    for name, entry in state.items():
        if name not in weights:
            continue  # tied, or loading would have failed
        stored = str(weights[name].dtype).removeprefix("torch.")
        if stored != entry.dtype:
            yield name, f"stored as {stored}, the model has {entry.dtype}"
        if entry.tied_to in weights and not torch.equal(weights[name], weights[entry.tied_to]):
            yield name, f"tied to {entry.tied_to} in model.py, but stored with other values"
    other = bench.records.last.get("dir")
    if isinstance(other, str) and other != bench.checkpoint:
        try:
            names = read_checkpoint(bench.artifact, other.rpartition("/")[2]).keys()
        except Unusable as error:
            yield f"ckpts/{other}", str(error)
            return
        if names != weights.keys():
            odd = min(names ^ weights.keys())
            yield odd, f"is in only one of the checkpoints {other} and {bench.checkpoint}"


def _configuration(bench: ClaimBench) -> Iterator[tuple[str, str]]:
    import torch

    config, state = bench.artifact.config, bench.model.state
    width = bench.model(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
    # A head that is tied need not be there at all: the model may use the embedding itself.
    tables = [name for name, one in state.items() if one.is_parameter and one.shape[:1] == (width,)]
    tables = [name for name in tables if len(state[name].shape) == 2]
    tied = next((name for name in tables if state[name].tied_to != name), None)
    untied = [name for name in tables if state[name].shape == state[tables[0]].shape]
    if config.get("tie_word_embeddings") is True and tied is None and len(untied) > 1:
        yield untied[-1], f"config.json says tie_word_embeddings, yet it is not {untied[0]}"
    if config.get("tie_word_embeddings") is False and tied is not None:
        yield tied, f"tied to {state[tied].tied_to}, config.json says tie_word_embeddings is false"
    claimed = config.get("vocab_size")
    if isinstance(claimed, int) and claimed != width:
        yield "config.json", f"vocab_size {claimed}, the logits are {width} wide"
    if width < bench.corpus.vocab_size:
        yield "config.json", f"logits for {width} tokens, the tokenizer has {bench.corpus.vocab_size}"


def _tokenizer(bench: ClaimBench) -> Iterator[tuple[str, str]]:
    corpus = bench.corpus
    recorded = corpus.manifest.tokenizer.sha256
    file = corpus.directory / "tokenizer" / "tokenizer.json"
    if len(recorded) == _OF_SHA256 and hashlib.sha256(file.read_bytes()).hexdigest() != recorded:
        yield "data/tokenizer/tokenizer.json", "is not the one that the shards were made with"
        return
    documents = list(_documents(bench))
    same = sum(corpus.encode(corpus.decode(tokens)) == tokens for tokens in documents)
    agreeing = sum(_agreement(corpus.encode(corpus.decode(tokens)), tokens) for tokens in documents)
    if documents and agreeing / len(documents) < _LEAST_ROUND_TRIP:
        yield (
            "data/tokenizer/tokenizer.json",
            f"{same} of {len(documents)} held-out documents are the same after decoding and encoding",
        )


def _documents(bench: ClaimBench) -> Iterator[list[int]]:
    """The openings of held-out documents, without their end markers."""
    import numpy as np

    stream = bench.corpus.stream(Split.HELDOUT)
    tokens = stream.read(0, _ROUND_TRIP_DOCUMENTS * 4 * _ROUND_TRIP_TOKENS)
    ends = np.flatnonzero(tokens == bench.corpus.eos)
    for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=False):
        if 0 < end - start <= _ROUND_TRIP_TOKENS * 4:
            yield tokens[start:end].tolist()


def _agreement(first: list[int], second: list[int]) -> float:
    """Share of tokens in which two lists agree, counted from both ends."""
    shorter = min(len(first), len(second))
    front = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    back = next((i for i in range(shorter - front) if first[-1 - i] != second[-1 - i]), shorter - front)
    return (front + back) / max(len(first), len(second), 1)


ARTIFACT = Probe(
    name="artifact",
    category=Category.ARTIFACT,
    meaning="the checkpoint, config.json, model.py and the tokenizer belong together",
    threshold=(
        "every tensor in the model's dtype, tied weights equal, the same tensors in every checkpoint,"
        " vocabulary as"
        f" wide as the logits, the tokenizer of the manifest, {_LEAST_ROUND_TRIP:.0%} of a held-out text"
        f" the same"
        " after decoding and encoding"
    ),
    threshold_source=(
        "exact, but for tokenizers that normalise text, of which a tenth may come out differently"
    ),
    usual_causes=(
        "weights saved without their ties or in another precision",
        "config.json edited after training",
        "a tokenizer other than the one that the data were made with",
    ),
    run=_artifact,
)
