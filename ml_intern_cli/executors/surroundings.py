"""What surrounds a child process: its environment, its home, its limits, and where its output goes."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import site
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from ml_intern_cli.executors.walls import has_accelerator
from ml_intern_cli.rlimits import lower

# What a numerical Python program needs of its surroundings, and nothing that can hold a secret.
_ALLOWED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR", "SSL_CERT_FILE",
)  # fmt: skip
_MOST_OF_FREE_DISK = 0.9  # in one file
_LEAST_FILE_BYTES = 1 << 30  # on a disk that is nearly full the error should say that it is full


def environment(home: Path, *, device: str | None = None) -> dict[str, str]:
    """The child's environment: allow-listed names, a home of its own, no way to the Hub.

    Args:
        home: Its home.
        device: The only GPU that it is to see; ``None``: those that this process sees.
    """
    inherited = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
    if device is not None:
        inherited["CUDA_VISIBLE_DEVICES"] = device
    return inherited | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # How long threads spin before they sleep. By default long enough that two programs on one machine
        # slow each other down fourfold; at once, as OMP_WAIT_POLICY=PASSIVE has it, a third of the speed of
        # one program alone is lost to waking up (PyTorch's CPU builds use GNU's OpenMP).
        "GOMP_SPINCOUNT": "1000",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUSERBASE": site.getuserbase(),  # a --user installation stays importable under another HOME
    }


def make_home(home: Path) -> None:
    """The child's home. What stands in for it, a link put there by an earlier child, is taken away."""
    if home.is_symlink():
        home.unlink()
    home.mkdir(parents=True, exist_ok=True)


def sink(path: Path | None) -> BinaryIO:
    """Where output goes. A link or a pipe that an earlier child left under that name is replaced."""
    if path is None:
        return Path(os.devnull).open("wb")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def preparation(*, most_bytes: int) -> Callable[[], None]:
    """What the child does before it becomes the program: no core dumps, no endless files."""
    # Drivers of accelerators reserve far more than they use.
    most_memory = resource.RLIM_INFINITY if has_accelerator() else psutil.virtual_memory().total

    def prepare() -> None:
        lower(resource.RLIMIT_CORE, 0)
        lower(resource.RLIMIT_FSIZE, most_bytes)
        lower(resource.RLIMIT_DATA, most_memory)
        if sys.platform == "linux":
            _LIBC.prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG: SIGTERM when the parent dies (prctl(2))

    return prepare


_LIBC = ctypes.CDLL(None)


def most_file_bytes(place: Path) -> int:
    """How large one file may become on the disk of ``place``."""
    return max(_LEAST_FILE_BYTES, int(_MOST_OF_FREE_DISK * shutil.disk_usage(place).free))
