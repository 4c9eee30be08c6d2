"""Docker is used only when it is chosen, and given nothing but what a program needs."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_intern_cli.errors import InvalidInput, MlInternError
from ml_intern_cli.executors import docker, sandbox
from ml_intern_cli.executors.process import Job, LocalExecutor
from ml_intern_cli.executors.sandbox import SandboxSettings, make_executor
from ml_intern_cli.executors.walls import Openings, Wall
from tests.unit.executors.bubblewrap import needs_bubblewrap
from tests.unit.executors.containers import needs_docker, use_docker, use_stand_in


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    docker.daemon.cache_clear()
    yield
    docker.daemon.cache_clear()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a program named docker that is first on PATH."""
    use_stand_in(tmp_path / "bin", monkeypatch)
    return tmp_path / "bin"


def _job(run: Path, *argv: str) -> Job:
    path = run / "path-a"
    path.mkdir(parents=True, exist_ok=True)
    (run / "heldout-0.bin").write_bytes(b"held out")
    return Job(
        argv=argv,
        cwd=path,
        home=run / "home",
        limit_s=60,
        grace_s=1,
        stdout=run / "out",
        stderr=run / "err",
        openings=Openings(readable=(run,), writable=(path,), hidden=(run / "heldout-0.bin",)),
    )


def test_the_whole_command_is_this(tmp_path: Path, stand_in: Path) -> None:
    run = tmp_path / "a, run"
    job = _job(run, sys.executable, "train.py", "--seconds", "3")
    command = docker.contain(
        job.argv,
        cwd=job.cwd,
        openings=job.openings,
        image="an-image",
        name="ml-intern-x",
        environment={
            "HOME": str(job.home),
            "PATH": "/usr/bin",
            "VIRTUAL_ENV": "/venv",
            "HF_HUB_OFFLINE": "1",
        },
        most_file_bytes=1000,
    )
    at = command.index("--mount")
    memory = command[command.index("--memory") + 1]
    package = Path(docker.__file__).parents[1]
    assert command[:at] == (
        "docker", "run", "--rm", "--init", "--name", "ml-intern-x", "--pull", "never", "--log-driver", "none",
        "--no-healthcheck", "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--pids-limit", "512", "--memory", memory,
        "--memory-swap", memory, "--shm-size", "1g", "--ulimit", "core=0:0", "--ulimit", "fsize=1000:1000",
        "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", str(run / "path-a"),
        "--tmpfs", "/tmp:rw,exec,nosuid,nodev,size=8g,mode=1777",  # noqa: S108
    )  # fmt: skip
    values = [command[i + 1] for i, flag in enumerate(command) if flag == "--mount"]
    assert [next(csv.reader([value])) for value in values] == [
        ["type=bind", f"src={run}", f"dst={run}", "readonly"],
        ["type=bind", f"src={run}/path-a", f"dst={run}/path-a"],
        ["type=bind", "src=/dev/null", f"dst={run}/heldout-0.bin", "readonly"],
        ["type=bind", f"src={package}", "dst=/opt/ml-intern/ml_intern_cli", "readonly"],
    ]
    variables = [command[i + 1] for i, flag in enumerate(command) if flag == "--env"]
    assert variables[:3] == [f"HOME={job.home}", "HF_HUB_OFFLINE=1", "PYTHONPATH=/opt/ml-intern"]
    assert {"HTTPS_PROXY=", "https_proxy="} < set(variables[3:])
    assert command[-6:] == ("--entrypoint", "python", "an-image", "train.py", "--seconds", "3")


def test_the_program_gets_what_it_needs_and_the_client_what_it_needs(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a1b2c3")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pa55word@proxy")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    executor = LocalExecutor(wall=Wall.DOCKER, image="stand-in")
    finished = executor.run(_job(tmp_path / "run", sys.executable, "-c", code), on_tick=lambda _: None)
    assert finished.exit_code == 0
    seen = json.loads((tmp_path / "run" / "out").read_text())
    assert seen["HOME"] == str(tmp_path / "run" / "home")
    assert seen["HTTPS_PROXY"] == ""
    everything = json.dumps(seen) + (stand_in / "state" / "last.json").read_text()
    assert "hf_a1b2c3" not in everything
    assert "pa55word" not in everything
    assert "HF_TOKEN" not in docker.client_environment()


def test_a_container_that_docker_cannot_start_is_no_fault_of_the_program(
    tmp_path: Path, stand_in: Path
) -> None:
    executor = LocalExecutor(wall=Wall.DOCKER, image="broken")
    with pytest.raises(MlInternError, match="could not select device driver"):
        executor.run(_job(tmp_path / "run", sys.executable, "-c", "pass"), on_tick=lambda _: None)


def test_only_containers_of_this_program_are_removed(stand_in: Path) -> None:
    state = stand_in / "state"
    state.mkdir()
    for name in ("postgres", "ml-intern-mine", docker.new_name() + "x", "--all"):
        assert docker.remove(name, grace_s=1.0) is False
    assert list(state.iterdir()) == []


def test_docker_is_never_taken_by_itself(tmp_path: Path, stand_in: Path) -> None:
    assert make_executor(SandboxSettings()).wall is not Wall.DOCKER
    chosen = SandboxSettings(wall="docker", docker_image="stand-in")
    assert make_executor(chosen).wall is Wall.DOCKER


@pytest.mark.parametrize(
    ("image", "message"), [(None, "needs an image"), ("", "needs an image"), ("ghost", "no image ghost")]
)
def test_an_image_has_to_be_there(stand_in: Path, image: str | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make_executor(SandboxSettings(wall="docker", docker_image=image))


def test_a_docker_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = SandboxSettings(wall="docker", docker_image="any")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="Docker does not answer: it is not installed"):
        make_executor(chosen)
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(InvalidInput, match="Cannot connect to the Docker daemon"):
        make_executor(chosen)


def test_a_wall_that_does_not_stand_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "standing_wall", lambda: Wall.NONE)
    with pytest.raises(InvalidInput) as refused:
        make_executor(SandboxSettings(wall="bubblewrap"))
    assert "bubblewrap" in str(refused.value.hint)
    with pytest.raises(InvalidInput, match="no wall named 'moat'"):
        make_executor(SandboxSettings(wall="moat"))
    assert make_executor(SandboxSettings(wall="none")).wall is Wall.NONE


@needs_bubblewrap
def test_bubblewrap_can_be_insisted_on() -> None:
    assert make_executor(SandboxSettings(wall="bubblewrap")).wall is Wall.BUBBLEWRAP


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


@needs_docker
def test_a_container_keeps_a_program_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = use_docker(monkeypatch)
    run, home = tmp_path / "run", tmp_path / "somebody"
    (run / "path-a").mkdir(parents=True)
    (run / "PLAN.md").write_text("the plan")
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_a1b2c3")
    with socket_server() as port:
        attempts = {
            "plan": f"Path({str(run / 'PLAN.md')!r}).read_text()",
            "own": "Path('train.log').write_text('step=1')",
            "home": "Path('~/mine').expanduser().write_text('x')",
            "temporary": "Path('/tmp/x').write_text('x')",
            "write_plan": f"Path({str(run / 'PLAN.md')!r}).write_text('mine')",
            "write_system": "Path('/etc/x').write_text('x')",
            "write_package": "Path('/opt/ml-intern/ml_intern_cli/x').write_text('x')",
            "token": f"Path({str(home / '.cache/huggingface/token')!r}).read_text()",
            "held_out": f"Path({str(run / 'heldout-0.bin')!r}).read_bytes()",
            "parent": f"Path('/proc/{os.getpid()}/environ').read_bytes()",
            "loopback": f"socket.create_connection(('127.0.0.1', {port}), 2)",
            "internet": "socket.create_connection(('192.0.2.1', 80), 2)",
            "name": "socket.getaddrinfo('huggingface.co', 443)",
            "docker": "os.path.exists('/var/run/docker.sock')",
            "mount": "subprocess.run(['/bin/sh', '-c', 'mount -t tmpfs x /mnt']).returncode != 0",
            "package": "__import__('ml_intern_cli.judge.verify').__file__",
            "torch": "float(__import__('torch').ones(2).sum())",
        }
        job = _job(run, sys.executable, "-c", _ATTEMPTS, json.dumps(attempts))
        executor = LocalExecutor(wall=Wall.DOCKER, image=image)
        finished = executor.run(job, on_tick=lambda _: None)
    assert finished.exit_code == 0, (run / "err").read_text()
    got = json.loads((run / "out").read_text())
    assert (got["plan"], got["own"], got["home"], got["temporary"]) == ("the plan", "6", "1", "1")
    assert {got[name] for name in got if name.startswith("write_")} == {"OSError"}
    assert got["token"] == got["parent"] == "FileNotFoundError"
    assert got["held_out"] in {"b''", "PermissionError"}
    assert (got["loopback"], got["internet"], got["name"]) == (
        "ConnectionRefusedError",
        "OSError",
        "gaierror",
    )
    assert (got["docker"], got["mount"]) == ("False", "True")
    assert got["package"].startswith("/opt/ml-intern/")
    assert got["torch"] == "2.0"
    assert (run / "path-a" / "train.log").read_text() == "step=1"


@needs_docker
def test_a_container_has_512_processes_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = use_docker(monkeypatch)
    code = (
        "import os, signal\nfor n in range(2000):\n    try:\n        if not os.fork(): signal.pause()\n"
        "    except BlockingIOError:\n        print(n); break\n"
    )
    executor = LocalExecutor(wall=Wall.DOCKER, image=image)
    executor.run(_job(tmp_path / "run", sys.executable, "-c", code), on_tick=lambda _: None)
    assert 500 <= int((tmp_path / "run" / "out").read_text()) < 512


@needs_docker
def test_an_image_without_the_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = use_docker(monkeypatch)
    executor = LocalExecutor(wall=Wall.DOCKER, image=f"{image}-that-is-not-there")
    with pytest.raises(MlInternError, match=r"Docker could not start a program in .*-that-is-not-there"):
        executor.run(_job(tmp_path / "run", sys.executable, "-c", "pass"), on_tick=lambda _: None)


class socket_server:  # noqa: N801, reads as a phrase
    """A server on loopback, and its port."""

    def __enter__(self) -> int:
        import socket

        self._server = socket.create_server(("127.0.0.1", 0))
        return int(self._server.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._server.close()
