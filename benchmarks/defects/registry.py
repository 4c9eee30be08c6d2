"""Everything that the benchmark knows: programs, defects, clean variations. New modules are listed here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import zip_longest
from zlib import crc32

from benchmarks.defects.case import Case, Clean, Defect, Family, Program
from benchmarks.defects.families import artifact, data, model, reporting, training
from benchmarks.defects.language import PROGRAMS as LANGUAGE_PROGRAMS
from benchmarks.defects.language_clean import CLEAN as LANGUAGE_CLEAN

PROGRAMS: tuple[Program, ...] = LANGUAGE_PROGRAMS
DEFECTS: tuple[Defect, ...] = (
    *model.DEFECTS,
    *training.DEFECTS,
    *data.DEFECTS,
    *reporting.DEFECTS,
    *artifact.DEFECTS,
)
CLEAN: tuple[Clean, ...] = LANGUAGE_CLEAN

HAS_TABLES = find_spec("sklearn") is not None
"""Whether the data of the classifiers and regressors are there: ``pip install -e '.[bench]'``."""
if HAS_TABLES and find_spec("benchmarks.defects.supervised"):
    from benchmarks.defects.supervised import (
        clean,
        defects_artifact,
        defects_data,
        defects_distributed,
        defects_model,
        defects_reporting,
        defects_training,
        programs,
    )

    PROGRAMS += programs.PROGRAMS
    DEFECTS += (
        *defects_model.DEFECTS,
        *defects_training.DEFECTS,
        *defects_data.DEFECTS,
        *defects_reporting.DEFECTS,
        *defects_artifact.DEFECTS,
        *defects_distributed.DEFECTS,
    )
    CLEAN += clean.CLEAN

_FIRST_SEEDS = {"seed-11", "seed-12", "seed-13", "seed-101", "seed-102", "seed-103"}
"""Three healthy trainings of each program; the least that a spread can be told from."""

FAST = (
    "defect/mask-off-by-one/llama",
    "defect/positions-missing/gpt2_moe",
    "defect/expert-never-chosen/gpt2_moe",
    "defect/no-zero-grad/llama",
    "defect/labels-shifted-twice/gpt2_moe",
    "defect/eval-loss-invented/llama",
    "defect/missing-tensor/gpt2_moe",
    "defect/tokenizer-replaced/llama",
    "clean/seed-11/llama",
    "clean/seed-11/gpt2_moe",
)
"""The cases that guard the judge in CI, in five minutes."""


def cases(
    *,
    programs: Iterable[str] = (),
    changes: Iterable[str] = (),
    half: str = "",
    fast: bool = False,
    most: int | None = None,
) -> list[Case]:
    """The cases that are asked for; empty arguments leave nothing out.

    The seeds that harm is measured by come first, then the half that is reported, in an order drawn by lot:
    a benchmark that is broken off has figures already, of a fair sample.

    Args:
        programs: Names of programs.
        changes: Names of defects or clean variations, or of families, or ``clean``.
        half: ``calibration`` or ``report``.
        fast: Only the subset for CI.
        most: So many programs per defect, taken from the two halves in turn.
    """
    by_name = {program.name: program for program in PROGRAMS}
    wanted, named = set(programs), set(changes)
    found = []
    for change in (*DEFECTS, *CLEAN):
        labels = {change.name, str(change.family) if isinstance(change, Defect) else "clean"}
        if named and not labels & named:
            continue
        chosen = [by_name[name] for name in change.programs if not wanted or name in wanted]
        chosen = [program for program in chosen if not half or program.half == half]
        if most is not None and isinstance(change, Defect):
            chosen = _in_turn(chosen, change.name)[:most]
        found += [Case(program, change) for program in chosen]
    if fast:
        found = [case for case in found if case.id in FAST]
    return sorted(found, key=_place)


def _place(case: Case) -> tuple[bool, bool, int]:
    """Where a case stands in the order; after the first seeds, by lot."""
    return (
        case.change.name not in _FIRST_SEEDS,
        case.program.half != "report",
        crc32(case.id.encode()),
    )


def _in_turn(programs: list[Program], name: str) -> list[Program]:
    """The programs of the two halves in turn, those to be reported first; each defect begins elsewhere."""
    halves = []
    for half in ("report", "calibration"):
        of_half = [program for program in programs if program.half == half]
        first = crc32(name.encode()) % max(1, len(of_half))
        halves.append([*of_half[first:], *of_half[:first]])
    return [program for pair in zip_longest(*halves) for program in pair if program is not None]


def count_by_family() -> dict[Family, int]:
    """Distinct defects of each family."""
    return {family: sum(defect.family is family for defect in DEFECTS) for family in Family}
