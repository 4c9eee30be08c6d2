"""Docker for tests: the real one where a daemon and an image are named, and a stand-in everywhere.

    ML_INTERN_TEST_DOCKER_IMAGE=… pytest tests/unit/executors

The image needs `python` with this package's dependencies; DOCKER_HOST is taken as it stands.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ml_intern_cli.executors import docker

IMAGE = os.environ.get("ML_INTERN_TEST_DOCKER_IMAGE", "")
_DOCKER_HOST = os.environ.get("DOCKER_HOST", "")  # read before the tests' surroundings are cleaned

needs_docker = pytest.mark.skipif(not IMAGE, reason="ML_INTERN_TEST_DOCKER_IMAGE names no image")

_STAND_IN = '''#!{python}
"""Takes the arguments of docker, refuses those it does not know, and runs the program on the host.

What it starts is no child of its own, as a container is none of the docker command's.
"""
import json, os, resource, signal, subprocess, sys, time
from pathlib import Path

STATE = Path(__file__).parent / "state"
ALONE = {{"--rm", "--init", "--no-healthcheck", "--read-only"}}
VALUED = {{"--name", "--pull", "--log-driver", "--network", "--cap-drop", "--security-opt", "--pids-limit",
    "--memory", "--memory-swap", "--shm-size", "--ulimit", "--user", "--workdir", "--tmpfs", "--mount",
    "--env", "--gpus", "--entrypoint"}}


def run(arguments):
    given = []
    while arguments and arguments[0].startswith("--"):
        flag = arguments.pop(0)
        if flag in ALONE:
            given.append((flag, ""))
        elif flag in VALUED:
            given.append((flag, arguments.pop(0)))
        else:
            sys.exit(f"docker: unknown flag: {{flag}}") or 125
    image, *rest = arguments
    one = dict(given)
    name = one["--name"]
    (STATE / "last.json").write_text(json.dumps({{"given": given, "image": image, "rest": rest}}))
    if image == "broken":
        print("docker: Error response from daemon: could not select device driver.", file=sys.stderr)
        sys.exit(125)
    program = sys.executable if one["--entrypoint"] == "python" else one["--entrypoint"]
    variables = dict(value.split("=", 1) for flag, value in given if flag == "--env")
    fsize = next(int(v.split("=")[1].split(":")[0]) for f, v in given if f == "--ulimit" and "fsize" in v)
    pid_file, code_file = STATE / f"{{name}}.pid", STATE / f"{{name}}.code"
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        def prepare():
            os.setsid()
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (min(fsize, hard), hard))
        inner = subprocess.Popen([program, *rest], cwd=one["--workdir"], env=variables, preexec_fn=prepare)
        put(pid_file, inner.pid)
        code = inner.wait()
        try:
            os.killpg(inner.pid, signal.SIGKILL)  # a container ends with its first process
        except ProcessLookupError:
            pass
        put(code_file, code if code >= 0 else 128 - code)
        os._exit(0)
    os.wait()
    def proxy(number, frame):
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), number)
    signal.signal(signal.SIGTERM, proxy)
    while not code_file.exists():
        time.sleep(0.02)
    pid_file.unlink(missing_ok=True)
    sys.exit(int(code_file.read_text()))


def put(file, number):
    aside = file.with_suffix(file.suffix + "-new")
    aside.write_text(str(number))
    aside.rename(file)


def end(name, number):
    pid_file = STATE / f"{{name}}.pid"
    if not pid_file.exists() or (STATE / f"{{name}}.code").exists():
        sys.exit(f"Error: No such container: {{name}}")
    os.killpg(int(pid_file.read_text()), number)


STATE.mkdir(exist_ok=True)
match sys.argv[1:]:
    case ["info", "--format", "{{{{json .}}}}"]:
        facts = {{"ServerVersion": "0-stand-in", "Runtimes": {{"runc": {{}}}}, "SecurityOptions": []}}
        print(json.dumps(facts))
    case ["image", "inspect", "--format", "{{{{.Id}}}}", "--", image]:
        sys.exit(0 if image in {{"stand-in", "broken"}} else 1)
    case ["run", *arguments]:
        run(arguments)
    case ["stop", "--time", _, name]:
        end(name, signal.SIGTERM)
    case ["rm", "--force", "--volumes", name]:
        end(name, signal.SIGKILL)
        print(name)
    case other:
        sys.exit(f"docker: unknown command: {{other}}")
'''


def use_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the stand-in in front of PATH; the name of its image."""
    folder.mkdir()
    program = folder / "docker"
    program.write_text(_STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    docker.daemon.cache_clear()
    return "stand-in"


def use_docker(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the daemon reachable from a test's clean surroundings; the name of the image."""
    if _DOCKER_HOST:
        monkeypatch.setenv("DOCKER_HOST", _DOCKER_HOST)
    docker.daemon.cache_clear()
    return IMAGE
