"""What the text says of the model: loss between baselines, labels, context, tokenizer, claims, overlap."""

from __future__ import annotations

import math
import re
from typing import Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.sampling import own_loss, variety
from ml_intern_cli.judge.audit.text import encode
from ml_intern_cli.judge.probe import Category, Measurement, Probe

_ROUND_TRIP_CHARS = 20_000
_MOST_UNKNOWN = 0.01  # of the tokens
_SHIFTS = (-2, -1, 0, 1, 2)
_SIGMAS = 4.0
_CLAIM_SLACK = 0.02  # nats: bf16 against fp32 differs by less than 0.01, and a claim is rounded
_CLAIMED_TOKENS = 400_000  # all of a text up to here, since a claim is about all of it
_LEAST_WORDS = 12  # of a line; shorter ones recur in any text
_MOST_OVERLAP = 0.01
_LEAST_VARIETY = 0.5  # of distinct 3-grams: one that repeats itself is sure without knowing anything


def _tokenizer(bench: AuditBench) -> Measurement:
    tokenizer = bench.tokenizer
    text = bench.question.text[:_ROUND_TRIP_CHARS]
    with bench.foreign_code("encoding the text"):
        ids = encode(tokenizer, text)
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        again = encode(tokenizer, back)
    rows = bench.model.get_input_embeddings().weight.shape[0]
    unknown = (
        ids.count(tokenizer.unk_token_id) / max(1, len(ids)) if tokenizer.unk_token_id is not None else 0
    )
    problems = []
    if len(tokenizer) > rows:
        problems.append(f"{len(tokenizer):,} entries for {rows:,} rows of the embedding")
    if again != ids:
        problems.append("its own decoding of the text is encoded differently")
    if unknown > _MOST_UNKNOWN:
        problems.append(f"{unknown:.1%} of the text is unknown to it")
    if ids and max(ids) >= rows:
        problems.append(f"the text has token {max(ids)}, the embedding {rows:,} rows")
    return Measurement(
        passed=not problems,
        measured=f"{len(tokenizer):,} entries, {'exact' if back == text else 'lossy'} round trip, "
        f"{unknown:.1%} unknown",
        allowed=f"≤ {rows:,} entries, a stable round trip, ≤ {_MOST_UNKNOWN:.0%} unknown",
        component="" if not problems else "the tokenizer",
        detail="; ".join(problems),
    )


TOKENIZER = Probe(
    name="checkpoint-tokenizer",
    category=Category.ARTIFACT,
    meaning="the tokenizer loads, fits into the embedding, and gives a text back",
    threshold="no more entries than embedding rows; what it decodes it encodes alike; ≤ 1 % unknown tokens",
    threshold_source="exact but for the unknown share: 1 % is an odd name in a page",
    usual_causes=("a tokenizer of another model", "tokens that were added without resizing the embedding"),
    run=_tokenizer,
)


def _special(bench: AuditBench) -> Measurement:
    tokenizer, size = bench.tokenizer, bench.vocab_size
    sources = {"config.json": bench.model.config, "generation_config.json": None}
    sources["generation_config.json"] = getattr(bench.model, "generation_config", None)
    problems: list[tuple[str, str]] = []
    for file, holder in sources.items():
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            outside = [one for one in _ids(getattr(holder, name, None)) if not 0 <= one < size]
            problems += [
                (f"{file}: {name}", f"{name} is {one}, the vocabulary has {size:,}") for one in outside
            ]
    ends, own = (
        set(_ids(getattr(sources["generation_config.json"], "eos_token_id", None))),
        tokenizer.eos_token_id,
    )
    ends = ends or set(_ids(getattr(bench.model.config, "eos_token_id", None)))
    if own is not None and ends and own not in ends:
        problems.append(
            (
                "generation_config.json: eos_token_id",
                f"generation ends at {sorted(ends)}, the tokenizer at {own}",
            )
        )
    return Measurement(
        passed=not problems,
        measured="agree" if not problems else f"{len(problems)} disagreements",
        allowed="inside the vocabulary, and the tokenizer's own",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems),
    )


def _ids(value: Any) -> list[int]:
    """One id, several, or none."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


SPECIAL_TOKENS = Probe(
    name="special-tokens",
    category=Category.ARTIFACT,
    meaning="configuration, generation settings and tokenizer mean the same tokens by begin, end and padding",
    threshold="every id inside the vocabulary; the tokenizer's end of text is one where generation ends",
    threshold_source="exact",
    usual_causes=("a generation_config.json of another model", "special tokens that were renumbered"),
    run=_special,
)


def _text_loss(bench: AuditBench) -> Measurement:
    losses = bench.text_losses
    low, high = bench.text.least_loss, bench.text.unigram_loss
    passed = low <= losses.mean < high  # false for NaN
    detail = (
        "" if passed else "better than text can be predicted" if losses.mean < low else _worse(losses.mean)
    )
    return Measurement(
        passed=passed,
        measured=f"{losses.mean:.4f} ± {losses.standard_error:.4f} nats per token "
        f"on {losses.tokens:,} tokens",
        allowed=f"[{low:.3f}, {high:.3f}]",
        component="" if passed else bench.files.architecture,
        detail=detail,
    )


def _worse(loss: float) -> str:
    return "no better than token frequencies alone" if math.isfinite(loss) else "the loss is not finite"


TEXT_LOSS = Probe(
    name="text-loss",
    category=Category.MODEL,
    meaning="the model predicts the text better than its token frequencies do, and not impossibly well",
    threshold="0.1 ln V (half the 5-gram loss, if less) ≤ loss < unigram loss of the same text",
    threshold_source="below a tenth of a uniform guess text was learned by heart; unigrams have no context",
    usual_causes=(
        "weights that were not trained, not loaded, or of another configuration",
        "a tokenizer other than the one trained with",
        "a text that the model was trained on (too low), or in a language that it never saw (too high)",
    ),
    run=_text_loss,
)


def _shifted(bench: AuditBench) -> dict[int, float]:
    """The loss by how far ahead the target is."""

    def measure() -> dict[int, float]:
        return {shift: bench.losses(bench.few_windows, shift=shift).mean for shift in _SHIFTS}

    return bench.once("shifts", measure)


def _shift(bench: AuditBench) -> Measurement:
    losses = _shifted(bench)
    best = min(losses, key=lambda shift: losses[shift])
    if losses[best] >= bench.text.unigram_loss:
        raise Unusable("at no shift is the text predicted better than by token frequencies: see text-loss")
    return Measurement(
        passed=best == 1,
        measured=", ".join(f"{shift:+d}: {loss:.2f}" for shift, loss in losses.items()),
        allowed="lowest at +1",
        component="" if best == 1 else "the labels it was trained with",
        detail="" if best == 1 else f"the logits predict the token {best:+d} from their own best",
    )


LABEL_SHIFT = Probe(
    name="checkpoint-label-shift",
    category=Category.DATA,
    meaning="the logits at a token predict the next one, and not itself, an earlier or a later one",
    threshold="of the shifts -2 to 2, the loss is lowest at +1",
    threshold_source="exact: losses at two shifts differ by nats in any model that learned",
    usual_causes=(
        "labels that were shifted twice, or not at all",
        "a causal mask that lets the token itself through to its own prediction",
    ),
    run=_shift,
)


def _context(bench: AuditBench) -> Measurement:
    import torch

    if bench.text_losses.mean >= bench.text.unigram_loss:
        raise Unusable("the text is not predicted better than by token frequencies: see text-loss")
    windows = bench.few_windows
    short = 2
    length = windows.shape[1] - 1
    if length < 4 * short:
        return Measurement(passed=True, measured=f"windows of {length} tokens are too short", allowed="-")
    batch = torch.from_numpy(windows)
    ends = [length - step * max(1, length // 8) for step in range(4)]
    whole, cut = [], []
    for row in torch.split(batch, 8):
        log_probs = bench.logits(row[:, :-1]).log_softmax(-1).cpu()
        for end in ends:
            target = row[:, end : end + 1]
            whole.append(-log_probs[:, end - 1].gather(1, target))
            near = bench.logits(row[:, end - short : end])[:, -1].log_softmax(-1).cpu()
            cut.append(-near.gather(1, target))
    gain = (torch.cat(cut) - torch.cat(whole)).double()
    mean, error = float(gain.mean()), float(gain.std()) / len(gain) ** 0.5
    passed = mean > _SIGMAS * error
    return Measurement(
        passed=passed,
        measured=f"{mean:.3f} ± {error:.3f} nats better than with {short} tokens before it",
        allowed=f"> {_SIGMAS:.0f} standard errors",
        component="" if passed else bench.files.architecture,
        detail="" if passed else "what stands further back does not help the model",
    )


CONTEXT_USE = Probe(
    name="checkpoint-context-use",
    category=Category.MODEL,
    meaning="tokens are predicted better with all of the text before them than with the last two tokens",
    threshold="a mean gain above 4 standard errors",
    threshold_source="language depends on more than two tokens; 4 standard errors err once in 30,000",
    usual_causes=(
        "attention that was never trained",
        "positions that are wrong beyond the first ones",
        "a context that is longer than the one trained with: give --context",
    ),
    run=_context,
)


def _tokenizer_match(bench: AuditBench) -> Measurement:
    import numpy as np

    loss, unigram = bench.text_losses.mean, bench.text.unigram_loss
    order = np.random.default_rng(bench.question.seed).permutation(bench.vocab_size)
    shuffled = bench.losses(order[bench.few_windows]).mean
    own = own_loss(bench)
    knows_ids = own < 0.7 * unigram and variety(bench) >= _LEAST_VARIETY
    passed = not (knows_ids and min(loss, *_shifted(bench).values()) >= min(unigram, shuffled))
    return Measurement(
        passed=passed,
        measured=f"{loss:.2f} on the text, {shuffled:.2f} with its ids shuffled, {own:.2f} on its own words",
        allowed=f"below {unigram:.2f} (unigram) where it is sure of its own words",
        component="" if passed else "the tokenizer",
        detail=""
        if passed
        else "the model has learned token ids, and those of this tokenizer mean other things",
    )


TOKENIZER_MATCH = Probe(
    name="tokenizer-match",
    category=Category.DATA,
    meaning="the tokenizer is the one that the model was trained with",
    threshold="a model that predicts its own words well (< 0.7 of the unigram loss) predicts the text so too",
    threshold_source="with foreign ids a trained model is worse than frequencies alone, by nats",
    usual_causes=("tokenizer files of another model, or of another training of it",),
    run=_tokenizer_match,
)


def _claim(bench: AuditBench) -> Measurement:
    claims = bench.question.claims
    if not claims:
        return Measurement(passed=True, measured="nothing is claimed", allowed="-")
    full = max(1, bench.context)
    halves = max(1, full // 2)
    most = max(1, _CLAIMED_TOKENS // full)
    apart = bench.losses(bench.text.windows(full, limit=most))
    sliding = _sliding(bench, full, halves, most)
    low, high = sorted((apart.mean, sliding))
    slack = _CLAIM_SLACK + (_SIGMAS * apart.standard_error if apart.tokens < len(bench.text) // 2 else 0.0)
    wrong = []
    for name, value in claims.items():
        claimed = math.log(value) if name == "perplexity" else value
        if not low - slack <= claimed <= high + slack:
            wrong.append((name, f"{name} {value:g} is claimed, which is {claimed:.4f} nats per token"))
    return Measurement(
        passed=not wrong,
        measured=f"{apart.mean:.4f} on {apart.tokens:,} tokens in windows of {full} at stride {full}, "
        f"{sliding:.4f} at stride {halves}",
        allowed=f"claims from {low - slack:.4f} to {high + slack:.4f}",
        component=f"the claimed {wrong[0][0]}" if wrong else "",
        detail="; ".join(text for _, text in wrong),
    )


def _sliding(bench: AuditBench, full: int, stride: int, most: int) -> float:
    """The loss of the last ``stride`` tokens of windows that overlap."""
    import torch

    from ml_intern_cli.judge.evaluation import token_losses

    windows = bench.text.windows(full, limit=most, stride=stride)
    total, count = 0.0, 0
    for row in torch.split(torch.from_numpy(windows), 8):
        losses = token_losses(bench.logits(row[:, :-1]).cpu(), row[:, 1:])[:, -stride:]
        total, count = total + float(losses.double().sum()), count + losses.numel()
    return total / max(1, count)


CLAIM = Probe(
    name="audit-claim",
    category=Category.REPORTING,
    meaning="the claimed loss or perplexity is what the weights give on this text",
    threshold="within 0.02 nats of the loss recomputed in windows end to end, or in half overlapping ones",
    threshold_source="bf16 and fp32 differ by less than 0.01; one of the strides is the usual one",
    usual_causes=(
        "a number that was copied from training, from another checkpoint or from another text",
        "a loss on a part of the text",
        "a loss per word or per byte: this one is per token",
    ),
    run=_claim,
)


def _overlap(bench: AuditBench) -> Measurement:
    train = bench.question.train_text
    if train is None:
        return Measurement(passed=True, measured="no training text is given", allowed="-")
    known = {_normal(line) for line in _lines(train)}
    asked = [(number, line) for number, line in enumerate(_lines(bench.question.text), start=1)]
    if not asked:
        raise Unusable(f"the text has no line of {_LEAST_WORDS} words to look for")
    found = [number for number, line in asked if _normal(line) in known]
    share = len(found) / len(asked)
    passed = share <= _MOST_OVERLAP
    return Measurement(
        passed=passed,
        measured=f"{share:.2%} of {len(asked):,} passages",
        allowed=f"≤ {_MOST_OVERLAP:.0%}",
        component="" if passed else f"passage {found[0]} of the text",
        detail="" if passed else f"{len(found):,} passages of the text stand in the training text too",
    )


def _lines(text: str) -> list[str]:
    """Passages to look for: lines, and lines without end in pieces of 32 words."""
    passages = []
    for line in re.split(r"\n|<\|endoftext\|>|</s>", text):
        words = line.split()
        pieces = [words] if len(words) < 96 else [words[at : at + 32] for at in range(0, len(words), 32)]
        passages += [" ".join(piece) for piece in pieces if len(piece) >= _LEAST_WORDS]
    return passages


def _normal(passage: str) -> str:
    return " ".join(re.findall(r"\w+", passage.casefold()))


TEXT_OVERLAP = Probe(
    name="text-overlap",
    category=Category.DATA,
    meaning="the text is not part of the training text",
    threshold="≤ 1 % of its passages (lines of 12 words or more) stand in the training text",
    threshold_source="quotations and headings recur; whole lines of 12 words seldom do",
    usual_causes=("a split that was made after the data were duplicated", "evaluation on the training file"),
    run=_overlap,
)

PROBES = (
    TOKENIZER,
    SPECIAL_TOKENS,
    TEXT_LOSS,
    LABEL_SHIFT,
    CONTEXT_USE,
    TOKENIZER_MATCH,
    CLAIM,
    TEXT_OVERLAP,
)
