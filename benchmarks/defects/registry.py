"""Everything that the benchmark knows: programs, defects, clean variations. New modules are listed here."""

from __future__ import annotations

from collections.abc import Iterable

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

FAST_PROGRAMS = ("gpt2_moe", "llama")
FAST_DEFECTS = (
    "mask-off-by-one",
    "positions-missing",
    "residual-dropped",
    "no-zero-grad",
    "learning-rate-tenfold",
    "labels-not-shifted",
    "eval-loss-invented",
    "missing-tensor",
)
FAST_CLEAN = ("seed-11", "constant-schedule")
"""The subset that guards the judge in CI, in five minutes."""


def cases(
    *, programs: Iterable[str] = (), changes: Iterable[str] = (), half: str = "", fast: bool = False
) -> list[Case]:
    """The cases that are asked for, defects first; empty arguments leave nothing out.

    Args:
        programs: Names of programs.
        changes: Names of defects or clean variations, or of families.
        half: ``calibration`` or ``report``.
        fast: Only the subset for CI.
    """
    by_name = {program.name: program for program in PROGRAMS}
    wanted, named = set(programs), set(changes)
    found = []
    for change in (*DEFECTS, *CLEAN):
        labels = {change.name, str(change.family) if isinstance(change, Defect) else "clean"}
        if named and not labels & named:
            continue
        if fast and change.name not in (*FAST_DEFECTS, *FAST_CLEAN):
            continue
        for name in change.programs:
            program = by_name[name]
            is_left_out = (wanted and name not in wanted) or (half and program.half != half)
            if not is_left_out and not (fast and name not in FAST_PROGRAMS):
                found.append(Case(program, change))
    return found


def count_by_family() -> dict[Family, int]:
    """Distinct defects of each family."""
    return {family: sum(defect.family is family for defect in DEFECTS) for family in Family}
