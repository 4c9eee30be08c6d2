"""The watchdog, the environment, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ml_intern_cli.executors import children, docker, process
from ml_intern_cli.executors.children import end_orphan
from ml_intern_cli.executors.process import Finished, Job, LocalExecutor
from ml_intern_cli.executors.walls import Openings, Wall
from tests.unit.executors.bubblewrap import needs_bubblewrap
from tests.unit.executors.containers import needs_docker, use_docker, use_stand_in

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
_POLITE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    "print('up', flush=True); time.sleep(60)"
)
_FORKING = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
)


@pytest.fixture(
    params=[
        "none",
        pytest.param("bubblewrap", marks=needs_bubblewrap),
        "a stand-in for docker",
        pytest.param("docker", marks=needs_docker),
    ],
    autouse=True,
)
def wall(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wall]:
    """Everything here holds without a wall and behind each of them."""
    _CHOSEN["image"] = ""
    if request.param == "docker":
        _CHOSEN["image"] = use_docker(monkeypatch)
    elif "docker" in request.param:
        _CHOSEN["image"] = use_stand_in(tmp_path_factory.mktemp("stand-in") / "bin", monkeypatch)
    _CHOSEN["wall"] = Wall.DOCKER if "docker" in request.param else Wall(request.param)
    yield Wall(_CHOSEN["wall"])
    docker.daemon.cache_clear()


_CHOSEN: dict[str, str] = {}


def _executor() -> LocalExecutor:
    return LocalExecutor(wall=Wall(_CHOSEN["wall"]), image=_CHOSEN["image"])


def _run(
    tmp_path: Path,
    code: str,
    *,
    limit_s: float = 30.0,
    grace_s: float = 1.0,
    writable: tuple[Path, ...] = (),
) -> Finished:
    job = Job(
        argv=(sys.executable, "-c", code),
        cwd=tmp_path,
        home=tmp_path / "home",
        limit_s=limit_s,
        grace_s=grace_s,
        stdout=tmp_path / "out",
        stderr=tmp_path / "err",
        openings=Openings(writable=writable),
    )
    return _executor().run(job, on_tick=lambda _: None)


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
    _executor().run(job, on_tick=lambda _: seen.append(len(_sleepers(tmp_path))))
    assert max(seen) >= 2
    assert _none_is_left(tmp_path)


def test_a_program_that_forks_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wall: Wall
) -> None:
    if wall is Wall.DOCKER:
        pytest.skip("the daemon counts a container's processes, by --pids-limit")
    monkeypatch.setattr(process, "_MOST_PROCESSES", 20)
    # Each forks anew: twice as many every tenth of a second.
    finished = _run(tmp_path, "import os, time\nwhile True: os.fork(), time.sleep(0.1)")
    assert (finished.exit_code, finished.out_of_time) == (-signal.SIGKILL, False)
    assert "more than 20 processes" in (tmp_path / "err").read_text()
    assert _none_is_left(tmp_path)


def test_a_program_cannot_fill_the_disk_with_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "most_file_bytes", lambda _: 1 << 20)
    code = (
        "import os\nwith open('large', 'wb', buffering=0) as file:\n    while True: file.write(b'x' * 65536)"
    )
    finished = _run(tmp_path, code, writable=(tmp_path,))
    assert finished.exit_code == 1
    assert "File too large" in (tmp_path / "err").read_text()
    assert (tmp_path / "large").stat().st_size == 1 << 20


def test_a_program_cannot_fill_the_disk_with_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "most_file_bytes", lambda _: 1 << 20)
    finished = _run(tmp_path, "import os\nwhile True: os.write(1, b'x' * 65536)", limit_s=5)
    assert finished.exit_code != 0
    assert (tmp_path / "out").stat().st_size == 1 << 20
    assert _none_is_left(tmp_path)


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
        _executor().run(job, on_tick=interrupt)
    assert _sleepers(tmp_path) == []


def test_a_program_whose_time_is_over_before_its_limit_is_asked_to_stop(tmp_path: Path) -> None:
    began = time.monotonic()
    job = Job(
        argv=(sys.executable, "-c", _POLITE),
        cwd=tmp_path,
        home=tmp_path / "home",
        limit_s=30,
        grace_s=10,
        is_over=lambda: time.monotonic() - began > 2.0,
    )
    finished = _executor().run(job, on_tick=lambda _: None)
    assert finished.out_of_time
    assert not finished.killed
    assert finished.seconds < 20


def test_a_program_sees_only_the_device_that_it_was_given(tmp_path: Path) -> None:
    job = Job(
        argv=(sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"),
        cwd=tmp_path,
        home=tmp_path / "home",
        limit_s=30,
        grace_s=1,
        stdout=tmp_path / "out",
        device="3",
    )
    assert _executor().run(job, on_tick=lambda _: None).exit_code == 0
    assert (tmp_path / "out").read_text() == "3\n"


def _start_elsewhere(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    """A process that runs ``code`` in an executor, once it is up."""
    parent = (
        "import sys; from pathlib import Path\n"
        "from ml_intern_cli.executors.process import Job, LocalExecutor\n"
        "from ml_intern_cli.executors.walls import Wall\n"
        "here = Path(sys.argv[1])\n"
        f"argv = (sys.executable, '-c', {code!r})\n"
        "job = Job(argv=argv, cwd=here, home=here / 'home', limit_s=60, grace_s=5,"
        "    child_file=here / 'child.json')\n"
        "executor = LocalExecutor(wall=Wall(sys.argv[2]), image=sys.argv[3])\n"
        "executor.run(job, on_tick=lambda _: print('tick', flush=True))\n"
    )
    command = [sys.executable, "-c", parent, str(tmp_path), _CHOSEN["wall"], _CHOSEN["image"]]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    for _ in range(3):
        started.stdout.readline()
    assert _sleepers(tmp_path) != []
    return started


def test_a_program_dies_with_the_program_that_started_it(tmp_path: Path) -> None:
    started = _start_elsewhere(tmp_path, _POLITE)
    started.kill()
    started.communicate()
    assert _none_is_left(tmp_path)


def test_what_outlives_both_is_ended_by_the_next_one(tmp_path: Path) -> None:
    started = _start_elsewhere(tmp_path, _STUBBORN)
    child = json.loads((tmp_path / "child.json").read_text())["child"]["pid"]
    started.kill()
    started.communicate()
    if _CHOSEN["wall"] == Wall.DOCKER:  # the container outlives the docker command too
        os.kill(child, signal.SIGKILL)
        while psutil.pid_exists(child):
            time.sleep(0.05)
        assert _sleepers(tmp_path) != []
    end_orphan(tmp_path / "child.json", grace_s=1.0)
    assert _none_is_left(tmp_path)
    assert not (tmp_path / "child.json").exists()


def test_output_never_follows_a_link_that_a_program_left(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("the user's\n")
    (tmp_path / "err").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "out")
    _run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (tmp_path / "outside").read_text() == "the user's\n"
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("out\n", "err\n")


def test_a_home_that_became_a_link_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "outside")
    assert _run(tmp_path, "import os; open(os.path.expanduser('~/mine'), 'w')").exit_code == 0
    assert list((tmp_path / "outside").iterdir()) == []


def test_only_a_child_that_was_not_reaped_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process id could be another's by then."""
    killed: list[int] = []

    def kill(pid: int, number: int) -> None:
        assert psutil.pid_exists(pid), "the group's leader is gone, and its id with it"
        killed.append(pid)
        os.kill(-pid, number)

    monkeypatch.setattr(children.os, "killpg", kill)
    _run(tmp_path, "pass")
    _run(tmp_path, _POLITE, limit_s=2.0, grace_s=10.0)
    assert len(killed) == 2


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
