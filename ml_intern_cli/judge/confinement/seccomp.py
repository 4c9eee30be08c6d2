"""seccomp: a process gives up, for good, the system calls that a forward pass has no use for.

No process can be started, none signalled, traced or limited, no socket opened, no file's mode or owner
changed. Threads may still be started.

Source: seccomp(2), linux/seccomp.h, linux/audit.h; the numbers are those of the kernel's tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_CLONE_THREAD = 0x10000
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _IS_EQUAL, _IS_SET, _IS_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_X32 = 0x40000000

_DENIED = {
    # name: (x86_64, aarch64)
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "setsid": (112, 157), "setpgid": (109, 154), "setpriority": (141, 140),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
_SPECIAL = {"clone": (56, 220), "clone3": (435, 435), "tgkill": (234, 131), "prlimit64": (302, 261)}
_SECCOMP = (317, 277)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def confine() -> bool:
    """Denies them to every thread of this process. PR_SET_NO_NEW_PRIVS has to be set before.

    Returns:
        Whether that stands: not on another system or architecture, or when the kernel has no seccomp.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    column, architecture = known
    instructions = _filter(column, architecture, pid=os.getpid())
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SECCOMP[column], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)


def _filter(column: int, architecture: int, *, pid: int) -> list[_Instruction]:
    """Instructions of classic BPF; each rule is a comparison that skips what is below it."""
    deny, missing = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    program = [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        _Instruction(_IS_EQUAL, 1, 0, architecture),
        _Instruction(_RETURN, 0, 0, _KILL),
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_IS_AT_LEAST, 0, 1, _X32),
        _Instruction(_RETURN, 0, 0, missing),
    ]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [_Instruction(_IS_EQUAL, 0, 1, number), _Instruction(_RETURN, 0, 0, deny)]
    # The C library falls back to clone, whose flags are not behind a pointer.
    program += [
        _Instruction(_IS_EQUAL, 0, 1, _SPECIAL["clone3"][column]),
        _Instruction(_RETURN, 0, 0, missing),
    ]
    conditions = (
        ("clone", _Instruction(_IS_SET, 0, 1, _CLONE_THREAD)),  # a thread, no process
        ("tgkill", _Instruction(_IS_EQUAL, 0, 1, pid)),  # abort() signals its own thread
        ("prlimit64", _Instruction(_IS_EQUAL, 0, 1, 0)),  # of this process
    )
    for name, condition in conditions:
        program += [
            _Instruction(_IS_EQUAL, 0, 4, _SPECIAL[name][column]),
            _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
            condition,
            _Instruction(_RETURN, 0, 0, _ALLOW),
            _Instruction(_RETURN, 0, 0, deny),
        ]
    return [*program, _Instruction(_RETURN, 0, 0, _ALLOW)]
