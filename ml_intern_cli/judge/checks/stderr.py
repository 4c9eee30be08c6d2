"""Stderr scan: every alarming line of train.stderr is explained, or it fails the path."""

from __future__ import annotations

import re
from collections import Counter

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.verify import Judgement
from ml_intern_cli.judge.artifact import Artifact
from ml_intern_cli.judge.checks.criterion import Criterion, failure, judgement

_ALARMING = re.compile(r"Traceback|RuntimeError|Warning|trust_remote_code|Stopping .*dataloader workers")
"""Source: the seed's fifth check."""

BENIGN: tuple[tuple[str, str], ...] = (
    (r"FutureWarning|DeprecationWarning", "announces a change in a later release of a library"),
    (r"pin_memory.*no accelerator", "pinning memory has no effect on a machine without accelerator"),
    (r"TensorFloat32 tensor cores", "suggests a faster, less exact arithmetic; results are not affected"),
    (r"Not enough SMs to use max_autotune", "the compiler chose other kernels; results are not affected"),
    (r"resource_tracker: .*leaked .* objects", "the interpreter tidied up after a child that was stopped"),
    (r"lr_scheduler\.step\(\).*optimizer\.step\(\)", "the first step was skipped by the gradient scaler"),
)
"""Patterns that are known, and why they do no harm."""

_MOST_LISTED = 20


def judge_stderr(artifact: Artifact) -> tuple[tuple[str, ...], Judgement]:
    """The findings, one line each, and the verdict on them."""
    try:
        text = leavings.read_text(artifact.directory, "train.stderr", errors="replace")
    except leavings.Refused as error:
        return (), failure(f"train.stderr {error.strerror}: nothing shows how the training went")
    except OSError:
        return (), failure("train.stderr is missing: nothing shows how the training went")
    lines = Counter(line.strip()[:300] for line in text.splitlines() if _ALARMING.search(line))
    findings, unexplained = [], 0
    for line, times in lines.items():
        reason = next((why for pattern, why in BENIGN if re.search(pattern, line)), None)
        unexplained += reason is None
        count = f" ({times} times)" if times > 1 else ""
        findings.append(
            (reason is not None, f"{line}{count} — {f'benign: {reason}' if reason else 'unexplained'}")
        )
    findings.sort(key=lambda finding: finding[0])  # unexplained ones first
    summary = f"{unexplained} of {len(findings)} findings unexplained, allowed 0"
    return tuple(text for _, text in findings[:_MOST_LISTED]), judgement(
        [Criterion(unexplained == 0, summary)]
    )
