"""Who is told what happens while a run goes on. The command line draws it; tests record it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ml_intern_cli.stages.base import Progress

__all__ = ["Progress", "Reporter", "SharedReporter"]


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


class SharedReporter:
    """A reporter for several threads: it is told one thing at a time, and nothing while somebody is asked.

    Args:
        reporter: Who is told.
        check: Raises in a thread that is asked to stop; called wherever one says what it is doing.
    """

    def __init__(self, reporter: Reporter, *, check: Callable[[], None]) -> None:
        self._reporter = reporter
        self._check = check
        self._one_at_a_time = threading.RLock()

    def run_opened(self, slug: str, run_dir: Path, request: str) -> None:
        """See Reporter."""
        with self._one_at_a_time:
            self._reporter.run_opened(slug, run_dir, request)

    def stage_started(self, stage: str, path_id: str | None) -> None:
        """See Reporter."""
        with self._one_at_a_time:
            self._reporter.stage_started(stage, path_id)

    def progress(self, progress: Progress) -> None:
        """See Reporter. It never waits: whoever watches a program has to go on watching it."""
        self._check()
        if self._one_at_a_time.acquire(blocking=False):
            try:
                self._reporter.progress(progress)
            finally:
                self._one_at_a_time.release()

    def stage_finished(
        self,
        stage: str,
        path_id: str | None,
        outcome: str,
        summary: str,
        seconds: float,
        details: tuple[str, ...],
    ) -> None:
        """See Reporter."""
        with self._one_at_a_time:
            self._reporter.stage_finished(stage, path_id, outcome, summary, seconds, details)

    def note(self, text: str) -> None:
        """See Reporter."""
        with self._one_at_a_time:
            self._reporter.note(text)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing is told for the length of the block: somebody is asked something."""
        with self._one_at_a_time:
            yield
