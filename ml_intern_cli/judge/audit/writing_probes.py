"""What the model writes, and whether generate() keeps to its limits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.sampling import distinct_share, writings
from ml_intern_cli.judge.audit.text import encode
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.reference import NGramReference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_LEAST_DISTINCT = 0.5  # of the text's own share of distinct 3-grams
_LEAST_LIKENESS = 0.4
_REFERENCE_CHARS = 4_000_000
_LEAST_REFERENCE_TOKENS = 50_000  # fewer n-grams do not tell shuffled words from text
_LIMIT = 12


def _repetition(bench: AuditBench) -> Measurement:
    written = writings(bench).written
    length = min(written.shape[1], bench.context)
    text = bench.text.windows(length, limit=16)[:, 1:].tolist()
    share = distinct_share(written.tolist()) / max(distinct_share(text), 1e-6)
    passed = share >= _LEAST_DISTINCT
    return Measurement(
        passed=passed,
        measured=f"{share:.2f} of the text's variety, in {len(written)} samples of {written.shape[1]} tokens",
        allowed=f"≥ {_LEAST_DISTINCT}",
        component="" if passed else bench.files.architecture,
        detail="" if passed else f"it writes, for example: {_shown(bench, written[0])}",
    )


def _shown(bench: AuditBench, row: torch.Tensor) -> str:
    return repr(bench.tokenizer.decode(row.tolist()))[:160]


REPETITION = Probe(
    name="repetition",
    category=Category.MODEL,
    meaning="what the model writes does not go round in circles",
    threshold="distinct 3-grams, sampled at temperature 0.8, ≥ half of the text's own share",
    threshold_source="sound models measured from 0.9; one that repeats a word has a tenth",
    usual_causes=("a collapsed or hardly trained model", "positions that are the same for every token"),
    run=_repetition,
)


def _likeness(bench: AuditBench) -> Measurement:
    import numpy as np

    train = bench.question.train_text
    if train is None:
        return Measurement(passed=True, measured="no training text to compare with", allowed="-")
    ids = np.asarray(encode(bench.tokenizer, train[:_REFERENCE_CHARS]), dtype=np.int64)
    if len(ids) < _LEAST_REFERENCE_TOKENS:
        few = f"the training text has {len(ids):,} tokens, {_LEAST_REFERENCE_TOKENS:,} are needed"
        return Measurement(passed=True, measured=few, allowed="-")
    reference = NGramReference.fit(ids, vocab_size=bench.vocab_size, eos=0)
    samples = writings(bench)
    length = samples.written.shape[1]
    width = samples.prompts.shape[1]
    text = bench.text.windows(min(bench.context, width + length), limit=64)
    heldout = _log_prob(reference, text, width)
    shuffled = _log_prob(reference, _shuffled(bench, text), width)
    written = np.concatenate([samples.prompts.numpy(), samples.written.numpy()], axis=1)
    likeness = (_log_prob(reference, written, width) - shuffled) / max(heldout - shuffled, 1e-6)
    passed = likeness >= _LEAST_LIKENESS
    return Measurement(
        passed=passed,
        measured=f"{likeness:.2f} (shuffled words 0, the text itself 1)",
        allowed=f"≥ {_LEAST_LIKENESS}",
        component="" if passed else bench.files.architecture,
        detail="" if passed else f"it writes, for example: {_shown(bench, samples.written[0])}",
    )


def _log_prob(reference: NGramReference, rows: npt.NDArray[np.int64], width: int) -> float:
    """Mean log-probability per token after the first ``width`` of each row, in nats."""
    import numpy as np

    scores = [reference.log_probs(row[width:], history=row[:width].tolist()) for row in rows]
    return float(np.concatenate(scores).mean())


def _shuffled(bench: AuditBench, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows with their words in random order, cut to the same length."""
    import numpy as np

    chance = random.Random(bench.question.seed)  # noqa: S311, a shuffle, no secret
    shuffled = []
    for row in rows.tolist():
        words = bench.tokenizer.decode(row).split(" ")
        chance.shuffle(words)
        ids = encode(bench.tokenizer, " ".join(words))
        shuffled.append((ids * 2)[: len(row)])
    return np.asarray(shuffled, dtype=np.int64)


LIKENESS = Probe(
    name="likeness",
    category=Category.MODEL,
    meaning="what the model writes is like its training text, more than shuffled words are",
    threshold="log-probability under 5-grams of the training text: ≥ 0.4 (shuffled words 0, text 1)",
    threshold_source="a 1M model reaches 0.4 after 80 steps of training and 0.9 after 600",
    usual_causes=("a model that was hardly trained", "a tokenizer other than the one trained with"),
    run=_likeness,
)


def _limits(bench: AuditBench) -> Measurement:
    import torch

    model = bench.model
    if not hasattr(model, "generate") or not model.can_generate():
        return Measurement(passed=True, measured="it has no generate()", allowed="-")
    settings = model.generation_config
    ids = bench.probed_ids(1)[:, :4]
    arguments: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    with bench.foreign_code("generate"), torch.inference_mode():
        torch.manual_seed(bench.question.seed)
        written = model.generate(ids, max_new_tokens=_LIMIT, **arguments).shape[1] - ids.shape[1]
    problems = []
    if written > _LIMIT:
        problems.append(
            ("generation_config.json", f"generate(max_new_tokens={_LIMIT}) wrote {written} tokens")
        )
    end = bench.tokenizer.eos_token_id
    if end is not None:
        stopped = _stops_at(bench, ids, end, arguments)
        if stopped != 1:
            field = "min_new_tokens" if settings.min_new_tokens or settings.min_length else "eos_token_id"
            text = f"an end of text as first token did not end it: {stopped} tokens were written"
            problems.append((f"generation_config.json: {field}", text))
    return Measurement(
        passed=not problems,
        measured=f"{written} tokens for max_new_tokens={_LIMIT}"
        + (", ends at the end" if not problems else ""),
        allowed=f"≤ {_LIMIT}, and none after the end of text",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems),
    )


def _stops_at(bench: AuditBench, ids: torch.Tensor, end: int, arguments: dict[str, Any]) -> int:
    """How many tokens are written when the model is sure that the text has ended."""
    import torch

    head = bench.model.get_output_embeddings()

    def certain(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., end] = output.abs().max() + 100.0
        return output

    handle = head.register_forward_hook(certain)
    try:
        with bench.foreign_code("generate"), torch.inference_mode():
            whole = bench.model.generate(ids, max_new_tokens=_LIMIT, do_sample=False, **arguments)
    finally:
        handle.remove()
    return int(whole.shape[1] - ids.shape[1])


GENERATE_LIMITS = Probe(
    name="generate-limits",
    category=Category.ARTIFACT,
    meaning="generate() writes no more than it is asked for, and stops at the end of text",
    threshold="≤ max_new_tokens; one token where the first is the tokenizer's end of text",
    threshold_source="exact",
    usual_causes=(
        "min_length, min_new_tokens or suppressed tokens in generation_config.json",
        "an eos_token_id that is not the tokenizer's",
        "a generate() of its own that ignores its arguments",
    ),
    run=_limits,
)

PROBES = (REPETITION, LIKENESS, GENERATE_LIMITS)
