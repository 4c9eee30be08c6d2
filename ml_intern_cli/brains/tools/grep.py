"""A program: which lines match a regular expression. JSON in on stdin, JSON out on stdout.

A process of its own, because a pattern can take years to match, or all the memory to compile: then it is
killed. Only the standard library, and nothing of this package, so that it starts at once.
"""

from __future__ import annotations

import json
import re
import resource
import sys

_MOST_MEMORY = 1 << 30  # bytes


def main() -> None:
    """Answers ``{"matches": [index, …]}`` or ``{"error": "…"}``."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    question = json.load(sys.stdin)
    try:
        pattern = re.compile(question["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        answer: dict[str, object] = {"error": str(error)}
    else:
        answer = {"matches": [index for index, line in enumerate(question["lines"]) if pattern.search(line)]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
