"""Threads for paths: how many, how they end, and how they are stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.runs.crew import Crew, Ending, Foreground
from ml_intern_cli.runs.seats import Seat, devices, most_at_once, remember_most, seats_for
from ml_intern_cli.runs.state import StageState, StageStatus

GIB = 1 << 30
HasCompany = Callable[[], bool]


def train(path_id: str) -> StageStatus:
    return StageStatus("train", path_id, StageState.TODO)


def two_seats() -> list[Seat]:
    return [Seat(), Seat()]


@pytest.mark.parametrize(
    ("most", "gpus", "free_gib", "expected"),
    [
        (None, [], 64, [None]),  # a CPU: one at a time
        (3, [], 64, [None, None, None]),
        (3, [], 4, [None]),  # of 100M parameters, each takes 3.2 GiB
        (None, ["0", "1"], 64, ["0", "1"]),
        (1, ["0", "1"], 64, [None]),  # alone it may use both
        (3, ["0", "1"], 64, ["0", "1", "0"]),
        (None, ["0", "1"], 4, [None]),
        (2, [], 0, [None]),  # never fewer than one: the program itself will say that memory is short
    ],
)
def test_there_are_as_many_seats_as_the_machine_carries(
    most: int | None, gpus: list[str], free_gib: int, expected: list[str | None]
) -> None:
    seats = seats_for(100_000_000, most=most, devices=gpus, free_bytes=free_gib * GIB)
    assert [seat.device for seat in seats] == expected


def test_gpus_are_those_that_the_user_left_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_intern_cli.runs import seats

    monkeypatch.setattr(seats, "has_accelerator", lambda: True)
    monkeypatch.setattr(seats, "version", lambda _: "2.13.0")
    for visible, expected in {"2, GPU-5": ["2", "GPU-5"], "": [], "-1": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices() == expected


def test_a_build_of_pytorch_without_cuda_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_intern_cli.runs import seats

    monkeypatch.setattr(seats, "has_accelerator", lambda: True)
    monkeypatch.setattr(seats, "version", lambda _: "2.13.0+cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices() == []


def test_how_many_at_a_time_is_remembered_with_the_run(runs_dir) -> None:
    layout = RunLayout(runs_dir / "a-run")
    assert most_at_once(layout) is None
    remember_most(layout, 3)
    assert most_at_once(layout) == 3
    for damage in ('{"most": "-1"}', '{"most": "many"}', '{"most": 2}', "[]", "\x00"):
        (layout.receipts / "parallel.json").write_text(damage)
        assert most_at_once(layout) is None


def test_steps_go_on_at_the_same_time_on_seats_of_their_own() -> None:
    both_are_there = threading.Barrier(2, timeout=30)
    seen = []

    def step(status: StageStatus, seat: Seat, has_company: HasCompany) -> Ending:
        both_are_there.wait()
        seen.append(seat.device)
        assert has_company()
        return Ending.FAILED if status.path_id == "b" else Ending.DONE

    with Crew(step, Foreground(), [Seat("0"), Seat("1")]) as crew:
        for path_id in "ab":
            crew.start(train(path_id))
        assert crew.is_full
        endings = {status.path_id: ending for status, ending in (crew.wait(), crew.wait())}
        assert crew.is_idle
    assert endings == {"a": Ending.DONE, "b": Ending.FAILED}
    assert sorted(seen) == ["0", "1"]


def test_one_that_began_alone_and_was_joined_had_company() -> None:
    may_end = threading.Event()
    alone = []

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        alone.append(not has_company())
        may_end.wait(30)
        return Ending.CROWDED if has_company() else Ending.DONE

    with Crew(step, Foreground(), two_seats()) as crew:
        crew.start(train("a"))
        while not alone:
            time.sleep(0.01)
        crew.start(train("b"))
        may_end.set()
        assert {crew.wait()[1], crew.wait()[1]} == {Ending.CROWDED}
        crew.shrink()
        crew.start(train("a"))
        assert crew.is_full
        assert crew.wait()[1] is Ending.DONE  # alone now
    assert alone[0]


@pytest.mark.parametrize("needs_user", [True, False], ids=["blocked", "an error"])
def test_others_end_their_steps_when_one_cannot_go_on(needs_user: bool) -> None:
    has_ended = threading.Event()

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        if status.path_id == "b":
            time.sleep(0.3)
            has_ended.set()
            return Ending.DONE
        if needs_user:
            return Ending.BLOCKED
        raise InvalidInput("PLAN.md:3: steps: must be > 0", hint="mend it")

    def lead() -> Ending:
        with Crew(step, Foreground(), two_seats()) as crew:
            crew.start(train("b"))
            crew.start(train("a"))
            return crew.wait()[1]

    if needs_user:
        assert lead() is Ending.BLOCKED
    else:
        with pytest.raises(InvalidInput, match="steps"):
            lead()
    assert has_ended.is_set()


def test_what_goes_wrong_after_another_was_blocked_is_raised() -> None:
    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        if status.path_id == "a":
            return Ending.BLOCKED
        time.sleep(0.3)
        raise ZeroDivisionError

    def lead() -> None:
        with Crew(step, Foreground(), two_seats()) as crew:
            crew.start(train("b"))
            crew.start(train("a"))
            assert crew.wait()[1] is Ending.BLOCKED

    with pytest.raises(ZeroDivisionError):
        lead()


def _interrupt_soon() -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize("ending", [Ending.DONE, Ending.BLOCKED], ids=["waiting", "after one was blocked"])
def test_an_interrupt_stops_all_and_waits_for_them(ending: Ending) -> None:
    foreground = Foreground()
    stopped = []

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        if status.path_id == "quick":
            return ending
        try:
            while True:
                foreground.sleep(10)
        finally:
            time.sleep(0.2)  # a checkpoint
            stopped.append(status.path_id)

    def lead() -> None:
        with Crew(step, foreground, [*two_seats(), Seat()]) as crew:
            for path_id in ("a", "b", "quick"):
                crew.start(train(path_id))
            while crew.wait()[1] is not Ending.BLOCKED:
                pass

    _interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        lead()
    assert sorted(stopped) == ["a", "b"]


def test_the_user_is_asked_in_the_foreground_where_an_interrupt_arrives() -> None:
    foreground = Foreground()
    asked_in = []

    def ask() -> str:
        asked_in.append(threading.current_thread())
        return "yes"

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        return Ending.DONE if foreground.do(ask) == "yes" else Ending.FAILED

    with Crew(step, foreground, two_seats()) as crew:
        for path_id in "ab":
            crew.start(train(path_id))
        assert {crew.wait()[1], crew.wait()[1]} == {Ending.DONE}
    assert set(asked_in) == {threading.main_thread()}
    assert foreground.do(ask) == "yes"  # also for itself


def test_what_asking_raises_is_for_the_step_that_asked() -> None:
    foreground = Foreground()

    def refuse() -> None:
        raise InvalidInput("no", hint="yes")

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        with pytest.raises(InvalidInput):
            foreground.do(refuse)
        return Ending.DONE

    with Crew(step, foreground, two_seats()) as crew:
        crew.start(train("a"))
        assert crew.wait()[1] is Ending.DONE


def test_an_interrupt_in_the_middle_of_a_question_stops_the_one_that_asked() -> None:
    foreground = Foreground()
    heard: list[type[BaseException]] = []

    def step(status: StageStatus, _: Seat, has_company: HasCompany) -> Ending:
        try:
            foreground.do(lambda: time.sleep(60))
        except KeyboardInterrupt:
            heard.append(KeyboardInterrupt)
            raise
        return Ending.DONE

    def lead() -> None:
        with Crew(step, foreground, two_seats()) as crew:
            for path_id in "ab":
                crew.start(train(path_id))
            crew.wait()

    _interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        lead()
    assert heard == [KeyboardInterrupt] * 2
