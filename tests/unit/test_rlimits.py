"""Limits are lowered; a hard limit that is there already stands."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from ml_intern_cli.rlimits import lower
given, most = (int(word) for word in sys.argv[1:])
if given:
    resource.setrlimit(resource.RLIMIT_FSIZE, (given, given))
lower(resource.RLIMIT_FSIZE, most)
print(*resource.getrlimit(resource.RLIMIT_FSIZE))
"""


@pytest.mark.parametrize(
    ("given", "most", "expected"),
    [(0, 4096, 4096), (8192, 4096, 4096), (4096, 8192, 4096), (4096, -1, 4096), (4096, 4096, 4096)],
)
def test_a_limit_is_the_lower_one(given: int, most: int, expected: int) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(given), str(most)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [str(expected)] * 2
