"""Generation sanity: is what the model writes language, measured between two baselines, not by eye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.verify import GenerationSample, Judgement
from ml_intern_cli.judge.artifact import Artifact, count_parameters
from ml_intern_cli.judge.checks.criterion import Criterion, judgement
from ml_intern_cli.judge.checks.yardstick import Text, Yardstick
from ml_intern_cli.judge.corpus import Corpus
from ml_intern_cli.judge.reference import NGramReference
from ml_intern_cli.judge.sampling import sample

if TYPE_CHECKING:
    from ml_intern_cli.judge.confinement.hosted import HostedModel

PROMPTS = ("Once upon a time,", "The", "")
NEW_TOKENS = 100
"""Source of both: the seed's first check."""

_MOST_UNPROMPTED = 16
# Parameters x unprompted samples: without a cache, generation costs seconds at 1M and a minute at 100M.
_WORK = 1.6e8

# Measured with a 1M DeepSeek-V3 on builtin:stories, batches of 2,048 tokens: likeness -0.3 after 20 steps,
# 0.4 after 80 (and for text drawn from bigrams), 0.5 after 100, 0.65 after 200, 0.8 after 300, 0.9 after 600.
_LEAST_LIKENESS = 0.6  # of all samples together
_LEAST_SAMPLE_LIKENESS = 0.4  # of one: a mean over 100 tokens strays by about 0.1
_LEAST_DISTINCT = 0.5  # share of the held-out text's distinct 3-grams; held-out text itself stays above 0.9
_LEAST_KNOWN = 0.8  # share of the held-out text's known words; 0.7 after 20 steps, 0.96 after 600


def judge_generation(
    artifact: Artifact,
    model: HostedModel,
    corpus: Corpus,
    reference: NGramReference,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> tuple[tuple[GenerationSample, ...], Judgement, tuple[Text, ...]]:
    """Samples after the three prompts and without one, and judges each and all. Raises Unusable.

    Returns:
        The three as they are shown, the verdict on all, and all.
    """
    yardstick = Yardstick.of(corpus, reference, length=NEW_TOKENS, seed=seed)
    unprompted = int(max(1, min(_MOST_UNPROMPTED, _WORK / max(1, count_parameters(model)))))
    prompts = [[corpus.eos, *corpus.encode(prompt)] for prompt in PROMPTS] + [[corpus.eos]] * unprompted
    written = sample(
        artifact,
        model,
        prompts,
        new_tokens=NEW_TOKENS,
        context=artifact.seq_len,
        seed=seed,
        progress=progress,
    )
    texts = [Text(prompt, tokens) for prompt, tokens in zip(prompts, written, strict=True)]
    samples = tuple(
        GenerationSample(
            prompt=prompt,
            output=corpus.decode(text.tokens),
            judgement=judgement(_criteria(yardstick, [text], least_likeness=_LEAST_SAMPLE_LIKENESS)),
        )
        for prompt, text in zip(PROMPTS, texts, strict=False)  # the unprompted ones are not shown
    )
    criteria = _criteria(yardstick, texts, least_likeness=_LEAST_LIKENESS)
    criteria += [
        Criterion(False, f"the sample after {sample.prompt!r} fails")
        for sample in samples
        if sample.judgement.verdict is Verdict.FAIL
    ]
    return samples, judgement(criteria), tuple(texts)


def _criteria(yardstick: Yardstick, texts: Sequence[Text], *, least_likeness: float) -> list[Criterion]:
    likeness, distinct, known = yardstick.likeness(texts), yardstick.distinct(texts), yardstick.known(texts)
    size = f"{len(texts)} samples: " if len(texts) > 1 else ""
    return [
        Criterion(
            likeness >= least_likeness,
            f"{size}likeness to held-out text measured {likeness:.2f} (shuffled words 0, held-out text 1), "
            f"allowed ≥ {least_likeness}",
        ),
        Criterion(
            distinct >= _LEAST_DISTINCT,
            f"distinct 3-grams {distinct:.2f} of held-out text's, allowed ≥ {_LEAST_DISTINCT}",
        ),
        Criterion(
            known >= _LEAST_KNOWN, f"known words {known:.2f} of held-out text's, allowed ≥ {_LEAST_KNOWN}"
        ),
    ]
