"""Which code a command would run that does not ship with this program.

Recognised are Python with a file, and Python with one of this package's own modules, in a folder: then
the code is every importable file of the working directory and of the folders that the command names,
since any of them can pass for a library. Whatever else is started is code by itself. Configurations
and checkpoints are data: nothing executes them.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ml_intern_cli.resources import resource

_IMPORTABLE = (".py", ".pyc", ".so", ".pyd")
_CACHE = "__pycache__"
_MOST_FILES = 20_000  # looked at; a path has a few dozen
_MOST_BYTES = 64 << 20  # of one file
_OURS = "ml_intern_cli."


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of code that somebody else wrote: what it is called, and the hash of what it says."""

    name: str
    sha256: str


def foreign_code(argv: tuple[str, ...], *, cwd: Path, root: Path) -> tuple[Code, ...]:
    """What of a command's code is not as shipped, by name as seen from ``root``."""
    found: dict[str, Code] = {}
    if not _is_recognised(argv):
        said = shlex.join(argv)
        found[said] = Code(said if len(said) <= 80 else f"{said[:80]}…", _sha256(said.encode()))
    for file in sorted({file for place in _places(argv, cwd) for file in _importable(place)}):
        digest = _digest(file)
        if digest not in _shipped():
            name = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
            found[name] = Code(name, digest)
    return tuple(found.values())


def drop_caches(argv: tuple[str, ...], *, cwd: Path, root: Path) -> None:
    """Take away the compiled modules beside a command's code, below ``root``.

    Python would run them in place of the files that were looked at, and makes them anew.
    """
    for start in _places(argv, cwd):
        if not start.is_relative_to(root):
            continue
        for place, folders, _ in os.walk(start):
            if _CACHE in folders:
                folders.remove(_CACHE)
                _drop(Path(place) / _CACHE)


def _drop(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _places(argv: tuple[str, ...], cwd: Path) -> set[Path]:
    """The working directory, and every file and folder that the command names."""
    return {cwd, *(cwd / argument for argument in argv[1:] if os.path.exists(cwd / argument))}  # noqa: PTH110


def _is_recognised(argv: tuple[str, ...]) -> bool:
    """Whether the command runs files, and nothing that stands on the command line itself."""
    if len(argv) < 2 or argv[0] != sys.executable:
        return False
    is_module = argv[1] == "-m" and len(argv) > 2 and argv[2].startswith(_OURS) and "-c" not in argv
    return is_module or (not argv[1].startswith("-") and argv[1].endswith(".py"))


def _importable(place: Path) -> Iterator[Path]:
    """A file, or what Python could import from below a folder."""
    if not place.is_dir():
        yield from (place,) if place.suffix in _IMPORTABLE else ()
        return
    seen: set[str] = set()
    looked_at = 0
    for folder, folders, files in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name.isidentifier()]  # others are no packages
        looked_at += len(files)
        if looked_at > _MOST_FILES:
            yield place / "more files than can be looked at.py"
            return
        yield from (Path(folder) / name for name in files if name.endswith(_IMPORTABLE))


def _digest(file: Path) -> str:
    """The hash of a file's content; of its name, where it cannot be read like one."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES:
                return _sha256(opened.read(_MOST_BYTES))
    except OSError:
        pass
    return _sha256(os.fsencode(file))


@cache
def _shipped() -> frozenset[str]:
    """Hashes of every program in ``templates/`` and ``blueprints/``."""
    folders = (resource("templates"), resource("blueprints"))
    return frozenset(_sha256(file.read_bytes()) for folder in folders for file in folder.rglob("*.py"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
