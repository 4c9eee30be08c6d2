"""The interpreter that the starts of train.py are forked from, so that torch is imported once for all.

Run as a program: one JSON request per line on stdin, two replies on stdout: ``{"pid": N}``, and when that
process has ended ``{"exit_code": N}``, by when nothing that it started is left. A start is what
``python train.py`` is, in a session of its own: libraries are there already, nothing of the path is.

The standard library only, until the libraries that training programs use are imported once.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_USUAL_LIBRARIES = (
    "torch", "numpy", "safetensors.torch", "tokenizers", "psutil", "accelerate",
    "torch._dynamo", "torch.distributed.tensor",  # the first optimizer step imports them, for seconds
)  # fmt: skip
_SET_CHILD_SUBREAPER, _SET_PDEATHSIG = 36, 1  # prctl(2)
_LEAST_OPEN_FILES = 3
_KEEP_SIZE = 1  # fallocate(2)
_RESERVED_BYTES = 64 << 10  # for stderr


def main() -> None:
    """Serve until stdin ends, and exit. Returns in a forked child only, which then runs its program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the judge
    for name in _USUAL_LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)  # what leaves its group comes back to this process
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            return
        _reply(pid=pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # its group is still its own: it was not reaped
        _, status = os.waitpid(pid, 0)
        _kill_orphans()
        _reply(exit_code=os.waitstatus_to_exitcode(status))
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Turn this forked process into a fresh start of the program."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = request["most_bytes"] if hard == resource.RLIM_INFINITY else min(hard, request["most_bytes"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    devnull = os.open(os.devnull, os.O_RDONLY)
    files = [devnull] + [
        os.open(request[n], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for n in ("stdout", "stderr")
    ]
    with suppress(AttributeError):  # room to say in that there is none on the disk
        libc = ctypes.CDLL(None)
        libc.fallocate64(files[-1], _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(_RESERVED_BYTES))
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.closerange(_LEAST_OPEN_FILES, 64)
    os.environ.update(request["environment"])
    _landlock().hide(request["hidden"])
    os.chdir(request["cwd"])
    sys.argv[:] = [request["program"]]
    sys.path[0] = request["cwd"]
    if "multiprocessing.process" in sys.modules:  # it remembers where a program started
        sys.modules["multiprocessing.process"].ORIGINAL_DIR = request["cwd"]  # type: ignore[attr-defined]
    if "tempfile" in sys.modules:  # it remembers where temporary files went
        sys.modules["tempfile"].tempdir = None  # type: ignore[attr-defined]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # forks of one interpreter would draw the same numbers unseeded
    sys.modules["sitecustomize"].attach_recorder()


def _landlock() -> ModuleType:
    """``judge.confinement.landlock``, without a trace of the judge among this program's modules."""
    file = Path(__file__).resolve().parents[1] / "confinement" / "landlock.py"
    spec = importlib.util.spec_from_file_location("_landlock", file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it is part of the package
    landlock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(landlock)
    return landlock


def _kill_orphans() -> None:
    """Kill what the program detached from its group, until nothing is left."""
    for _ in range(1_000):
        for child in _children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _reply(**values: int) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
    runpy.run_path(str(Path.cwd() / sys.argv[0]), run_name="__main__")
