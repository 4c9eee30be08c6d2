"""Who is told what happens while a run goes on. The command line draws it; tests record it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ml_intern_cli.stages.base import Progress

__all__ = ["Progress", "Reporter"]


class Reporter(Protocol):
    """Receives what happens, in order, from the process that works on the run."""

    def run_opened(self, slug: str, run_dir: Path, request: str) -> None:
        """Work on a run begins or goes on."""
        ...

    def stage_started(self, stage: str, path_id: str | None) -> None:
        """A stage begins."""
        ...

    def progress(self, progress: Progress) -> None:
        """Long work moved on."""
        ...

    def stage_finished(
        self,
        stage: str,
        path_id: str | None,
        outcome: str,
        summary: str,
        seconds: float,
        details: tuple[str, ...],
    ) -> None:
        """A stage ended: ``done``, ``failed``, ``blocked`` or ``stopped``."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line that belongs to no stage."""
        ...
