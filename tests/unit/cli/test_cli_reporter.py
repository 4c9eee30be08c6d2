"""Progress: lines without a terminal, a live view on one."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from ml_intern_cli.cli.reporter import (
    LineReporter,
    LiveReporter,
    Pace,
    QuietReporter,
    clock_time,
    make_reporter,
    progress_text,
)
from ml_intern_cli.cli.terminal import ASCII, UNICODE, Terminal
from ml_intern_cli.runs.reporter import SharedReporter
from ml_intern_cli.stages.base import Progress


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_progress_reads_as_designed():
    progress = Progress(
        stage="train",
        what="train",
        path_id="a",
        done=412,
        total=590,
        loss=2.31,
        tokens_per_s=11_800,
        left_s=32,
        budget_left_s=192,
    )
    text = progress_text(progress, [4.0, 3.0, 2.5, 2.31, 2.31], UNICODE)
    assert text == "412/590  loss 2.31 █▄▂▁▁  11.8k tok/s  0:32 left  budget 3:12"


def test_progress_of_unknown_length_says_what_it_does():
    assert (
        progress_text(Progress(stage="plan", what="tokenising", done=1234), [], ASCII) == "tokenising  1,234"
    )


def test_work_that_does_not_say_how_long_it_takes_goes_on_at_its_pace():
    clock = Clock()
    pace = Pace(clock)

    def left_s(done: int, total: int | None = 100) -> float | None:
        return pace.timed(Progress(stage="verify", what="samples", done=done, total=total)).left_s

    assert left_s(20) is None
    clock.now_s += 10
    assert left_s(40) == pytest.approx(30)
    assert left_s(0, total=7) is None  # other work: its pace is not known yet
    assert left_s(3, total=None) is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (-4, "0:00")])
def test_clock_times(seconds, text):
    assert clock_time(seconds) == text


def test_lines_tell_start_and_finish_of_every_stage():
    stream = io.StringIO()
    reporter = LineReporter(Terminal(stream, {}), clock=Clock())
    reporter.run_opened("my-run", Path.home() / "ml-intern-runs/my-run", "a task")
    reporter.stage_started("smoke", "a")
    reporter.stage_finished("smoke", "a", "done", "11 of 11 probes", 12.0, ())
    reporter.stage_finished("train", "a", "failed", "loss is not finite", 1.0, ("lower the learning rate",))
    assert _lines(stream) == [
        "my-run · ~/ml-intern-runs/my-run",
        "",
        " ▸ smoke a      started",
        " ✓ smoke a      11 of 11 probes · 12 s",
        " ✗ train a      loss is not finite",
        "                lower the learning rate",
    ]


def test_lines_tell_progress_at_most_every_ten_seconds_and_ten_percent():
    stream, clock = io.StringIO(), Clock()
    reporter = LineReporter(Terminal(stream, {}), clock=clock)
    reporter.stage_started("train", "a")
    for second in range(1, 101):  # 1 % per second
        clock.now_s += 1
        reporter.progress(Progress(stage="train", what="train", path_id="a", done=second, total=100))
    told = [line.split(maxsplit=3)[3] for line in _lines(stream)[1:]]
    assert told == [f"{share}/100  {clock_time(100 - share)} left" for share in range(10, 101, 10)]


def test_lines_give_a_sign_of_life_each_minute_when_little_moves():
    stream, clock = io.StringIO(), Clock()
    reporter = LineReporter(Terminal(stream, {}), clock=clock)
    reporter.stage_started("train", "a")
    for second in range(180):
        clock.now_s += 1
        reporter.progress(Progress(stage="train", what="train", path_id="a", done=second, total=100_000))
    assert len(_lines(stream)) == 1 + 3


def test_no_escape_codes_reach_a_stream_that_is_no_terminal():
    stream = io.StringIO()
    reporter = make_reporter(Terminal(stream, {}), quiet=False)
    reporter.stage_started("plan", None)
    reporter.stage_finished("plan", None, "blocked", "no data", 0.1, ())
    assert "\x1b" not in stream.getvalue()
    assert " ! plan" in stream.getvalue()


def test_the_live_view_draws_in_place_and_leaves_one_line_per_stage(make_screen):
    screen = make_screen()
    reporter = make_reporter(Terminal(screen, {}), quiet=False)
    assert isinstance(reporter, LiveReporter)
    reporter.stage_started("train", "a")
    reporter.progress(Progress(stage="train", what="train", path_id="a", done=1, total=2, loss=3.0))
    reporter.note("a note")
    reporter.stage_finished("train", "a", "done", "2 steps", 0.5, ())
    assert "1/2  loss 3.00" in screen.text
    assert "\x1b[2K" in screen.text  # a drawn line was erased
    assert screen.text.endswith("2 steps\n")


def test_the_live_view_leaves_the_screen_to_a_question(make_screen):
    screen = make_screen()
    reporter = LiveReporter(Terminal(screen, {}), clock=Clock())
    reporter.stage_started("clarify", None)
    with reporter.paused():
        before = screen.text
        reporter.progress(Progress(stage="clarify", what="asking"))
        assert screen.text == before
    reporter.close()


def test_the_live_view_without_colour_sets_no_colour(make_screen):
    screen = make_screen("ascii")
    reporter = LiveReporter(Terminal(screen, {"NO_COLOR": "1"}), clock=Clock())
    reporter.stage_started("train", "a")
    reporter.stage_finished("train", "a", "done", "fine", 0.5, ())
    assert "\x1b[3" not in screen.text
    assert screen.text.endswith(" + train a      fine\n")


def test_quiet_says_nothing_but_knows_the_run():
    stream = io.StringIO()
    reporter = make_reporter(Terminal(stream, {}), quiet=True)
    assert type(reporter) is QuietReporter
    reporter.run_opened("my-run", Path("/runs/my-run"), "a task")
    reporter.stage_started("plan", None)
    reporter.progress(Progress(stage="plan", what="x"))
    reporter.stage_finished("plan", None, "done", "x", 1.0, ())
    reporter.note("x")
    assert reporter.slug == "my-run"
    assert stream.getvalue() == ""


def test_the_live_view_has_a_line_for_each_path_that_is_worked_on(make_screen):
    screen = make_screen()
    reporter = LiveReporter(Terminal(screen, {}), clock=Clock())
    for path_id, loss in (("a", 3.0), ("b", 4.0)):
        reporter.stage_started("train", path_id)
        reporter.progress(Progress(stage="train", what="train", path_id=path_id, done=1, total=2, loss=loss))
    lines = reporter._draw().plain.splitlines()
    assert ["train a" in lines[0], "loss 3.00" in lines[0]] == [True, True]
    assert ["train b" in lines[1], "loss 4.00" in lines[1]] == [True, True]
    reporter.stage_finished("train", "a", "done", "2 steps", 0.5, ())
    assert [line.split()[1:3] for line in reporter._draw().plain.splitlines()] == [["train", "b"]]
    reporter.close()


def test_lines_of_paths_side_by_side_keep_their_own_pace():
    stream, clock = io.StringIO(), Clock()
    reporter = LineReporter(Terminal(stream, {}), clock=clock)
    for path_id in "ab":
        reporter.stage_started("train", path_id)
    for second in range(1, 31):  # b is twice as fast
        clock.now_s += 1
        for path_id, done in (("a", second), ("b", 2 * second)):
            reporter.progress(Progress(stage="train", what="train", path_id=path_id, done=done, total=60))
    told = [line.split(maxsplit=1)[1] for line in _lines(stream)[2:]]
    assert told[-2:] == ["train a      30/60  0:30 left", "train b      60/60  0:00 left"]


def test_nothing_is_told_while_somebody_is_asked_and_nobody_who_watches_a_program_waits():
    stream = io.StringIO()
    reporter = SharedReporter(LineReporter(Terminal(stream, {}), clock=Clock()), check=lambda: None)
    teller = threading.Thread(target=reporter.note, args=("a note",))
    with reporter.silent():
        teller.start()
        watcher = threading.Thread(target=reporter.progress, args=(Progress(stage="train", what="x"),))
        watcher.start()
        watcher.join(timeout=10)
        assert not watcher.is_alive()
        assert teller.is_alive()
        assert stream.getvalue() == ""
    teller.join(timeout=10)
    assert _lines(stream) == ["   a note"]
