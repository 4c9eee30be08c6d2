"""The watchdog, the environment, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ml_intern_cli.executors import process
from ml_intern_cli.executors.process import Finished, Job, LocalExecutor, end_orphan
from ml_intern_cli.executors.walls import Wall
from tests.unit.executors.bubblewrap import needs_bubblewrap

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
_POLITE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    "print('up', flush=True); time.sleep(60)"
)
_FORKING = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
)


@pytest.fixture(params=[Wall.NONE, pytest.param(Wall.BUBBLEWRAP, marks=needs_bubblewrap)], autouse=True)
def wall(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Everything here holds without a wall and behind one."""
    monkeypatch.setattr(process, "standing_wall", lambda: request.param)
    return Wall(request.param)


def _run(tmp_path: Path, code: str, *, limit_s: float = 30.0, grace_s: float = 1.0) -> Finished:
    job = Job(
        argv=(sys.executable, "-c", code),
        cwd=tmp_path,
        home=tmp_path / "home",
        limit_s=limit_s,
        grace_s=grace_s,
        stdout=tmp_path / "out",
        stderr=tmp_path / "err",
    )
    return LocalExecutor(tmp_path / "child.json").run(job, on_tick=lambda _: None)


def _sleepers(tmp_path: Path) -> list[int]:
    found = []
    for running in psutil.process_iter():
        try:
            if running.cwd() == str(tmp_path) and running.status() != psutil.STATUS_ZOMBIE:
                found.append(running.pid)
        except psutil.Error:
            continue
    return found


def _none_is_left(tmp_path: Path) -> bool:
    """Whether all end soon: what was killed takes a moment to go."""
    deadline = time.monotonic() + 20
    while _sleepers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    return _sleepers(tmp_path) == []


def test_a_program_that_ends_reports_its_exit_code(tmp_path: Path) -> None:
    finished = _run(tmp_path, "raise SystemExit(7)")
    assert (finished.exit_code, finished.out_of_time, finished.killed) == (7, False, False)


def test_a_program_out_of_time_may_stop_by_itself(tmp_path: Path) -> None:
    finished = _run(tmp_path, _POLITE, limit_s=2.0, grace_s=10.0)
    assert (finished.exit_code, finished.out_of_time, finished.killed) == (0, True, False)


def test_a_program_that_does_not_stop_is_killed_within_its_grace(tmp_path: Path) -> None:
    finished = _run(tmp_path, _STUBBORN, limit_s=2.0, grace_s=1.0)
    assert (finished.exit_code, finished.out_of_time, finished.killed) == (-signal.SIGKILL, True, True)


def test_children_of_a_program_end_with_it(tmp_path: Path) -> None:
    seen: list[int] = []
    job = Job(
        argv=(sys.executable, "-c", _FORKING), cwd=tmp_path, home=tmp_path / "home", limit_s=3, grace_s=1
    )
    LocalExecutor(tmp_path / "child.json").run(job, on_tick=lambda _: seen.append(len(_sleepers(tmp_path))))
    assert max(seen) >= 2
    assert _none_is_left(tmp_path)


def test_a_program_that_forks_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MOST_PROCESSES", 20)
    finished = _run(
        tmp_path, "import os, time\nfor _ in range(60):\n    if not os.fork(): time.sleep(60)\ntime.sleep(60)"
    )
    assert (finished.exit_code, finished.out_of_time) == (-signal.SIGKILL, False)
    assert "more than 20 processes" in (tmp_path / "err").read_text()
    assert _none_is_left(tmp_path)


def test_a_program_cannot_fill_the_disk_with_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_most_file_bytes", lambda _: 1 << 20)
    finished = _run(tmp_path, "import os\nwhile True: os.write(1, b'x' * 65536)")
    assert finished.exit_code == 1
    assert "File too large" in (tmp_path / "err").read_text()
    assert (tmp_path / "out").stat().st_size == 1 << 20


def test_a_program_sees_no_secret_and_not_the_users_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "ANTHROPIC_API_KEY", "SLACK_BOT_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "a-secret")
    _run(tmp_path, "import json, os; print(json.dumps(dict(os.environ)))")
    environment = json.loads((tmp_path / "out").read_text())
    assert "a-secret" not in environment.values()
    assert environment["HOME"] == str(tmp_path / "home")
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_an_interrupt_stops_the_program_before_it_is_raised(tmp_path: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    job = Job(
        argv=(sys.executable, "-c", _POLITE), cwd=tmp_path, home=tmp_path / "home", limit_s=30, grace_s=10
    )
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(tmp_path / "child.json").run(job, on_tick=interrupt)
    assert _sleepers(tmp_path) == []


def test_a_program_dies_with_the_program_that_started_it(tmp_path: Path) -> None:
    parent = (
        "import sys; from pathlib import Path\n"
        "from ml_intern_cli.executors.process import Job, LocalExecutor\n"
        "here = Path(sys.argv[1])\n"
        f"argv = (sys.executable, '-c', {_POLITE!r})\n"
        "job = Job(argv=argv, cwd=here, home=here / 'home', limit_s=60, grace_s=5)\n"
        "LocalExecutor(here / 'child.json').run(job, on_tick=lambda _: print('tick', flush=True))\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    started.stdout.readline()
    assert _sleepers(tmp_path) != []
    started.kill()
    started.communicate()
    assert _none_is_left(tmp_path)


def test_an_orphan_is_ended_and_a_reused_process_id_is_not(tmp_path: Path) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    file = tmp_path / "child.json"
    created = psutil.Process(orphan.pid).create_time()
    gone = {"pid": 2**22 - 1, "created": 0.0}
    file.write_text(json.dumps({"child": {"pid": orphan.pid, "created": created - 3600}, "parent": gone}))
    assert end_orphan(file) is False
    parent = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    file.write_text(json.dumps({"child": {"pid": orphan.pid, "created": created}, "parent": parent}))
    assert end_orphan(file) is False  # its parent is at work: the run was copied
    assert orphan.poll() is None
    file.write_text(json.dumps({"child": {"pid": orphan.pid, "created": created}, "parent": gone}))
    assert end_orphan(file, grace_s=2.0) is True
    assert not psutil.pid_exists(orphan.pid)
    orphan.wait(timeout=10)
    assert not file.exists()
