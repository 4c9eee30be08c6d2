"""A program in a container: the wall for those who choose Docker.

The container has the image's own system and Python, no network, no capability, nothing writable but
the directories that it is given and a /tmp of its own. What it is given stands at the same place as
outside, so that no path has to be translated. This package is put on its PYTHONPATH, read-only; what
the package and the programs import has to be in the image.

Source: docs.docker.com, "docker container run".
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.executors.walls import Openings

PROGRAM = "docker"
FAILED_TO_START = 125
"""The exit code of ``docker run`` when Docker, and not the program, failed."""
NOT_FOUND = (126, 127)
"""Its exit codes when the image has no such program."""
_PACKAGE = Path(__file__).resolve().parents[1]
_INSIDE = "/opt/ml-intern"  # where the package's folder stands in a container
_MOST_PROCESSES = 512
_TMP = "rw,exec,nosuid,nodev,size=8g,mode=1777"  # exec: compiled kernels are loaded from there
_ASK_TIMEOUT_S = 20.0
_NAME = re.compile(r"ml-intern-[0-9a-f]{32}")
_OF_THE_CLIENT = (  # what the docker command needs to find its daemon
    "PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH",
    "XDG_RUNTIME_DIR",
)  # fmt: skip
_OF_THE_HOST = frozenset({  # files of the host, which the image does not have
    "PATH", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
    "TORCHINDUCTOR_CACHE_DIR", "SSL_CERT_FILE", "PYTHONUSERBASE",
})  # fmt: skip
# The client passes the proxies of its configuration on, with the passwords in them, unless they are set.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What is to be known of the Docker that answers."""

    version: str
    has_nvidia: bool  # its nvidia runtime
    is_rootless: bool


@cache
def daemon() -> Daemon:
    """The Docker that answers.

    Raises:
        InvalidInput: none does; says why.
    """
    try:
        answer = _ask("info", "--format", "{{json .}}")
        facts = json.loads(answer.stdout or "{}")
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        reason = "it is not installed" if isinstance(error, FileNotFoundError) else str(error)
        raise _unusable(reason) from error
    if answer.returncode != 0 or not facts.get("ServerVersion"):
        said = [*facts.get("ServerErrors", []), *answer.stderr.splitlines()]
        raise _unusable(said[0] if said else f"docker info ended with code {answer.returncode}")
    return Daemon(
        version=str(facts["ServerVersion"]),
        has_nvidia="nvidia" in (facts.get("Runtimes") or {}),
        is_rootless=any("name=rootless" in one for one in facts.get("SecurityOptions") or ()),
    )


def require(image: str | None) -> str:
    """The image to run in.

    Raises:
        InvalidInput: Docker does not answer, no image is named, or it is not on this machine.
    """
    if not image:
        raise InvalidInput(
            "Docker needs an image that holds Python and what the programs import",
            hint="name one: --wall docker --docker-image IMAGE; docs/walls.md says how to make it",
        )
    daemon()
    try:
        found = _ask("image", "inspect", "--format", "{{.Id}}", "--", image)
    except subprocess.TimeoutExpired as error:
        raise _unusable(str(error)) from error
    if found.returncode != 0:
        raise InvalidInput(
            f"there is no image {image} on this machine, and none is fetched by itself",
            hint=f"docker pull {image} · or build one: docs/walls.md says how",
        )
    return image


def new_name() -> str:
    """A name for a container that no other has."""
    return f"ml-intern-{uuid.uuid4().hex}"


def contain(
    argv: tuple[str, ...],
    *,
    cwd: Path,
    openings: Openings,
    image: str,
    name: str,
    environment: Mapping[str, str],
    most_file_bytes: int,
) -> tuple[str, ...]:
    """The command that runs ``argv`` in ``cwd`` inside a container of that name."""
    program = "python" if argv[0] == sys.executable else argv[0]
    rootless = daemon().is_rootless
    memory = psutil.virtual_memory().total
    return (
        PROGRAM, "run", "--rm", "--init", "--name", name, "--pull", "never", "--log-driver", "none",
        "--no-healthcheck",
        "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--pids-limit", str(_MOST_PROCESSES), "--memory", f"{memory}b", "--memory-swap", f"{memory}b",
        "--shm-size", "1g",
        "--ulimit", "core=0:0", "--ulimit", f"fsize={most_file_bytes}:{most_file_bytes}",
        # Without root the daemon maps its root to the user who runs it.
        "--user", "0:0" if rootless else f"{os.getuid()}:{os.getgid()}",
        "--workdir", str(cwd.resolve()), "--tmpfs", f"/tmp:{_TMP}",  # noqa: S108, the container's own
        *_flags("--mount", _mounts(cwd, openings)),
        *_flags("--env", _variables(environment)),
        *(("--gpus", "all") if has_gpu() else ()),
        "--entrypoint", program, image, *argv[1:],
    )  # fmt: skip


def client_environment() -> dict[str, str]:
    """What the docker command itself is given; the program inside sees none of it."""
    return {name: os.environ[name] for name in _OF_THE_CLIENT if name in os.environ}


def remove(name: str, *, grace_s: float | None = None) -> bool:
    """End and remove one of this program's containers, after ``grace_s`` if given. Whether there was one.

    A name that ``new_name`` did not make is left alone.
    """
    if not _NAME.fullmatch(name):
        return False
    try:
        if grace_s is not None:
            _ask("stop", "--time", str(max(1, round(grace_s))), name, timeout_s=grace_s + _ASK_TIMEOUT_S)
        return _ask("rm", "--force", "--volumes", name).stdout.strip() == name
    except (OSError, subprocess.TimeoutExpired):
        return False  # Docker is gone or stuck: there is nobody to tell, and the run goes on


def has_gpu() -> bool:
    """Whether a container can be given the machine's GPUs."""
    return any(Path("/dev").glob("nvidia*")) and daemon().has_nvidia


def _ask(*arguments: str, timeout_s: float = _ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env=client_environment(),
    )


def _mounts(cwd: Path, openings: Openings) -> Iterator[str]:
    """Docker itself mounts outer directories before inner ones."""
    writable = {path.resolve() for path in openings.writable}
    for path in sorted({*(path.resolve() for path in (*openings.readable, cwd))} - writable):
        yield _mount(path, path, "readonly")
    for path in sorted(writable):
        yield _mount(path, path)
    for path in openings.hidden:
        yield _mount(Path(os.devnull), path.resolve(), "readonly")
    yield _mount(_PACKAGE, Path(_INSIDE) / _PACKAGE.name, "readonly")


def _mount(source: Path, target: Path, *flags: str) -> str:
    """One line of CSV, as docker reads it: a comma in a path is quoted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(("type=bind", f"src={source}", f"dst={target}", *flags))
    return line.getvalue()


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if name not in _OF_THE_HOST:
            yield f"{name}={value}"
    yield f"PYTHONPATH={_INSIDE}"
    for name in _PROXIES:
        yield f"{name}="
        yield f"{name.lower()}="


def _flags(flag: str, values: Iterator[str]) -> Iterator[str]:
    for value in values:
        yield from (flag, value)


def _unusable(reason: str) -> InvalidInput:
    return InvalidInput(
        f"Docker does not answer: {reason}",
        hint="start it, and see: docker info · or leave out --wall docker",
    )
