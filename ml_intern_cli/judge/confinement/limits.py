"""What a process may use at most, and the rights that it gives up.

Source: prctl(2), capabilities(7), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

from ml_intern_cli.rlimits import lower

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_MOST_PROCESSES = 4_096  # of the user's, threads included; where seccomp stands none can be started at all
_MOST_FILES = 1_024


def limit(*, most_bytes: int, most_cpu_s: int, most_file_bytes: int) -> None:
    """Memory (0: unlimited), processor time, and the size of any one file. No core dumps."""
    if most_bytes:
        lower(resource.RLIMIT_DATA, most_bytes)
    lower(resource.RLIMIT_CPU, most_cpu_s)
    lower(resource.RLIMIT_FSIZE, most_file_bytes)
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, _MOST_FILES)
    lower(resource.RLIMIT_NPROC, _MOST_PROCESSES)


def give_up_rights() -> None:
    """No program started from now on gains rights, and this one has no capability left."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def end_with(parent: int) -> None:
    """This process is killed when its parent ends; it ends at once when that is gone already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def hide_memory() -> None:
    """No other process of this user may look into this one (/proc/PID/mem, ptrace)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
