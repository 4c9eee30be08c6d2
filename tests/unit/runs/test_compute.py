"""No program starts without budget, and every second is counted in two places."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ml_intern_cli.documents.budget import Budget, render
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.documents.registry import load
from ml_intern_cli.errors import Blocked
from ml_intern_cli.executors.process import LocalExecutor
from ml_intern_cli.runs.compute import BudgetedCompute
from ml_intern_cli.runs.consent import Consent
from ml_intern_cli.runs.events import record, spent_s


def _compute(root: Path, *, cap_s: float, used_min: float = 0.0) -> BudgetedCompute:
    layout = RunLayout(root)
    budget = Budget(compute_cap=cap_s / 3600, scale_ceiling=1_000_000, gpu_min_used=used_min)
    layout.document("BUDGET.md").write_text(render(budget))
    # What runs here is no program of a path; whether it may is not what is tested.
    consent = Consent(layout, standing=True)
    return BudgetedCompute(layout, LocalExecutor(), consent=consent)


def _sleep(compute: BudgetedCompute, root: Path, seconds: float, *, limit_s: float = 60.0) -> float:
    argv = (sys.executable, "-c", f"import time; time.sleep({seconds})")
    return compute.run(argv, what="a test", cwd=root, limit_s=limit_s).seconds


def test_a_spent_budget_blocks_before_anything_starts(tmp_path: Path) -> None:
    compute = _compute(tmp_path, cap_s=60, used_min=1.0)
    with pytest.raises(Blocked, match=r"1\.0 of 1\.0 minutes") as blocked:
        compute.run((sys.executable, "-c", "open('ran', 'w')"), what="a test", cwd=tmp_path, limit_s=60)
    assert any("--time-budget" in way for way in blocked.value.ways_on)
    assert not (tmp_path / "ran").exists()


def test_a_program_is_stopped_at_the_cap_and_not_at_its_own_limit(tmp_path: Path) -> None:
    seconds = _sleep(_compute(tmp_path, cap_s=3.0), tmp_path, 60)
    assert 3.0 <= seconds < 3.0 * 1.05 + 10


def test_judging_may_use_the_slack_above_the_cap_and_no_more(tmp_path: Path) -> None:
    compute = _compute(tmp_path, cap_s=60)
    record(RunLayout(tmp_path), "spend", path="a", seconds=69.5, what="training")
    argv = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(Blocked, match="no budget for verify"):
        compute.run(argv, what="verify", cwd=tmp_path, limit_s=60)
    with pytest.raises(Blocked, match="no budget for verify"):  # cut short by the cap: that is no verdict
        compute.run(argv, what="verify", cwd=tmp_path, limit_s=60, reserved=True)
    assert 60 * 1.05 + 10 <= compute.used_s() < 60 * 1.05 + 13
    with pytest.raises(Blocked, match="no budget for verify"):
        compute.run((sys.executable, "-c", "open('ran', 'w')"), what="verify", cwd=tmp_path, limit_s=60)
    assert not (tmp_path / "ran").exists()


def test_a_judge_that_takes_longer_than_its_own_limit_is_answered_for(tmp_path: Path) -> None:
    compute = _compute(tmp_path, cap_s=60)
    argv = (sys.executable, "-c", "import time; time.sleep(60)")
    assert compute.run(argv, what="verify", cwd=tmp_path, limit_s=1.5, reserved=True).out_of_time


def test_what_was_spent_stands_in_the_log_and_in_the_budget(tmp_path: Path) -> None:
    seconds = _sleep(_compute(tmp_path, cap_s=60).on("a"), tmp_path, 1.0)
    assert spent_s(RunLayout(tmp_path)) == {"a": pytest.approx(seconds, abs=0.01)}
    budget = load(tmp_path / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert budget.gpu_min_used == pytest.approx(seconds / 60, abs=0.001)


def test_programs_side_by_side_share_a_cap_also_after_one_of_them_has_ended(tmp_path: Path) -> None:
    compute = _compute(tmp_path, cap_s=6.0)
    with ThreadPoolExecutor(2) as threads:
        brief = threads.submit(_sleep, compute.on("a", at_once=2), tmp_path, 2.0)
        endless = threads.submit(_sleep, compute.on("b", at_once=2), tmp_path, 60.0)
        seconds = {"a": brief.result(), "b": endless.result()}
    assert seconds["a"] < 4.0  # it was not stopped
    assert 6.0 <= sum(seconds.values()) < 6.0 + 2.0  # each looks at the cap twice a second
    assert spent_s(RunLayout(tmp_path)) == {
        name: pytest.approx(one, abs=0.01) for name, one in seconds.items()
    }
    budget = load(tmp_path / "BUDGET.md")
    assert isinstance(budget, Budget)
    assert budget.gpu_min_used == pytest.approx(sum(seconds.values()) / 60, abs=0.002)


def test_what_it_took_to_stop_an_interrupted_program_is_counted(tmp_path: Path) -> None:
    stubborn = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: None)
open("up", "w")
began = time.monotonic()
while time.monotonic() < began + 3:
    time.sleep(0.1)
"""

    def interrupt() -> None:
        if (tmp_path / "up").exists():
            raise KeyboardInterrupt

    compute = replace(_compute(tmp_path, cap_s=60), interrupt=interrupt)
    with pytest.raises(KeyboardInterrupt):
        compute.run(
            (sys.executable, "-c", stubborn), what="a test", cwd=tmp_path, limit_s=60, writable=(tmp_path,)
        )
    assert spent_s(RunLayout(tmp_path))[None] >= 3.0


def test_a_program_of_a_path_sees_the_one_gpu_that_it_was_given(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))")
    compute = _compute(tmp_path, cap_s=60)
    for device in ("GPU-1", "3", None):
        seen = tmp_path / f"seen-{device}"
        compute.on("a", device=device).run(argv, what="a test", cwd=tmp_path, limit_s=60, stdout=seen)
        assert seen.read_text() == f"{device}\n"


@pytest.mark.parametrize("forgotten", ["BUDGET.md", "events.jsonl"])
def test_forgetting_one_of_the_two_records_buys_nothing(tmp_path: Path, forgotten: str) -> None:
    compute = _compute(tmp_path, cap_s=600, used_min=5.0)
    record(RunLayout(tmp_path), "spend", path="a", seconds=300.0, what="a test")
    if forgotten == "BUDGET.md":
        compute = _compute(tmp_path, cap_s=600, used_min=0.0)
    else:
        (tmp_path / "events.jsonl").unlink()
    assert compute.remaining_s() == pytest.approx(300.0, abs=0.1)
