"""What the judge answered: read from its JSON, whatever kind of path it was about."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

CHECKS = {
    "generation": "model",
    "predictions": "model",
    "loss": "reporting",
    "tracks": "reporting",
    "data": "reporting",
    "stderr": "training",
    "params": "model",
}
"""The category that a failing check of the seed points to, where no probe fails: each compares a claim of the
run with a recomputation, but for the samples, the predictions and the size, which are the model's."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failing probe or check."""

    name: str
    category: str  # empty where nothing says
    component: str
    told: str  # measured, allowed, detail

    def json(self) -> dict[str, str]:
        """For results.jsonl."""
        return asdict(self)


def read_failures(answer: Path) -> list[Failure]:
    """Failing probes in the order in which they ran, then failing checks of the seed."""
    judgement: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    probes = [
        Failure(
            name=probe["name"],
            category=categories().get(probe["name"], ""),
            component=probe.get("component", ""),
            told=f"{probe['measured']} (allowed {probe['threshold']}) {probe['detail']}"[:600],
        )
        for probe in judgement["probes"]
        if probe["verdict"] != "pass"
    ]
    # What could not run because something before it failed says nothing about the cause.
    probes.sort(key=lambda failure: failure.told.startswith("not run"))
    checks = [
        Failure(name=name, category=CHECKS[name], component="", told=judgement[name]["reason"][:600])
        for name in CHECKS
        if isinstance(judgement.get(name), dict) and judgement[name]["verdict"] != "pass"
    ]
    return probes + checks


@cache
def categories() -> dict[str, str]:
    """Probe → category, from the judge's catalogue."""
    from ml_intern_cli.judge.catalogue import CATALOGUE

    return {probe.name: str(probe.category) for probes in CATALOGUE.values() for probe in probes}
