"""Are embedding and output head one matrix, if and only if the configuration says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable, load_tensors, stored_tensors
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import setting
from ml_intern_cli.judge.probes.recording import recording

if TYPE_CHECKING:
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_TIED = (
    "tie_word_embeddings",
    "tie_embeddings",
    "tie_weights",
    "tied_embeddings",
    "weight_tying",
    "tie_lm_head",
)


def _tied_weights(bench: Bench) -> Measurement:
    declared = setting(bench.config, *_TIED)
    model = bench.drawn
    embedding = _embedding(bench, model)
    if not isinstance(declared, bool) or embedding is None:
        return Measurement(passed=True, measured="config.json does not say", allowed="-")
    found = {"as built": _is_tied(bench, model, embedding)}
    restored = bench.artifact.build(bench.seed + 1).eval()
    try:
        load_tensors(restored, stored_tensors(model))
        found["after loading a checkpoint"] = _is_tied(bench, restored, embedding)
    except Unusable:
        pass  # which save-load says
    wrong = [when for when, tied in found.items() if tied is not declared]
    says = "tied" if declared else "not tied"
    return Measurement(
        passed=not wrong,
        measured=", ".join(f"{'tied' if tied else 'not tied'} {when}" for when, tied in found.items()),
        allowed=says,
        component=f"{embedding}.weight" if wrong else "",
        detail=(
            f"{embedding}.weight and the output head are {'not ' if declared else ''}one {wrong[0]}, "
            f"config.json says {says}"
            if wrong
            else ""
        ),
    )


def _embedding(bench: Bench, model: nn.Module) -> str | None:
    """The nn.Embedding that is given the tokens."""
    import torch
    from torch import nn

    ids = bench.random_ids(1)[:, :8]
    with torch.no_grad(), recording(model, length=ids.shape[1]) as record:
        bench.logits(model, ids)
    for call in record.calls:
        if isinstance(call.module, nn.Embedding) and any(
            one.shape == ids.shape and one.equal(ids) for one in call.inputs
        ):
            return call.name
    return None


def _is_tied(bench: Bench, model: nn.Module, embedding: str) -> bool:
    """Whether the embedding of a token that is not in the text moves its logit."""
    import torch

    ids = bench.random_ids(1)[:, :8]
    absent = next(token for token in range(bench.vocab_size) if token not in ids[0].tolist())
    weight = model.get_parameter(f"{embedding}.weight")
    with torch.no_grad():
        before = bench.logits(model, ids)[..., absent]
        kept = weight[absent].clone()
        weight[absent] += 1.0 + kept.abs().max()
        after = bench.logits(model, ids)[..., absent]
        weight[absent] = kept
    return not before.equal(after)


TIED_WEIGHTS = Probe(
    name="tied-weights",
    category=Category.MODEL,
    meaning="embedding and output head share a matrix if, and only if, config.json says so; also once loaded",
    threshold="changing the embedding of a token that is not in the text moves that token's logit, or not",
    threshold_source="no other way leads from an absent token's embedding to the logits",
    usual_causes=(
        "the tie made before the weights are initialised anew",
        "tie_word_embeddings read nowhere",
        "the head copied in place of shared",
        "a loader that replaces parameters",
    ),
    run=_tied_weights,
)
