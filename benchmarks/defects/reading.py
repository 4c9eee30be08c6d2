"""What a row means: was it detected, where, in the right category, with the right component named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.defects.case import Defect

_MOST_NAMES = 4  # of a component that lists several: naming everything names nothing
_PYTHON_LINE = re.compile(r"([\w./]+\.py):(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that failed: of the stage that failed first, before publication."""

    stage: str  # smoke, train, verify; empty: nothing failed
    name: str
    category: str
    component: str

    @property
    def is_alarm(self) -> bool:
        """Whether anything failed."""
        return bool(self.stage)


def finding(row: Mapping[str, Any]) -> Finding:
    """What a row's path failed first."""
    for stage in ("smoke", "train", "verify"):
        if stage == "train":
            if not row["train"]["ended"]:
                return Finding("train", f"exit code {row['train']['code']}", "", "")
            continue
        failures = row.get(stage, {}).get("failures", [])
        if failures:
            first = failures[0]
            return Finding(stage, first["name"], first["category"], first["component"])
    return Finding("", "", "", "")


def has_right_category(row: Mapping[str, Any], defect: Defect) -> bool:
    """Whether the first failure's category is the defect's family, or one that is as right."""
    return finding(row).category in {str(defect.family), *map(str, defect.also)}


def names_right_component(row: Mapping[str, Any], defect: Defect) -> bool:
    """Whether the first failure names what the defect is in."""
    return is_named(finding(row).component, defect.component, row.get("spans", ()))


def is_named(component: str, patterns: Sequence[str], spans: Sequence[Sequence[Any]]) -> bool:
    """Whether one of the first few names in ``component`` is right.

    Args:
        component: What the judge says, names separated by commas.
        patterns: What may be named, as in fnmatch.
        spans: (file, first line, last line): lines of Python files that may be named.
    """
    for name in re.split(r"[,;]\s*", component)[:_MOST_NAMES]:
        word = name.strip().strip("`")
        if not word:
            continue
        if any(fnmatchcase(word, pattern) for pattern in patterns):
            return True
        line = _PYTHON_LINE.match(word)
        if line and any(
            line[1].endswith(file) and first <= int(line[3] or line[2]) and int(line[2]) <= last
            for file, first, last in spans
        ):
            return True
    return False
