"""What a program behind the wall tries to get at, and does not."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from ml_intern_cli.executors.process import Job, LocalExecutor
from ml_intern_cli.executors.walls import Openings, Wall, standing_wall
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
        openings=Openings(readable=(run,), writable=(path,), hidden=(run / "data" / "heldout-00000.bin",)),
    )
    finished = LocalExecutor(run / "child.json", wall=Wall.BUBBLEWRAP).run(job, on_tick=lambda _: None)
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
        held_out=f"Path({str(run / 'data/heldout-00000.bin')!r}).read_bytes()",
        sockets="os.listdir('/run')",
    )
    assert "hf_a1b2c3" not in json.dumps(got)
    assert got["token"] == got["parent"] == got["other_runs"] == "FileNotFoundError"
    assert (got["home"], got["held_out"], got["sockets"]) == ("[]", "PermissionError", "[]")


def test_it_reaches_no_network_and_no_process(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        got = _attempt(
            run,
            loopback=f"socket.create_connection(('127.0.0.1', {port}), 2)",
            internet="socket.create_connection(('192.0.2.1', 80), 2)",
            kill=f"os.kill({os.getpid()}, 0)",
            processes="len(list(Path('/proc').glob('[0-9]*')))",
            mount="subprocess.run(['mount', '-o', 'remount,rw', '/'], capture_output=True).returncode != 0",
        )
    assert got["loopback"] == "ConnectionRefusedError"
    assert got["internet"] == "OSError"
    assert got["kill"] == "ProcessLookupError"
    assert int(got["processes"]) <= 3
    assert got["mount"] == "True"


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
