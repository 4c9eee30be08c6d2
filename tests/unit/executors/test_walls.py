"""What a program behind the wall tries to get at, and does not."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import tracemalloc
from pathlib import Path

import psutil
import pytest

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.executors import process
from ml_intern_cli.executors.process import Job, LocalExecutor
from ml_intern_cli.executors.walls import Openings, Wall, standing_wall
from ml_intern_cli.stages.programs import tail_of
from ml_intern_cli.stages.train import ending, last_checkpoint
from tests.unit.executors.bubblewrap import needs_bubblewrap

pytestmark = needs_bubblewrap

# Runs each attempt of the first argument, a JSON object, and writes what came of it as JSON.
_ATTEMPTS = """
import json, os, socket, subprocess, sys
from pathlib import Path
def attempt(code):
    try:
        return str(eval(code))
    except Exception as error:
        return type(error).__name__
print(json.dumps({name: attempt(code) for name, code in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token in it."""
    home = tmp_path / "somebody"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_a1b2c3")
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one path, data, and a neighbour."""
    run = tmp_path / "runs" / "a-run"
    for folder in ("path-a", "data", ".receipts"):
        (run / folder).mkdir(parents=True)
    (run / "PLAN.md").write_text("the plan")
    (run / "data" / "train-00000.bin").write_bytes(b"training")
    (run / "data" / "heldout-00000.bin").write_bytes(b"held out")
    (tmp_path / "runs" / "another").mkdir()
    (tmp_path / "runs" / "another" / "TASK.md").write_text("somebody else's")
    return run


def _attempt(run: Path, **attempts: str) -> dict[str, str]:
    path = run / "path-a"
    job = Job(
        argv=(sys.executable, "-c", _ATTEMPTS, json.dumps(attempts)),
        cwd=path,
        home=run / "scratch" / "home",
        limit_s=30,
        grace_s=1,
        stdout=run / "out",
        stderr=run / "err",
        openings=Openings(readable=(run,), writable=(path,), hidden=tuple((run / "data").glob("heldout-*"))),
    )
    finished = LocalExecutor(wall=Wall.BUBBLEWRAP).run(job, on_tick=lambda _: None)
    assert finished.exit_code == 0, (run / "err").read_text()
    return json.loads((run / "out").read_text())


def test_it_reads_the_run_and_writes_its_path(run: Path) -> None:
    got = _attempt(
        run,
        plan=f"Path({str(run / 'PLAN.md')!r}).read_text()",
        data=f"Path({str(run / 'data/train-00000.bin')!r}).read_bytes()",
        own="Path('train.log').write_text('step=1')",
        temporary="__import__('tempfile').mkstemp(prefix='of-its-own-')[1]",
        packages="__import__('numpy').__name__",
    )
    assert not Path(got.pop("temporary")).exists()
    assert got == {"plan": "the plan", "data": "b'training'", "own": "6", "packages": "numpy"}
    assert (run / "path-a" / "train.log").read_text() == "step=1"


def test_it_writes_nowhere_else(run: Path) -> None:
    got = _attempt(
        run,
        plan=f"Path({str(run / 'PLAN.md')!r}).write_text('mine')",
        receipts=f"Path({str(run / '.receipts/train.a.json')!r}).write_text('done')",
        data=f"Path({str(run / 'data/train-00000.bin')!r}).write_bytes(b'')",
        system="Path('/etc/ml-intern-test').write_text('x')",
        packages="Path(__import__('numpy').__file__).write_text('')",
        above="Path('../PLAN.md').write_text('mine')",
        link="(os.symlink('../PLAN.md', 'link'), Path('link').write_text('mine'))",
        rename="os.rename('../PLAN.md', 'PLAN.md')",
    )
    assert set(got.values()) <= {"OSError", "PermissionError"}
    assert (run / "PLAN.md").read_text() == "the plan"


def test_it_finds_no_secret(run: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a1b2c3")
    environ = Path(f"/proc/{os.getpid()}/environ")
    got = _attempt(
        run,
        token=f"Path({str(home / '.cache/huggingface/token')!r}).read_text()",
        home=f"os.listdir({str(home)!r})",
        parent=f"Path({str(environ)!r}).read_bytes()",
        everybody="b''.join(path.read_bytes() for path in Path('/proc').glob('[0-9]*/environ'))",
        other_runs=f"Path({str(run.parent / 'another/TASK.md')!r}).read_text()",
        sockets="os.listdir('/run')",
        other_homes="[os.listdir(home) for home in ('/root', '/home') if os.path.isdir(home)]",
    )
    assert "hf_a1b2c3" not in json.dumps(got)
    assert got["token"] == got["parent"] == got["other_runs"] == "FileNotFoundError"
    assert (got["home"], got["sockets"]) == ("[]", "[]")
    assert set(re.findall(r"'([^']*)'", got["other_homes"])) <= {".pyenv", ".local"}  # the interpreter's


def test_it_reads_no_held_out_shard_by_any_of_its_names(run: Path) -> None:
    shard = run / "data" / "heldout-00000.bin"
    os.link(shard, run / "data" / "heldout-00001.bin")
    got = _attempt(
        run,
        itself=f"Path({str(shard)!r}).read_bytes()",
        relative="Path('../data/heldout-00000.bin').read_bytes()",
        mapped=f"__import__('numpy').memmap({str(shard)!r}, dtype='uint8', mode='r')[:]",
        through_proc=f"Path('/proc/self/root' + {str(shard)!r}).read_bytes()",
        through_a_link=f"(os.symlink({str(shard)!r}, 'mine'), Path('mine').read_bytes())",
        by_moving="os.rename('../data', 'data')",
        by_linking=f"os.link({str(shard)!r}, 'hard')",
        by_another_name=f"Path({str(run / 'data/heldout-00001.bin')!r}).read_bytes()",
        what_is_there=f"sorted(os.listdir({str(run / 'data')!r}))",
    )
    assert "held out" not in json.dumps(got)
    assert "train-00000.bin" in got["what_is_there"]


def test_it_reaches_no_network_and_no_process(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        got = _attempt(
            run,
            loopback=f"socket.create_connection(('127.0.0.1', {port}), 2)",
            internet="socket.create_connection(('192.0.2.1', 80), 2)",
            raw="socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            kill=f"os.kill({os.getpid()}, 0)",
            processes="len(list(Path('/proc').glob('[0-9]*')))",
            mount="subprocess.run(['mount', '-o', 'remount,rw', '/'], capture_output=True).returncode != 0",
        )
    assert got["loopback"] == "ConnectionRefusedError"
    assert got["internet"] == "OSError"
    assert got["raw"] == "PermissionError"
    assert got["kill"] == "ProcessLookupError"
    assert int(got["processes"]) <= 3
    assert got["mount"] == "True"


def test_it_reaches_no_socket_that_is_no_address(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abstract sockets belong to the network namespace; those with a path are hidden with their folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "of-the-session"))
    (tmp_path / "of-the-session").mkdir()
    path, abstract = str(tmp_path / "of-the-session" / "agent"), f"ml-intern-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
        by_path.bind(path)
        by_name.bind(f"\0{abstract}")
        by_path.listen()
        by_name.listen()
        got = _attempt(
            run,
            by_path=f"socket.socket(socket.AF_UNIX).connect({path!r})",
            by_name=f"socket.socket(socket.AF_UNIX).connect(chr(0) + {abstract!r})",
            docker="socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
        )
    assert got == {
        "by_path": "FileNotFoundError",
        "by_name": "ConnectionRefusedError",
        "docker": "FileNotFoundError",
    }


def test_it_resolves_no_name(run: Path) -> None:
    got = _attempt(run, name="socket.getaddrinfo('huggingface.co', 443)")
    assert got == {"name": "gaierror"}


_BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    if not os.fork(): os.setsid()
    time.sleep(0.1)
"""


def test_a_bomb_of_processes_ends_with_all_of_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MOST_PROCESSES", 40)
    job = Job(
        # Each of them forks, in a session of its own, and pays no heed to being asked to stop.
        argv=(sys.executable, "-c", _BOMB),
        cwd=run / "path-a",
        home=run / "scratch" / "home",
        limit_s=30,
        grace_s=1,
        stderr=run / "err",
        openings=Openings(readable=(run,), writable=(run / "path-a",)),
    )
    finished = LocalExecutor(wall=Wall.BUBBLEWRAP).run(job, on_tick=lambda _: None)
    assert not finished.out_of_time
    assert "more than 40 processes" in (run / "err").read_text()
    deadline = time.monotonic() + 20
    while _working_in(run / "path-a") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _working_in(run / "path-a") == []


def _working_in(folder: Path) -> list[int]:
    found = []
    for one in psutil.process_iter():
        try:
            if one.cwd() == str(folder) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
        except psutil.Error:
            continue
    return found


# What a program may leave in place of each file that is read after it, or while it runs.
_TRAPS = {
    "a link": "os.symlink({outside!r}, name)",
    "a pipe": "os.mkfifo(name)",
    "a hole": "os.truncate(os.open(name, os.O_CREAT | os.O_WRONLY), 10 << 30)",
    "a folder": "os.mkdir(name)",
    "a socket": "socket.socket(socket.AF_UNIX).bind(name)",
}


@pytest.mark.parametrize("trap", _TRAPS)
def test_what_it_leaves_neither_leads_out_nor_hangs_nor_fills_memory(
    run: Path, tmp_path: Path, trap: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text('{"status": "done", "step": 1, "loss": 1.5, "failed": "hf_a1b2c3"}')
    names = ("metrics.jsonl", "ckpts/last.json", "ckpts/ended.json", "calibration.json", "train.stderr")
    set_up = _TRAPS[trap].format(outside=str(outside))
    layout = RunLayout(run)
    _attempt(
        run,
        folder="os.mkdir('ckpts')",
        **{str(i): f"[{set_up} for name in [{n!r}]]" for i, n in enumerate(names)},
    )
    assert os.path.lexists(run / "path-a" / "metrics.jsonl")
    tracemalloc.start()
    assert last_checkpoint(layout, "a") == ending(layout, "a") == {}
    assert [tail_of(run / "path-a" / name) for name in names if trap != "a hole"] == [""] * 5 * (
        trap != "a hole"
    )
    assert list(leavings.read_rows(run / "path-a", "metrics.jsonl")) == []
    assert leavings.read_object(run / "path-a", "calibration.json") == {}
    with pytest.raises(OSError):
        leavings.read_text(run / "path-a", "train.stderr")
    with pytest.raises(OSError):
        leavings.read_bytes(run, "path-a/calibration.json")
    if trap != "a hole":
        with pytest.raises(OSError):
            leavings.copy(run / "path-a", "metrics.jsonl", tmp_path / "copied")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_link_that_comes_and_goes_is_never_followed(run: Path, tmp_path: Path) -> None:
    """The program swaps its file for a link as fast as it can, while its parent reads it each tick."""
    outside = tmp_path / "outside"
    outside.write_text('{"loss": 6.66, "step": 1}\n')
    swapping = (
        "import os, time\nend = time.time() + 4\nopen('mine', 'w').write('{\"loss\": 1.0, \"step\": 1}')\n"
        "os.mkdir('real'); os.link('mine', 'real/last.json')\n"
        f"os.symlink({str(outside)!r}, 'link')\nos.symlink({str(tmp_path)!r}, 'away')\n"
        "while time.time() < end:\n"
        "    for name in ('mine', 'link'):\n"
        "        os.link(name, 'new', follow_symlinks=False); os.replace('new', 'metrics.jsonl')\n"
        "    for name in ('real', 'away'):\n"
        "        os.rename(name, 'ckpts'); os.rename('ckpts', name)\n"
    )
    (tmp_path / "last.json").write_text('{"loss": 6.66, "step": 1}')
    seen: list[str] = []

    def look(_: float) -> None:
        for _ in range(3000):
            seen.append(tail_of(run / "path-a" / "metrics.jsonl"))
            seen.append(json.dumps(leavings.read_object(run / "path-a", "ckpts/last.json")))

    job = Job(
        argv=(sys.executable, "-c", swapping),
        cwd=run / "path-a",
        home=run / "scratch" / "home",
        limit_s=30,
        grace_s=1,
        stderr=run / "err",
        openings=Openings(readable=(run,), writable=(run / "path-a",)),
    )
    finished = LocalExecutor(wall=Wall.BUBBLEWRAP).run(job, on_tick=look)
    assert finished.exit_code == 0, (run / "err").read_text()
    assert any("1.0" in text for text in seen)
    assert not any("6.66" in text for text in seen)


def test_the_wall_is_tried_and_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = tmp_path / "bwrap"
    forbidden.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    forbidden.chmod(0o755)
    for path, wall in ((str(tmp_path), Wall.NONE), (str(tmp_path / "empty"), Wall.NONE)):
        monkeypatch.setenv("PATH", path)
        standing_wall.cache_clear()
        assert standing_wall() is wall
    monkeypatch.undo()
    standing_wall.cache_clear()
    assert standing_wall() is Wall.BUBBLEWRAP
