"""The held-out score, in its own process: ``python -m benchmarks.defects.score PROGRAM PATH DATA OUT``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from benchmarks.defects.registry import PROGRAMS


def main() -> None:
    """Writes a number, or null for a model whose score is none."""
    name, path, data, out = sys.argv[1:]
    program = next(program for program in PROGRAMS if program.name == name)
    value = program.heldout_score(Path(path), Path(data))
    Path(out).write_text(json.dumps(value if math.isfinite(value) else None), encoding="utf-8")


if __name__ == "__main__":
    main()
