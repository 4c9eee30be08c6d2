"""Run a program of a path as a child process: no secrets, a wall, limits, a watchdog.

The child gets an allow-listed environment and a home of its own, so no token of the user's reaches
it through either, and runs behind the wall that the machine has or the user chose (see ``walls``).
When its time is spent it is asked to stop (SIGTERM: the training program writes a checkpoint), and
killed with all it started when it does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import psutil

from ml_intern_cli.documents import leavings
from ml_intern_cli.errors import MlInternError
from ml_intern_cli.executors import docker
from ml_intern_cli.executors.children import (
    Swarm,
    end_group,
    exit_code,
    has_ended,
    identity,
    kill_group,
    stop_group,
)
from ml_intern_cli.executors.surroundings import environment, make_home, most_file_bytes, preparation, sink
from ml_intern_cli.executors.walls import Openings, Wall, enclose, standing_wall

_TICK_S = 0.5
_MOST_PROCESSES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run.

    Attributes:
        home: Its home folder.
        limit_s: When it is asked to stop.
        grace_s: How long it then has before it is killed.
        stdout: Where its output goes; ``None``: thrown away.
        stderr: The same of its errors.
        openings: What it may see and write besides its home.
        device: The only GPU that it sees, as CUDA_VISIBLE_DEVICES has it; ``None``: all there are.
        child_file: Where its identity stands while it runs, so that a later process can end an orphan
            that outlived its parent.
        is_over: Asked about twice a second; once it says so, its time is spent whatever ``limit_s`` says.
    """

    argv: tuple[str, ...]
    cwd: Path
    home: Path
    limit_s: float
    grace_s: float
    stdout: Path | None = None
    stderr: Path | None = None
    openings: Openings = field(default_factory=Openings)
    device: str | None = None
    child_file: Path | None = None
    is_over: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended. A negative exit code is the signal that ended it."""

    exit_code: int
    seconds: float
    out_of_time: bool
    killed: bool  # it did not stop when asked


class Executor(Protocol):
    """Runs programs under walls and a watchdog."""

    @property
    def wall(self) -> Wall:
        """What keeps the programs in."""
        ...

    def run(self, job: Job, *, on_tick: Callable[[float], None]) -> Finished:
        """Run to the end; ``on_tick`` gets the elapsed seconds about twice a second."""
        ...


class LocalExecutor:
    """Runs programs on this machine, from any thread.

    Args:
        wall: Behind which the programs run; ``None``: the one that this machine has.
        image: For Docker, what the container is made from.
    """

    def __init__(self, *, wall: Wall | None = None, image: str = "") -> None:
        self._wall = wall
        self._image = image

    @property
    def wall(self) -> Wall:
        """What keeps the programs in. It is looked for when it is first needed."""
        return self._wall or standing_wall()

    def run(self, job: Job, *, on_tick: Callable[[float], None]) -> Finished:
        """Run ``job``; an interrupt stops the child gracefully and is raised again.

        Raises:
            KeyboardInterrupt: after the child has stopped.
            MlInternError: Docker could not start it.
        """
        make_home(job.home)
        start = self._start(job)
        started = time.monotonic()
        with ExitStack() as files:
            child = subprocess.Popen(
                start.argv,
                cwd=job.cwd,
                env=start.environment,
                stdin=subprocess.DEVNULL,
                stdout=files.enter_context(sink(job.stdout)),
                stderr=files.enter_context(sink(job.stderr)),
                start_new_session=True,
                preexec_fn=preparation(most_bytes=most_file_bytes(job.home)),  # noqa: PLW1509
            )
            if job.child_file is not None:
                _remember(job.child_file, child.pid, start.container)
            try:
                out_of_time, killed = _watch(child, job, started, on_tick)
            except BaseException:
                # Whatever interrupts the watching (Ctrl-C, a full disk in on_tick) must not leave the
                # child running; it gets the same chance to checkpoint as at the end of its time.
                stop_group(child, job.grace_s)
                raise
            finally:
                seconds = time.monotonic() - started
                end_group(child)
                if start.container is not None:
                    docker.remove(start.container)
                if job.child_file is not None:
                    job.child_file.unlink(missing_ok=True)
        finished = Finished(exit_code(child), seconds, out_of_time=out_of_time, killed=killed)
        if start.container is not None:
            _raise_if_not_started(finished, job, self._image)
        return finished

    def _start(self, job: Job) -> _Start:
        """How the job is started behind the wall."""
        surroundings = environment(job.home, device=job.device)
        openings = replace(job.openings, writable=(*job.openings.writable, job.home))
        if self.wall is Wall.BUBBLEWRAP:
            surroundings.pop("TMPDIR", None)  # it has a /tmp of its own
            return _Start(enclose(job.argv, cwd=job.cwd, openings=openings), surroundings)
        if self.wall is Wall.DOCKER:
            name = docker.new_name()
            argv = docker.contain(
                job.argv,
                cwd=job.cwd,
                openings=openings,
                image=self._image,
                name=name,
                environment=surroundings,
                most_file_bytes=most_file_bytes(job.home),
            )
            return _Start(argv, docker.client_environment(), name)
        return _Start(job.argv, surroundings)


@dataclass(frozen=True, slots=True)
class _Start:
    """A command that starts a job, and the name of the container that it makes, if it makes one."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    container: str | None = None


def _remember(file: Path, pid: int, container: str | None) -> None:
    try:
        known = {"child": identity(pid), "parent": identity(os.getpid()), "container": container}
    except psutil.NoSuchProcess:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known), encoding="utf-8")


def _watch(
    child: subprocess.Popen[bytes], job: Job, started: float, on_tick: Callable[[float], None]
) -> tuple[bool, bool]:
    """Wait until the child has ended or its time is spent. Returns (out of time, killed)."""
    swarm = Swarm(child.pid, most=_MOST_PROCESSES)

    def end(*, is_too_large: bool) -> None:
        if is_too_large:
            kill_group(child.pid)
            _add_line(job.stderr, f"stopped: more than {_MOST_PROCESSES} processes")

    while True:
        left = job.limit_s - (time.monotonic() - started)
        if left <= 0 or job.is_over():
            return True, stop_group(child, job.grace_s)
        if has_ended(
            child,
            within_s=min(_TICK_S, left),
            meanwhile=lambda: end(is_too_large=swarm.is_too_large()),
        ):
            return False, False
        end(is_too_large=swarm.is_surely_too_large())
        on_tick(time.monotonic() - started)


def _raise_if_not_started(finished: Finished, job: Job, image: str) -> None:
    """What Docker could not start says nothing about the program."""
    is_python = job.argv[0] == sys.executable
    is_docker = finished.exit_code == docker.FAILED_TO_START
    if not is_docker and not (is_python and finished.exit_code in docker.NOT_FOUND):
        return
    said = "" if job.stderr is None else leavings.tail(job.stderr.parent, job.stderr.name, lines=3)
    lines = said.splitlines() or [f"exit code {finished.exit_code}"]
    reason = next((line for line in lines if line.startswith("docker: ")), lines[-1])
    raise MlInternError(
        f"Docker could not start a program in {image}: {reason}",
        hint="ml-intern doctor --wall docker says what is missing; the image needs `python` on its PATH",
    )


def _add_line(log: Path | None, text: str) -> None:
    with sink(log) as file:
        file.write(f"{text}\n".encode())
