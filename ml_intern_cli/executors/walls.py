"""The wall around a program that somebody else wrote: what it can see, write to and reach.

With bubblewrap (Linux) a program runs in namespaces of its own: every file is read-only but for the
directories it is given; the user's home, /tmp and /run are empty; there is no network; it sees no
process but its own. In Docker, for those who choose it (see ``docker``), the system is the image's
too. Without a wall a program still gets an environment without secrets, limits and a watchdog (see
``process``), but the user's files are as open to it as to the user.

Source: bubblewrap, github.com/containers/bubblewrap (bwrap(1)).
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

_PROBE_TIMEOUT_S = 10.0
_EMPTIED = ("/tmp", "/var/tmp", "/run", "/home", "/root")  # noqa: S108, named in order to be hidden
_ALSO_EMPTIED = ("TMPDIR", "XDG_RUNTIME_DIR")  # where sockets are, which a read-only mount leaves open
_DEVICES = ("nvidia*", "dri", "kfd")  # accelerators; everything else under /dev is bubblewrap's own
_NAMESPACES = (
    "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--cap-drop", "ALL", "--die-with-parent",
)  # fmt: skip


class Wall(StrEnum):
    """What keeps a program in."""

    BUBBLEWRAP = "bubblewrap"
    DOCKER = "docker"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """What a program needs of the machine beside its interpreter.

    Attributes:
        readable: Directories that stay visible even below the user's home or /tmp.
        writable: Directories it may write to, and no others.
        hidden: Files that it cannot read.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


@cache
def standing_wall() -> Wall:
    """The wall that this machine has. It is tried: a sandbox that is installed may still be forbidden."""
    program = shutil.which("bwrap")
    if program is None:
        return Wall.NONE
    try:
        tried = subprocess.run(
            [program, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *_NAMESPACES, "true"],
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Wall.NONE
    return Wall.BUBBLEWRAP if tried.returncode == 0 else Wall.NONE


def enclose(argv: tuple[str, ...], *, cwd: Path, openings: Openings) -> tuple[str, ...]:
    """The command that runs ``argv`` in ``cwd`` behind bubblewrap."""
    emptied = _emptied()
    # Outer directories first: a mount would cover an earlier one below it.
    readable = sorted({*_interpreter(), *map(_real, openings.readable), _real(cwd)})
    binds = [
        *(("--tmpfs", str(path)) for path in emptied),
        *(("--ro-bind-try", str(path), str(path)) for path in readable if _is_below(path, emptied)),
        *(("--bind", str(path), str(path)) for path in sorted(map(_real, openings.writable))),
        *(("--ro-bind", os.devnull, str(_real(path))) for path in openings.hidden),
        *(("--dev-bind", str(path), str(path)) for path in _accelerators()),
    ]
    return (
        "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
        *(argument for bind in binds for argument in bind),
        *_NAMESPACES, "--chdir", str(_real(cwd)), "--", *argv,
    )  # fmt: skip


def _emptied() -> list[Path]:
    """Directories that are the user's or another program's, the outer ones first."""
    named = (os.environ[name] for name in _ALSO_EMPTIED if os.environ.get(name))
    places = {*map(Path, _EMPTIED), _real(Path.home()), *(_real(Path(name)) for name in named)}
    return sorted(path for path in places if path.is_dir() and path != Path(path.anchor))


def _interpreter() -> Iterator[Path]:
    """Where Python, its packages and this one are."""
    for place in (sys.prefix, sys.base_prefix, site.getuserbase(), Path(__file__).parents[2]):
        yield _real(Path(place))


def has_accelerator() -> bool:
    """Whether there are device files of a GPU."""
    return any(True for _ in _accelerators())


def _accelerators() -> Iterator[Path]:
    for pattern in _DEVICES:
        yield from Path("/dev").glob(pattern)


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _real(path: Path) -> Path:
    return path.resolve()
