"""The samples that training shows: such as the checkpoint writes, and not copied from the training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.claims.bench import ClaimBench, place_in
from ml_intern_cli.judge.claims.ngrams import hashes, longest_run
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.sampling import TEMPERATURE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_FILE = "gen_samples.log"
_LENGTHS = (8, 16, 32)
_MOST_TRAIN_TOKENS = 10_000_000
_LEAST_TOKENS = 16  # a shorter sample says nothing
_COPIED_TIMES, _COPIED_LEAST = 1.5, 32
_SIGMAS = 5.0
_LEAST_SPREAD = 0.15  # nats; 19 own samples of 100 tokens measured 0.18 to 0.27, a few may show less


@dataclass(frozen=True, slots=True)
class _Claimed:
    """One row of the log, as tokens."""

    line: int
    prompt: list[int]
    tokens: list[int]


def _samples(bench: ClaimBench) -> Measurement:
    allowed = "as likely under the checkpoint as what it writes, and no more copied"
    claimed = _read(bench)
    if not claimed:
        return Measurement(passed=True, measured="no samples of the checkpoint are claimed", allowed=allowed)
    import numpy as np

    own = [(text.history, text.tokens) for text in bench.written if len(text.tokens) >= _LEAST_TOKENS]
    train = bench.corpus.stream(Split.TRAIN).read(0, _MOST_TRAIN_TOKENS)
    known = {length: np.unique(hashes(train, length)) for length in _LENGTHS}
    runs = [longest_run(np.array(tokens), known) for _, tokens in own]
    most = max(_COPIED_LEAST, _COPIED_TIMES * max(runs, default=0))
    expected = _surprises(bench, [_re_encoded(bench, prompt, tokens) for prompt, tokens in own])
    found = _surprises(bench, [(one.prompt, one.tokens) for one in claimed])
    spread = max(_LEAST_SPREAD, float(expected.std())) if len(expected) else 1.0
    usual = float(expected.mean()) if len(expected) else float(found.mean())
    for one, surprise in zip(claimed, found, strict=True):
        shared = _LEAST_TOKENS / min(len(one.tokens), 100)
        run = longest_run(np.array(one.tokens), known)
        place = place_in(_FILE, one.line)
        if run > most:
            told = (
                f"{run} tokens in a row stand in the training text, the judge's own samples have ≤"
                f" {max(runs)}"
            )
            return Measurement(
                passed=False,
                measured=f"{run} tokens copied",
                allowed=f"≤ {most:.0f}",
                component=place,
                detail=told,
            )
        if surprise > usual + _SIGMAS * spread * (1 + shared):
            told = (
                f"costs {surprise:.2f} nats per token under the checkpoint, what it writes itself {usual:.2f}"
            )
            return Measurement(
                passed=False,
                measured=f"{surprise:.2f} nats",
                allowed=f"≤ {usual + _SIGMAS * spread * (1 + shared):.2f}",
                component=place,
                detail=told,
            )
    return Measurement(
        passed=True,
        measured=f"{len(claimed)} samples at {float(found.mean()):.2f} nats, the judge's own at {usual:.2f}",
        allowed=allowed,
    )


def _read(bench: ClaimBench) -> list[_Claimed]:
    """The samples that are claimed for the judged checkpoint, encoded again."""
    try:
        text = leavings.read_text(bench.artifact.directory, _FILE, errors="replace")
    except OSError:
        return []
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        row = leavings.parse_object(line)
        if not row or row.get("step") != bench.records.best_step or not isinstance(row.get("output"), str):
            continue
        prompt = bench.corpus.encode(str(row.get("prompt") or ""))
        tokens = bench.corpus.encode(row["output"])[: bench.artifact.seq_len]
        if len(tokens) >= _LEAST_TOKENS:
            rows.append(_Claimed(number, prompt or [bench.corpus.eos], tokens))
    return rows


def _re_encoded(bench: ClaimBench, prompt: list[int], tokens: list[int]) -> tuple[list[int], list[int]]:
    """As a claimed sample comes: its text up to the end of a document, encoded again."""
    end = tokens.index(bench.corpus.eos) if bench.corpus.eos in tokens else len(tokens)
    return prompt, bench.corpus.encode(bench.corpus.decode(tokens[:end])) or tokens


def _surprises(bench: ClaimBench, texts: Sequence[tuple[list[int], list[int]]]) -> Floats:
    """Mean negative log-probability ``(N,)`` of each text at the judge's temperature, in nats per token."""
    import numpy as np
    import torch

    found = []
    for prompt, tokens in texts:
        ids = torch.tensor([[*prompt, *tokens][-bench.artifact.seq_len - 1 :]])
        log_probs = torch.log_softmax(bench.model(ids[:, :-1])[0] / TEMPERATURE, dim=-1)
        of_tokens = log_probs.gather(1, ids[0, 1:, None])[:, 0]
        found.append(-float(of_tokens[-min(len(tokens), len(of_tokens)) :].mean()))
    return np.array(found)


SAMPLES = Probe(
    name="samples",
    category=Category.REPORTING,
    meaning=(
        "the samples in gen_samples.log are such as the checkpoint writes, and not copied from the"
        " training text"
    ),
    threshold=(
        f"no run shared with the training text longer than {_COPIED_LEAST} tokens and {_COPIED_TIMES}"
        f" times the"
        f" longest of the judge's own samples; a surprise within {_SIGMAS:.0f} standard deviations of theirs"
    ),
    threshold_source=(
        "the judge's own samples of the same checkpoint, decoded and encoded again like the claimed ones"
    ),
    usual_causes=(
        "samples pasted from the training set or written by another model",
        "samples of another checkpoint",
    ),
    run=_samples,
)
