"""Progress on stderr: a live view on a terminal, plain lines without one, nothing with --quiet.

Each finished stage leaves one line. What is going on is drawn below it and redrawn in place, a line for
each path that is worked on, or, where nothing can be redrawn, told now and then.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.cli.charts import sparkline
from ml_intern_cli.cli.terminal import Glyphs, Terminal
from ml_intern_cli.quantities import format_duration, format_params

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.live import Live
    from rich.text import Text

    from ml_intern_cli.runs.reporter import Progress

_LABEL_WIDTH = 12
_SPARK_WIDTH = 8
_FRAMES_PER_S = 8
_WORTH_TELLING_S = 10.0  # stages shorter than this don't say how long they took
_TELL_EVERY_S = 10.0  # at most, without a terminal
_TELL_AT_LEAST_EVERY_S = 60.0
_PACE_AFTER_S = 3.0  # of work, before its pace says how long the rest will take


class Pace:
    """How long work will still take, where it does not say so itself: as fast as it went so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._total: int | None = None
        self._began_s, self._began_done = clock(), 0

    def timed(self, progress: Progress) -> Progress:
        """The progress, with the time left if that can be told."""
        if progress.total != self._total:
            self._total, self._began_s, self._began_done = progress.total, self._clock(), progress.done or 0
        took_s = self._clock() - self._began_s
        done = (progress.done or 0) - self._began_done
        if progress.left_s is not None or not progress.total or done <= 0 or took_s < _PACE_AFTER_S:
            return progress
        left = progress.total - (progress.done or 0)
        return replace(progress, left_s=left * took_s / done)


class _Work:
    """A stage that is under way, of one path or of none."""

    def __init__(self, label: str, clock: Callable[[], float]) -> None:
        self.label = label
        self.text = ""
        self.losses: list[float] = []
        self.told_at_s, self.told_tenth = clock(), 0
        self._pace = Pace(clock)

    def move_on(self, progress: Progress, glyphs: Glyphs) -> Progress:
        """Take in where it stands now."""
        progress = self._pace.timed(progress)
        if progress.loss is not None:
            self.losses.append(progress.loss)
        self.text = progress_text(progress, self.losses, glyphs)
        return progress


class QuietReporter:
    """Says nothing, and remembers which run it is, for the line that tells how to resume."""

    def __init__(self) -> None:
        self.slug: str | None = None

    def run_opened(self, slug: str, run_dir: Path, request: str) -> None:
        """Work on a run begins or goes on."""
        del run_dir, request
        self.slug = slug

    def stage_started(self, stage: str, path_id: str | None) -> None:
        """A stage begins."""

    def progress(self, progress: Progress) -> None:
        """Long work moved on."""

    def stage_finished(
        self,
        stage: str,
        path_id: str | None,
        outcome: str,
        summary: str,
        seconds: float,
        details: tuple[str, ...],
    ) -> None:
        """A stage ended."""

    def note(self, text: str) -> None:
        """Something worth a line that belongs to no stage."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen alone for the length of the block: somebody is asked something."""
        yield

    def close(self) -> None:
        """Put the screen back in order, whatever happened."""


class LineReporter(QuietReporter):
    """Whole lines only, for logs and pipes. Long work says where it stands at most every 10 s."""

    def __init__(self, terminal: Terminal, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._terminal = terminal
        self._clock = clock
        self._works: dict[str | None, _Work] = {}  # by path: one stage at a time of each

    def run_opened(self, slug: str, run_dir: Path, request: str) -> None:
        """Work on a run begins or goes on."""
        super().run_opened(slug, run_dir, request)
        self._terminal.lines([f"{self._terminal.style(slug, 'bold')} · {shorten_home(run_dir)}", ""])

    def stage_started(self, stage: str, path_id: str | None) -> None:
        """A stage begins."""
        self._begin(stage, path_id)
        self._stage_line(self._terminal.glyphs.started, stage, path_id, "started")

    def progress(self, progress: Progress) -> None:
        """Long work moved on."""
        work = self._work_of(progress)
        progress = work.move_on(progress, self._terminal.glyphs)
        waited_s = self._clock() - work.told_at_s
        tenth = progress.done * 10 // progress.total if progress.done and progress.total else 0
        if waited_s < (_TELL_EVERY_S if tenth > work.told_tenth else _TELL_AT_LEAST_EVERY_S):
            return
        work.told_at_s, work.told_tenth = self._clock(), tenth
        self._stage_line(self._terminal.glyphs.started, progress.stage, progress.path_id, work.text)

    def stage_finished(
        self,
        stage: str,
        path_id: str | None,
        outcome: str,
        summary: str,
        seconds: float,
        details: tuple[str, ...],
    ) -> None:
        """A stage ended."""
        self._works.pop(path_id, None)
        glyphs = self._terminal.glyphs
        mark, color = {
            "done": (glyphs.done, "green"),
            "failed": (glyphs.failed, "red"),
        }.get(outcome, (glyphs.stopped, "yellow"))
        took = f" · {format_duration(seconds)}" if seconds >= _WORTH_TELLING_S else ""
        self._stage_line(self._terminal.style(mark, color), stage, path_id, summary + took, details)

    def note(self, text: str) -> None:
        """Something worth a line that belongs to no stage."""
        self._terminal.line(f"   {text}")

    def _begin(self, stage: str, path_id: str | None) -> _Work:
        work = _Work(stage_label(stage, path_id), self._clock)
        self._works[path_id] = work
        return work

    def _work_of(self, progress: Progress) -> _Work:
        """The stage that moved on; some say what they do before they have begun."""
        work = self._works.get(progress.path_id) or self._begin(progress.stage, progress.path_id)
        work.label = stage_label(progress.stage, progress.path_id)
        return work

    def _stage_line(
        self, mark: str, stage: str, path_id: str | None, text: str, details: tuple[str, ...] = ()
    ) -> None:
        label = stage_label(stage, path_id)
        indent = " " * (len(label) + 4)
        width = max(self._terminal.width - len(indent), 30)
        wrapped = [line for part in (text, *details) for line in textwrap.wrap(part, width) or [""]]
        self._terminal.lines(
            [f" {mark} {self._terminal.style(label, 'bold')} {wrapped[0]}"]
            + [indent + self._terminal.style(line, "dim") for line in wrapped[1:]]
        )


class LiveReporter(LineReporter):
    """Redraws a line in place for each stage that works. Nothing is drawn between two stages."""

    def __init__(self, terminal: Terminal, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(terminal, clock=clock)
        self._live: Live | None = None

    def stage_started(self, stage: str, path_id: str | None) -> None:
        """A stage begins."""
        self._begin(stage, path_id)
        self._start()

    def progress(self, progress: Progress) -> None:
        """Long work moved on."""
        self._work_of(progress).move_on(progress, self._terminal.glyphs)

    def stage_finished(
        self,
        stage: str,
        path_id: str | None,
        outcome: str,
        summary: str,
        seconds: float,
        details: tuple[str, ...],
    ) -> None:
        """A stage ended."""
        self.close()
        super().stage_finished(stage, path_id, outcome, summary, seconds, details)
        if self._works:  # of other paths
            self._start()

    def note(self, text: str) -> None:
        """Something worth a line that belongs to no stage."""
        with self.paused():
            super().note(text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen alone for the length of the block."""
        was_live = self._live is not None
        self.close()
        try:
            yield
        finally:
            if was_live:
                self._start()

    def close(self) -> None:
        """Take the live line off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.close()
        console = Console(file=self._terminal.stream, no_color=not self._terminal.has_color, highlight=False)
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=_FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _draw(self) -> Text:
        from rich.text import Text

        spinner = self._terminal.glyphs.spinner
        frame = spinner[int(self._clock() * _FRAMES_PER_S) % len(spinner)]
        overflow: OverflowMethod = "ellipsis" if self._terminal.is_unicode else "crop"
        lines = Text(no_wrap=True, overflow=overflow)
        for number, work in enumerate(tuple(self._works.values())):  # drawn from a thread of its own
            lines.append(f"{'' if number == 0 else chr(10)} {frame} ", style="cyan")
            lines.append(f"{work.label} ", style="bold")
            lines.append(self._terminal.fit(work.text))
        return lines


def make_reporter(terminal: Terminal, *, quiet: bool) -> QuietReporter:
    """The reporter that fits stderr."""
    if quiet:
        return QuietReporter()
    return LiveReporter(terminal) if terminal.is_interactive else LineReporter(terminal)


def stage_label(stage: str, path_id: str | None) -> str:
    """``train a``, padded so that what follows lines up."""
    return f"{stage} {path_id}".ljust(_LABEL_WIDTH) if path_id else stage.ljust(_LABEL_WIDTH)


def progress_text(progress: Progress, losses: list[float], glyphs: Glyphs) -> str:
    """``412/590  loss 2.31 ▇▅▃▂▂  11.8k tok/s  0:32 left  budget 3:12``, of what is known."""
    parts = [] if progress.what == progress.stage else [progress.what]
    if progress.done is not None:
        parts.append(f"{progress.done:,}/{progress.total:,}" if progress.total else f"{progress.done:,}")
    if progress.loss is not None:
        parts.append(
            f"loss {progress.loss:.2f} {sparkline(losses, width=_SPARK_WIDTH, glyphs=glyphs)}".rstrip()
        )
    if progress.tokens_per_s is not None:
        parts.append(f"{format_params(progress.tokens_per_s)} tok/s")
    if progress.left_s is not None:
        parts.append(f"{clock_time(progress.left_s)} left")
    if progress.budget_left_s is not None:
        parts.append(f"budget {clock_time(progress.budget_left_s)}")
    return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """``0:32``, ``12:05``, ``1:02:03``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shorten_home(path: Path) -> str:
    """``~/ml-intern-runs/x`` for a path below the home directory."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
