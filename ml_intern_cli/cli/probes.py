"""What the judge looks for: `ml-intern probes`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.judge.explanations import Explanation

_WIDTH = 100


def probe_lines(probes: tuple[Explanation, ...], terminal: Terminal) -> Iterator[str]:
    """One line per probe, under the heading of its kind."""
    rows = iter(aligned([one.name, one.category, one.meaning] for one in probes))
    for kind, family in groupby(probes, key=lambda one: one.kind):
        yield terminal.style(kind, "bold")
        yield from (f"  {next(rows)}" for _ in family)
        yield ""
    yield "next: ml-intern probes NAME"


def story_lines(one: Explanation, terminal: Terminal) -> Iterator[str]:
    """Everything about one probe."""
    yield f"{terminal.style(one.name, 'bold')} · {one.category} · {one.kind}"
    yield from textwrap.wrap(one.meaning, _WIDTH)
    yield ""
    yield from _named("threshold", one.threshold)
    yield from _named("because", one.threshold_source)
    for number, cause in enumerate(one.usual_causes):
        yield from _named("" if number else "usual causes", cause)


def _named(label: str, text: str) -> list[str]:
    start = f"{label:<14}"
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
