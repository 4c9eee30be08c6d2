"""Landlock: a process gives up files for good, all but those it names (``confine``) or some (``hide``).

The first takes TCP and signals to other processes too.

Source: the kernel's Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38  # prctl(2)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ABI_1 = (1 << 13) - 1  # what the first version knows: the four above, and making and removing entries
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR  # mapping a shared library as executable takes no right of its own


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def confine(*, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str] = ()) -> int:
    """Leaves this thread, and what it starts from now on, nothing but the named files and directories.

    Paths that do not exist are passed over. PR_SET_NO_NEW_PRIVS has to be set before.

    Args:
        readable: Files and directories, with all below them.
        writable: The same; also to make and remove entries in.
        devices: Device files to read, write and control.

    Returns:
        The version that stands now; 0 when this kernel has no Landlock.

    Raises:
        OSError: the kernel has it and refused.
    """
    abi = version()
    if abi:
        everything = _rights(abi)
        device = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
        sets = ((readable, _READ), (writable, everything & ~_EXECUTE), (devices, device))
        rules = ((path, access) for paths, access in sets for path in paths)
        _restrict(rules, abi, net=0b11 if abi >= 4 else 0, scoped=0b11 if abi >= 6 else 0)
    return abi


def hide(paths: Iterable[str]) -> int:
    """Leaves this thread, and what it starts from now on, everything of now but ``paths`` and what is below.

    The directories above them can be listed, but nothing can be made in or removed from them directly. A
    hard link elsewhere to a file of ``paths`` stays. Nothing started from now on gains rights.

    Returns:
        The version that stands now; 0 when this kernel has no Landlock.

    Raises:
        OSError: the kernel has it and refused.
    """
    abi = version()
    hidden = {Path(path).resolve() for path in paths}
    if abi and hidden:
        _checked(_libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _restrict([("/", _READ_DIR), *((path, _rights(abi)) for path in _all_but(hidden))], abi)
    return abi


def _all_but(hidden: set[Path]) -> Iterator[str]:
    """The fewest files and directories that together are everything but ``hidden``."""
    above = {parent for path in hidden for parent in path.parents} - hidden
    apart = {str(path) for path in above | hidden}
    for directory in above:
        # What cannot be listed cannot be named, and is given up. A link is where it leads to, or nowhere.
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.path not in apart and not entry.is_symlink():
                    yield entry.path


def _rights(abi: int) -> int:
    """Everything that this version can allow."""
    rights = _ABI_1 | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    return rights | (_IOCTL_DEV if abi >= 5 else 0)


def _restrict(rules: Iterable[tuple[str, int]], abi: int, *, net: int = 0, scoped: int = 0) -> None:
    """From now on files are what ``rules`` (path, rights) allow; ``net`` and ``scoped`` are given up."""
    everything = _rights(abi)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = _Ruleset(everything, net, scoped)
    ruleset = _checked(
        _libc().syscall(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    try:
        for path, access in rules:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, path, access & everything)
        _checked(_libc().syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, parent)
        _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)))
    finally:
        os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
