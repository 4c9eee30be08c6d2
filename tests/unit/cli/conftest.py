"""Runs that answer from a script, and a terminal in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.runs import index, service
from ml_intern_cli.runs.index import RunListing, RunStatus
from ml_intern_cli.runs.options import RunOptions
from ml_intern_cli.runs.reporter import Reporter
from ml_intern_cli.runs.service import RunOutcome
from ml_intern_cli.runs.state import StageState, StageStatus

SLUG = "implement-deepseek-v3-at-1m"

STAGES = (
    StageStatus("restate", None, StageState.DONE, "", "DeepSeek-V3 · pretraining · 1M parameters"),
    StageStatus("implement", "a", StageState.STALE, "PLAN.md: learning_rate 0.001 → 0.002", "own module"),
    StageStatus("smoke", "a", StageState.FAILED, "causality failed", ""),
    StageStatus("diagnose", "a", StageState.SKIPPED, "nothing failed", ""),
    StageStatus("report", None, StageState.TODO, "", ""),
)

DONE = RunOutcome(
    slug=SLUG,
    run_dir=Path("/runs") / SLUG,
    exit_code=0,
    done=True,
    stages=STAGES,
    blocker=None,
    winner="a",
    eval_loss=1.41234,
    published="published/ml-intern-x",
    seconds=348.0,
    budget_used_min=4.7,
    budget_cap_min=5.0,
    usd_used=0.0,
    max_usd=5.0,
    model_use=(),
    retries_used=0,
    paths_launched=2,
    max_paths=2,
    next=(f"ml-intern show {SLUG}",),
)

STATUS = RunStatus(
    slug=SLUG,
    run_dir=Path("/runs") / SLUG,
    request="implement DeepSeek-V3 at 1M",
    stages=STAGES,
    max_paths=2,
    paths_launched=2,
    max_retries=2,
    usd_used=0.0,
    max_usd=5.0,
    model_use=(),
    retries_used=1,
    budget_cap_min=5.0,
    budget_used_min=4.66,
    blocker=None,
    next=(f"ml-intern run {SLUG}",),
)

LISTING = RunListing(
    slug=SLUG,
    request="implement DeepSeek-V3 at 1M",
    state="done",
    winner="a",
    eval_loss=1.41,
    updated_at=datetime(2026, 11, 20, 23, 37, tzinfo=UTC),
)


@dataclass
class ScriptedRuns:
    """Stands where RunIndex and RunService do."""

    outcome: RunOutcome = DONE
    listings: tuple[RunListing, ...] = (LISTING,)
    act: Callable[[Reporter], None] = lambda _reporter: None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    made_with: dict[str, Any] = field(default_factory=dict)
    runs_dir: Path = Path()

    def run(self, target: str, options: RunOptions) -> RunOutcome:
        self.calls.append(("run", target, options))
        self.act(self.made_with["reporter"])
        return self.outcome

    def step(self, target: str, stage: str, options: RunOptions, *, path_id: str | None) -> RunOutcome:
        self.calls.append(("step", target, stage, options, path_id))
        return self.outcome

    def status(self, target: str) -> RunStatus:
        self.calls.append(("status", target))
        return STATUS

    def list(self) -> tuple[RunListing, ...]:
        return self.listings

    def find(self, target: str) -> RunLayout:
        return RunLayout(self.runs_dir / target)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ScriptedRuns:
    """What the commands of this test work on."""
    scripted = ScriptedRuns()

    def make(**made_with: Any) -> ScriptedRuns:
        scripted.made_with = made_with
        return scripted

    def look(runs_dir: Path) -> ScriptedRuns:
        scripted.runs_dir = runs_dir
        return scripted

    monkeypatch.setattr(index, "RunIndex", look)
    monkeypatch.setattr(service, "RunService", make)
    return scripted


class Screen(io.TextIOWrapper):
    """A terminal in memory."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def make_screen() -> type[Screen]:
    """A terminal of an encoding, UTF-8 unless said."""
    return Screen
