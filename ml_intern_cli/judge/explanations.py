"""Everything that can fail a verdict, explained: every probe of the catalogue, and the seed's six checks.

``python -m ml_intern_cli.judge.explanations docs/judge.md`` writes the tables of a page anew, each between
``<!-- probes: KIND -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.catalogue import CATALOGUE
from ml_intern_cli.judge.probe import Category


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The story of one probe or check."""

    name: str
    kind: str
    category: Category
    meaning: str
    threshold: str
    threshold_source: str
    usual_causes: tuple[str, ...]


CHECKS_KIND = "after training: the six checks"

_CHECKS = (
    Explanation(
        name="generation-samples",
        kind=CHECKS_KIND,
        category=Category.MODEL,
        meaning="what the model writes reads like held-out text: words, their order, no repetition",
        threshold="likeness ≥ 0.6 together and ≥ 0.4 each; distinct 3-grams ≥ 0.5, known words ≥ 0.8",
        threshold_source=(
            "an n-gram model of the training text sets 0 at shuffled words and 1 at held-out documents; "
            "a 1M model has 0.4 after 80 steps, 0.65 after 200, 0.9 after 600"
        ),
        usual_causes=(
            "trained too short",
            "another tokenizer than in training",
            "a mask or a shift that cheats",
        ),
    ),
    Explanation(
        name="loss-sanity",
        kind=CHECKS_KIND,
        category=Category.REPORTING,
        meaning="the recomputed held-out loss is possible, and the claimed losses agree with recomputed ones",
        threshold="above the known floor (or 0.1 ln V), below the unigram model; claims within 4 errors",
        threshold_source="the entropy of the data, a unigram model of it, and the spread between windows",
        usual_causes=("a claim that was not measured", "the future seen by the model", "labels not shifted"),
    ),
    Explanation(
        name="eval-tracks-train",
        kind=CHECKS_KIND,
        category=Category.DATA,
        meaning="the loss on unread text is near the one on training text, both recomputed",
        threshold="|eval - train| < 0.5 nats",
        threshold_source="the seed's sixth rule; a pretraining run does not see its tokens often",
        usual_causes=("the same few windows over and over", "splits of different text", "too many epochs"),
    ),
    Explanation(
        name="data-consumption",
        kind=CHECKS_KIND,
        category=Category.DATA,
        meaning="the tokens that were planned were read, and checkpoint, log and steps agree on it",
        threshold="≥ 70 % of the plan",
        threshold_source="the seed's rule",
        usual_causes=(
            "training stopped early",
            "a cursor that is not saved",
            "steps that were logged and not run",
        ),
    ),
    Explanation(
        name="stderr-scan",
        kind=CHECKS_KIND,
        category=Category.TRAINING,
        meaning="every alarming line that training printed has a known benign cause",
        threshold="no unexplained Traceback, RuntimeError, Warning, trust_remote_code or stopped worker",
        threshold_source="the seed's rule",
        usual_causes=("an exception that was caught and ignored", "a kernel that fell back"),
    ),
    Explanation(
        name="param-count-check",
        kind=CHECKS_KIND,
        category=Category.ARTIFACT,
        meaning="the loaded checkpoint has the size that was asked for, tied weights counted once",
        threshold="± 15 %",
        threshold_source="the seed's rule; smoke holds the untrained model to ±1 % (±3 % below 5M)",
        usual_causes=("another configuration than planned", "weights untied on save"),
    ),
)


@cache
def explanations() -> tuple[Explanation, ...]:
    """All of them, by kind, in the order they run."""
    probes = tuple(
        Explanation(
            name=probe.name,
            kind=kind,
            category=probe.category,
            meaning=probe.meaning,
            threshold=probe.threshold,
            threshold_source=probe.threshold_source,
            usual_causes=probe.usual_causes,
        )
        for kind, family in CATALOGUE.items()
        for probe in family
    )
    return probes + _CHECKS


def explain(name: str) -> Explanation:
    """The explanation of that name, in any spelling: ``Loss sanity`` is ``loss-sanity``.

    Raises:
        InvalidInput: there is none; the hint names the nearest.
    """
    known = {one.name: one for one in explanations()}
    wanted = re.sub(r"[\s_-]+", "-", name.strip().lower())
    if wanted in known:
        return known[wanted]
    parts = [one for one in known if wanted and wanted in one]
    near = list(dict.fromkeys([*get_close_matches(wanted, known, n=3, cutoff=0.6), *parts]))[:3]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise InvalidInput(f"no probe is called {name!r}", hint=f"{meant}see them all: ml-intern probes")


def table(kind: str) -> str:
    """The Markdown table of one kind."""
    return "\n".join(_rows(kind))


def _rows(kind: str) -> Iterator[str]:
    yield "| probe | category | what holds | threshold | where the threshold comes from |"
    yield "|---|---|---|---|---|"
    for one in explanations():
        if one.kind == kind:
            texts = (one.meaning, one.threshold, one.threshold_source)
            cells = (f"`{one.name}`", str(one.category), *(text.replace("|", "\\|") for text in texts))
            yield f"| {' | '.join(cells)} |"


_TABLE = re.compile(r"(<!-- probes: (.+?) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with every table between markers made anew.

    Raises:
        InvalidInput: the page has no markers, or one that names no kind.
    """
    kinds = {one.kind for one in explanations()}
    marked = [kind for _, kind, _ in _TABLE.findall(page)]
    unknown = sorted(set(marked) - kinds)
    if unknown or not marked:
        said = (
            f"no kind of probes is called {unknown[0]!r}" if unknown else "the page has no <!-- probes: … -->"
        )
        raise InvalidInput(said, hint=f"the kinds are: {'; '.join(sorted(kinds))}")
    return _TABLE.sub(lambda match: f"{match[1]}{table(match[2])}{match[3]}", page)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
