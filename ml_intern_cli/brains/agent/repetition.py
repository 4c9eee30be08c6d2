"""Going in circles: the same calls with the same results, again and again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from ml_intern_cli.brains.agent.session import Step

_TIMES = 3
_LONGEST_CYCLE = 5
_OWN_NOISE = re.compile(r"\b(?:took|after) [\d.,]+ (?:s|ms|min)\b|\b[0-9a-f]{16,64}\b")


def circle(steps: Sequence[Step]) -> str | None:
    """What is being repeated at the end of these steps, in words; ``None`` when nothing is.

    A call that gives the same result three times running, or a cycle of two to five calls that comes
    three times running, each with the results it had before. Polling something that changes is no circle.
    """
    signed = [
        (step.call.name, json.dumps(step.call.arguments, sort_keys=True), masked(step.result))
        for step in steps[-_TIMES * _LONGEST_CYCLE :]
    ]
    for length in range(1, _LONGEST_CYCLE + 1):
        tail = signed[-_TIMES * length :]
        cycle = tail[:length]
        if len(tail) == _TIMES * length and tail == cycle * _TIMES:
            names = ", ".join(name for name, _, _ in cycle)
            return f"{names}: the same call{'s' * (length > 1)} with the same result {_TIMES} times"
    return None


def fingerprint(text: str) -> str:
    """What tells a text from another, whatever differs in it each time by itself."""
    return hashlib.sha256(masked(text).encode()).hexdigest()


def masked(result: str) -> str:
    """A result without what differs each time by itself: how long it took, and random marks around quotes."""
    return _OWN_NOISE.sub("…", result)
