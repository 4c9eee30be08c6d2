"""Notes, inside the model host, when the path's code looks at the world outside its tensors.

Python tells an audit hook of every file opened, process started, socket made, stack looked at (PEP 578); the
environment and the arguments are read through objects that note who asks. A hook cannot be taken away again.
What counts is whose doing it is: the innermost code of the path on the stack, unless an import or a library's
own business (its files, the machine's) stands between.

Standard library only, so that a host can be told apart from a training program by nothing that this imports.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_FILES = frozenset({
    "open", "os.listdir", "os.scandir", "os.walk", "glob.glob", "pathlib.Path.glob", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.copyfile", "shutil.rmtree",
})  # fmt: skip
_OTHERS = frozenset({
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
    "pty.spawn", "os.kill", "os.killpg", "signal.pthread_kill", "socket.__new__", "socket.connect",
    "socket.getaddrinfo", "socket.gethostname", "ctypes.dlopen", "ctypes.dlsym", "sys._getframe",
    "sys._current_frames", "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace",
    "sys.setprofile", "sys.addaudithook", "mmap.__new__",
})  # fmt: skip
_SYSTEM = ("/usr/", "/lib", "/etc/", "/proc/cpuinfo", "/proc/meminfo", "/sys/", "/dev/null", "/dev/urandom")
# Switches of libraries, which a model may look at to choose a kernel.
_SWITCHES = (
    "TORCH", "PYTORCH", "CUDA", "NVIDIA", "NCCL", "HIP", "ROCM", "OMP", "MKL", "HF_", "TRANSFORMERS",
    "TRITON", "ATTN", "FLASH", "XLA", "USE_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "PYTHONHASHSEED",
)  # fmt: skip
_MOST_NOTES = 100


class Watch:
    """Installed once per process, before any code of the path runs; never taken away.

    Args:
        root: The path's directory.
        tell: Gets each note as it happens, once: what was looked at, and ``model.py:41``.
    """

    def __init__(self, root: str, tell: Callable[[str, str], None]) -> None:
        self._root = f"{root}/"
        self._own = {f"{root}/{name}" for name in ("model.py", "config.json")}
        libraries = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
        self._libraries = tuple({f"{place}/" for place in libraries})
        interpreter = {sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], *libraries}
        self._interpreter = tuple(f"{place}/" for place in interpreter)
        self._tell = tell
        self._told: set[tuple[str, str]] = set()
        self._is_busy = False

    def install(self) -> None:
        """Start noting."""
        sys.addaudithook(self._on_event)
        _note_environment(lambda name: self._on_reading(f"the environment ({name})", name))
        sys.argv = _Arguments(sys.argv, lambda: self._on_reading("sys.argv", ""))

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_busy or not (event in _FILES or event in _OTHERS):
            return
        self._is_busy = True
        try:
            self._weigh(event, arguments)
        finally:
            self._is_busy = False

    def _weigh(self, event: str, arguments: tuple[Any, ...]) -> None:
        caller = self._caller(sys._getframe(2))  # noqa: SLF001, what inspect would add is seconds
        if caller is None:
            return
        place, passed = caller
        if event in _FILES:
            name = _file_name(arguments)
            if name is None or self._is_harmless(name, through_library="library" in passed):
                return
            self._note(f"{event} {name}", place)
        elif "library" not in passed and (event != "sys._getframe" or passed <= {"inspect"}):
            self._note(f"{event} {arguments[0]!r}" if event.startswith("ctypes") else event, place)

    def _is_harmless(self, name: str, *, through_library: bool) -> bool:
        if name in self._own or name.startswith(self._interpreter):
            return True
        return through_library and (name.startswith(_SYSTEM) or not name.startswith("/"))

    def _on_reading(self, what: str, name: str) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        try:
            caller = self._caller(sys._getframe(3))  # noqa: SLF001, as above
            if caller and "library" not in caller[1] and not (name and name.startswith(_SWITCHES)):
                self._note(what, caller[0])
        finally:
            self._is_busy = False

    def _caller(self, frame: FrameType | None) -> tuple[str, set[str]] | None:
        """Where the path's code is on the stack, and what stands between; None: it does not count."""
        passed: set[str] = set()
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self._root):
                return f"{name.removeprefix(self._root)}:{frame.f_lineno}", passed
            if name.startswith("<frozen importlib"):
                return None
            if name.startswith(self._libraries):
                passed.add("library")
            elif not name.startswith("<"):  # code made from a string is whoever's ran it
                passed.add("inspect" if name.endswith("inspect.py") else "standard")
            frame = frame.f_back
        return None

    def _note(self, what: str, place: str) -> None:
        note = (what[:200], place)
        if note not in self._told and len(self._told) < _MOST_NOTES:
            self._told.add(note)
            self._tell(*note)


def _file_name(arguments: tuple[Any, ...]) -> str | None:
    """The file that an event is about; None when it is an open descriptor."""
    name = arguments[0] if arguments else None
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not isinstance(name, str | os.PathLike):
        return None
    return os.path.abspath(name)  # noqa: PTH100, pathlib would be noted itself


def _note_environment(tell: Callable[[str], None]) -> None:
    environ: Any = type(os.environ)
    get, walk = environ.__getitem__, environ.__iter__

    def noted_get(self: Any, key: Any) -> Any:
        tell(str(key))
        return get(self, key)

    def noted_walk(self: Any) -> Iterator[Any]:
        tell("all of it")
        return iter(walk(self))

    environ.__getitem__ = noted_get
    environ.__iter__ = noted_walk


class _Arguments(list[str]):
    """sys.argv, telling when it is read."""

    def __init__(self, values: list[str], tell: Callable[[], None]) -> None:
        super().__init__(values)
        self._tell_of_reading = tell

    def __getitem__(self, index: Any) -> Any:
        self._tell_of_reading()
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[str]:
        self._tell_of_reading()
        return super().__iter__()

    def __contains__(self, value: object) -> bool:
        self._tell_of_reading()
        return super().__contains__(value)

    def __len__(self) -> int:
        self._tell_of_reading()
        return super().__len__()

    def __repr__(self) -> str:
        self._tell_of_reading()
        return super().__repr__()

    __str__ = __repr__
