"""Probes of the data that reach the model: labels, where windows come from, none twice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.rehearsal.bench import rows_of, targets_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ml_intern_cli.judge.rehearsal.bench import RehearsalBench
    from ml_intern_cli.judge.rehearsal.record import Call

_SAMPLER = (r"class \w*(Sampler|Dataset|Loader)", r"def (\w*batch\w*|\w*window\w*)")
_LOOKED_AT_TOKENS = 1 << 20
_SHORT_RUN = 8  # times in a row


def _window_labels(bench: RehearsalBench) -> Measurement:
    right = counted = ignored = 0
    shifts = dict.fromkeys((-2, -1, 0, 2), 0)
    worst = None
    unknown = 0
    for made in bench.made:
        for call in made.step.calls:
            ids, targets = rows_of(call), targets_of(call)
            if ids is None or targets is None:
                unknown += 1
                continue
            inner = targets[:, :-1]
            taken = inner >= 0
            matches = (inner == ids[:, 1:]) & taken
            right, counted = right + int(matches.sum()), counted + int(taken.sum())
            ignored += int((~taken).sum())
            last, wrong_last = _last_targets(bench, call, ids, targets)
            right, counted = right + last, counted + last + wrong_last
            for shift in shifts:
                if shift < 0:
                    shifts[shift] += int((targets[:, -shift:] == ids[:, :shift]).sum())
                else:
                    shifts[shift] += int((targets[:, : ids.shape[1] - shift] == ids[:, shift:]).sum())
            if worst is None and (int(matches.sum()) < int(taken.sum()) or wrong_last):
                worst = (made, call)
    if not counted:
        return Measurement(
            passed=not unknown,
            measured=f"no targets could be read from {unknown} calls",
            allowed="the next token",
            component=bench.line(r"loss\s*=", r"backward\(") if unknown else "",
        )
    best = max(shifts, key=lambda shift: shifts[shift])
    detail = ""
    if worst is not None:
        detail = (
            f"{worst[0].where}: {counted - right} of {counted} targets are not the token after their input"
        )
        if shifts[best] > right:
            detail += f"; they are the input shifted by {best}"
    return Measurement(
        passed=worst is None,
        measured=f"{right} of {counted} targets are the next token"
        + (f", {ignored} left out" if ignored else ""),
        allowed="all",
        component=worst[1].line if worst else "",
        detail=detail,
    )


def _last_targets(
    bench: RehearsalBench, call: Call, ids: torch.Tensor, targets: torch.Tensor
) -> tuple[int, int]:
    """How many windows end with the token that follows them in the corpus as target, and how many do not."""
    right = wrong = 0
    for row, last, place in zip(
        ids.numpy(), targets[:, -1].tolist(), bench.places.get(id(call), ()), strict=False
    ):
        if place is None or last < 0:
            continue
        text = bench.corpus.stream(place.split).read(place.start, len(row) + 1)
        if len(text) == len(row) + 1 and (text[:-1] == row).all():
            right, wrong = right + (text[-1] == last), wrong + (text[-1] != last)
    return int(right), int(wrong)


WINDOW_LABELS = Probe(
    name="window-labels",
    category=Category.DATA,
    meaning="the target of every position is the token after it",
    threshold="every target against which a loss is taken, the one after the window's end included",
    threshold_source="read from the call of loss(), or from the gradient of the logits",
    usual_causes=(
        "labels not shifted, or shifted twice",
        "inputs and labels of different windows",
        "labels rolled around",
    ),
    run=_window_labels,
)


def _windows_from_train(bench: RehearsalBench) -> Measurement:
    wrong: list[tuple[str, str]] = []
    count = 0
    lengths = set()
    # Text repeats a token now and then; padding does it for longer than any text does.
    text = bench.corpus.stream(Split.TRAIN).read(0, _LOOKED_AT_TOKENS)
    longest = max(_SHORT_RUN, 2 * _longest_run(text))
    for made in bench.fresh:
        for call in made.step.calls:
            ids = rows_of(call)
            if ids is None:
                continue
            lengths.add(ids.shape[1])
            for row, place in zip(ids, bench.places.get(id(call), [None] * len(ids)), strict=True):
                count += 1
                run = _longest_run(row.numpy())
                if int(row.max()) >= bench.corpus.vocab_size:
                    wrong.append(
                        (f"{made.where}: token {int(row.max())} is outside the vocabulary", call.line)
                    )
                elif run > longest:
                    wrong.append((f"{made.where}: a window holds one token {run} times in a row", call.line))
                elif place is None:
                    wrong.append((f"{made.where}: a window is nowhere in the corpus", call.line))
                elif place.split is not Split.TRAIN:
                    wrong.append(
                        (
                            f"{made.where}: a window is from {place.split.value} (position {place.start})",
                            call.line,
                        )
                    )
    planned = bench.record.config.get("seq_len")
    if not wrong and isinstance(planned, int) and lengths - {planned}:
        wrong.append((f"windows have {max(lengths)} tokens, {planned} planned", "train_config.json: seq_len"))
    return Measurement(
        passed=not wrong,
        measured=f"{count - min(count, len(wrong))} of {count} windows are of the training split",
        allowed="all",
        component=bench.line(*_SAMPLER) if wrong else "",
        detail=wrong[0][0] + (f" (fed at {wrong[0][1]})" if wrong[0][1] else "") if wrong else "",
    )


def _longest_run(tokens: npt.NDArray[np.int64]) -> int:
    """Of one and the same token."""
    import numpy as np

    borders = np.flatnonzero(np.diff(tokens, prepend=-1, append=-1))
    return int(np.diff(borders).max()) if len(borders) > 1 else len(tokens)


WINDOWS_FROM_TRAIN = Probe(
    name="windows-from-train",
    category=Category.DATA,
    meaning="every window that is trained on is a piece of the training split, as long as planned",
    threshold="all found in the train shards; none of val; no token repeated for longer than in the text",
    threshold_source="searched for by content in every shard, documents packed side by side included",
    usual_causes=(
        "val or all shards read",
        "shards read in another dtype or byte order",
        "tokens shuffled, or padded with end-of-text",
        "ids of another tokenizer",
    ),
    run=_windows_from_train,
)


def _no_replay(bench: RehearsalBench) -> Measurement:
    seen: dict[tuple[str, int], str] = {}
    repeats: list[str] = []
    count = 0
    for made in bench.fresh:
        for call in made.step.calls:
            for place in bench.places.get(id(call), ()):
                if place is None:
                    continue
                count += 1
                key = (place.split.value, place.start)
                if key in seen:
                    repeats.append(f"the window at {place.start} in {made.where}, seen in {seen[key]}")
                seen.setdefault(key, made.where)
    allowed = _chance_repeats(bench, count)
    return Measurement(
        passed=len(repeats) <= allowed,
        measured=f"{len(repeats)} of {count} windows were seen before",
        allowed=f"≤ {allowed}, within an epoch",
        component=bench.line(*_SAMPLER) if len(repeats) > allowed else "",
        detail=repeats[0] if len(repeats) > allowed else "",
    )


def _chance_repeats(bench: RehearsalBench, count: int) -> int:
    """Repeats that sampling with replacement, which is sound, makes once in a million rehearsals."""
    windows = bench.windows_per_epoch()
    if count > windows:
        return count  # more than an epoch
    expected = count * (count - 1) / 2 / windows
    return math.floor(expected + 5 * math.sqrt(expected) + (2 if expected > 1e-3 else 0))


NO_REPLAY = Probe(
    name="no-replay",
    category=Category.DATA,
    meaning="within an epoch no window is trained on twice, over all starts and processes",
    threshold="repeats ≤ what sampling with replacement makes once in a million times",
    threshold_source="windows are told apart by where they are in the corpus",
    usual_causes=(
        "the same batch fed again and again",
        "the stream begun anew after each evaluation or resume",
        "workers or processes with the same random numbers",
    ),
    run=_no_replay,
)
