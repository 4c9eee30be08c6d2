"""The judge's end: a model that runs in a process of its own, and is called like any other.

``ModelHost`` starts the process and ends it with everything in it. A ``HostedModel`` takes ids ``(B, T)``
and gives logits ``(B, T, V)``; whatever goes wrong over there, the process being killed included, is an
``Unusable`` whose message fits a verdict.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ml_intern_cli.documents import leavings
from ml_intern_cli.judge.artifact import Artifact, StateEntry, Unusable, fit_problems
from ml_intern_cli.judge.confinement import wire
from ml_intern_cli.judge.confinement.memory import SharedMemory

if TYPE_CHECKING:
    import torch

MOST_PRINTED_BYTES = 16 << 20
_START_LIMIT_S = 120.0  # importing torch from a cold disk
_LEAST_CALL_LIMIT_S = 60.0
_CALL_LIMIT_S_PER_BYTE = 2.5e-7  # of weights: four minutes more per billion bytes
_MOST_ERROR = 2_000  # characters
_LEAST_MEMORY = 6 << 30
_MEMORY_PER_WEIGHT = 6  # the model, a copy while it is built, and its activations
_SHARE_OF_MACHINE = 0.8
_LARGEST_VOCABULARY = 1 << 22  # entries: what a model may claim for the width of its output

# What a numerical program needs of its environment, as for training (see executors.surroundings).
_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "GOMP_SPINCOUNT",
    "OMP_WAIT_POLICY", "PYTHONUSERBASE", "PYTHONPATH", "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
_MACHINE = (
    "/usr", "/lib", "/lib64", "/opt/rocm", "/nix/store", "/etc/ld.so.cache", "/etc/localtime",
    "/sys/devices/system", "/sys/fs/cgroup", "/sys/bus/pci", "/sys/class",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self", "/proc/driver/nvidia",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*", "nvidia-caps/*", "dri/*", "kfd")


@dataclass(frozen=True, slots=True)
class Note:
    """The path's code looked at something outside its tensors."""

    what: str  # "open /etc/passwd"
    where: str  # "model.py:41"


class ModelHost:
    """The process, for the time of a ``with``.

    Args:
        artifact: Whose ``model.py`` it runs.
        limit_s: For everything together; ``None``: as long as each call takes its own limit.
        call_limit_s: For each import, build, or forward pass; ``None``: by the size of the weights.
        most_bytes: Memory that it may use; ``None``: by the size of the weights.
        num_threads: CPU threads.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        limit_s: float | None = None,
        call_limit_s: float | None = None,
        most_bytes: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        weights = _size_of_weights(artifact.directory)
        self.artifact = artifact
        self.call_limit_s = call_limit_s or _LEAST_CALL_LIMIT_S + _CALL_LIMIT_S_PER_BYTE * weights
        self.deadline = math.inf if limit_s is None else time.monotonic() + limit_s
        self._most_bytes = most_bytes if most_bytes is not None else _memory_for(weights)
        self._num_threads = num_threads
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with self._open:
            scratch = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="model-host-")))
            self._printed = self._open.enter_context(tempfile.TemporaryFile())
            self.memory = self._open.enter_context(SharedMemory())
            pairs = [socket.socketpair() for _ in range(2)]
            for pair in pairs:
                for end in pair:
                    self._open.callback(end.close)
            theirs = [pair[1].fileno() for pair in pairs] + [self.memory.fileno()]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ml_intern_cli.judge.confinement.host", *map(str, theirs)],
                cwd=scratch,
                env=_environment(scratch),
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=theirs,
                start_new_session=True,
            )
            self._open.callback(self._end)
            for pair in pairs:
                pair[1].close()
            wire.send(pairs[0][0], self._orders(scratch))
            self.as_trainer = HostedModel(self, pairs[0][0])
            self.as_judge = HostedModel(self, pairs[1][0])
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def how_it_ended(self, *, after_s: float) -> str:
        """A phrase for a process that does not answer any more."""
        if self._has_printed_too_much():
            return f"printed more than {MOST_PRINTED_BYTES >> 20} MiB"
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return f"did not answer within {after_s:.0f} s"
        if code >= 0:
            return f"ended the process with exit code {code}"
        if -code == signal.SIGXCPU:
            return "used more processor time than it was given"
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"

    def words_for(self, error: str) -> str:
        """What the host says of an error, made fit for a verdict."""
        text = " ".join(leavings.printable(error)[:_MOST_ERROR].split())
        if self._has_printed_too_much():
            return f"{text} (it printed more than {MOST_PRINTED_BYTES >> 20} MiB)"
        return text

    def _has_printed_too_much(self) -> bool:
        return os.fstat(self._printed.fileno()).st_size >= MOST_PRINTED_BYTES

    def _orders(self, scratch: Path) -> dict[str, Any]:
        import ml_intern_cli

        path = self.artifact.directory
        try:
            config, model_class = self.artifact.config, self.artifact.model_class
        except Unusable:  # said again when the model is to be built
            config, model_class = {}, ""
        package = Path(ml_intern_cli.__file__).parent
        interpreter = {sys.prefix, sys.base_prefix, os.environ.get("PYTHONUSERBASE"), str(package)}
        own = [str(file) for file in (path / "config.json", *sorted(path.glob("*.py")))]
        libraries = {entry for entry in sys.path if entry and not _holds(Path(entry), path, Path.cwd())}
        libraries |= set(os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
        return {
            "judge": os.getpid(),
            "path": str(path),
            "model_class": model_class,
            "config": config,
            "num_threads": self._num_threads or _torch_threads(),
            "most_bytes": self._most_bytes,
            "most_cpu_s": self._most_cpu_s(),
            "most_file_bytes": MOST_PRINTED_BYTES,
            "readable": [*_MACHINE, *own, *sorted(filter(None, interpreter | libraries))],
            "writable": [str(scratch)],
            "devices": [str(file) for pattern in _DEVICES for file in Path("/dev").glob(pattern)],
        }

    def _most_cpu_s(self) -> int:
        left_s = self.deadline - time.monotonic()
        return int((24 * 3600 if math.isinf(left_s) else left_s + 60) * (os.cpu_count() or 1))

    def _end(self) -> None:
        """Kills it with all it started. It is its own session's leader, and unreaped until here."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class HostedModel:
    """A model over there: build it, put weights in, call it."""

    def __init__(self, host: ModelHost, connection: socket.socket) -> None:
        self.notes: list[Note] = []
        self.walls = "no wall of the kernel's"
        self.state: dict[str, StateEntry] = {}
        self._host = host
        self._connection = connection
        self._broken: Unusable | None = None
        self._has_started = False
        self._width = 0  # of the logits, once known

    def build(self, seed: int) -> None:
        """Imports model.py (once) and makes an instance, its weights drawn from ``seed``. Raises Unusable."""
        if not self.state:
            if not (self._host.artifact.directory / "model.py").is_file():
                raise Unusable("model.py is missing")
            _ = self._host.artifact.model_class
            self._ask("importing model.py", {"do": "import"})
        entries = self._ask("building the model", {"do": "build", "seed": seed})
        try:
            self.state = {
                str(entry["name"]): StateEntry(
                    shape=tuple(int(length) for length in entry["shape"]),
                    dtype=str(entry["dtype"]),
                    is_parameter=bool(entry["is_parameter"]),
                    is_trainable=bool(entry["is_trainable"]),
                    tied_to=str(entry["tied_to"]),
                )
                for entry in entries
            }
        except (KeyError, TypeError, ValueError) as error:
            raise self._nonsense("building the model") from error

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts a checkpoint's tensors in. Raises Unusable when they do not fit (see ``fit_problems``)."""
        fit_problems(self.state, tensors)
        self.put(tensors)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Overwrites entries of the state. Raises Unusable."""
        memory = self._host.memory
        places = memory.layout(
            {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        )
        for place, tensor in zip(places, tensors.values(), strict=True):
            memory.view(place).copy_(tensor.detach())
        self._ask("loading the weights", {"do": "put", "tensors": places, "size": memory.size})

    def get(self, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Copies of entries of the state; of all of them once, ties left out. Raises Unusable."""
        import torch

        chosen = [name for name, entry in self.state.items() if entry.tied_to == name]
        if names is not None:
            chosen = list(names)
        memory = self._host.memory
        places = memory.layout(
            {name: (getattr(torch, self.state[name].dtype), self.state[name].shape) for name in chosen}
        )
        self._ask("reading the weights", {"do": "get", "tensors": places, "size": memory.size})
        return {place["name"]: memory.view(place).clone() for place in places}

    def parameters(self) -> Iterable[torch.Tensor]:
        """One tensor without values per parameter, tied ones once: shapes to count."""
        import torch

        for name, entry in self.state.items():
            if entry.is_parameter and entry.tied_to == name:
                yield torch.empty(entry.shape, device="meta")

    def __call__(
        self, input_ids: torch.Tensor, *, train: bool = False, seed: int | None = None
    ) -> torch.Tensor:
        """Logits ``(B, T, V)`` in fp32 on the ids' device. Raises Unusable."""
        import torch

        memory = self._host.memory
        batch, length = input_ids.shape
        (place,) = memory.layout({"ids": (torch.int64, (batch, length))})
        memory.view(place).copy_(input_ids)
        request = {"do": "forward", "ids": place, "train": train, "seed": seed, "out": memory.end}
        doing = f"forward(input_ids of shape ({batch}, {length}))"
        memory.reserve(4 * batch * length * self._width)
        answer = self._ask(doing, request | {"size": memory.size})
        width = self._checked_width(answer, batch, length, doing)
        if width > self._width:  # the first one tells how wide logits are
            self._width = width
            memory.reserve(4 * batch * length * width)
            answer = self._ask(doing, request | {"size": memory.size})
            if self._checked_width(answer, batch, length, doing) != width:
                raise self._nonsense(doing)
        place = {"dtype": "float32", "shape": [batch, length, width], "offset": memory.end}
        return memory.view(place).clone().to(input_ids.device)

    def _checked_width(self, answer: Any, batch: int, length: int, doing: str) -> int:
        shape = answer.get("shape") if isinstance(answer, dict) else None
        if not (isinstance(shape, list) and len(shape) == 3 and shape[:2] == [batch, length]):
            raise self._nonsense(doing)
        width = shape[2]
        if not (isinstance(width, int) and 0 < width <= _LARGEST_VOCABULARY):
            raise self._nonsense(doing)
        return width

    def _ask(self, doing: str, request: dict[str, Any]) -> Any:
        if self._broken is not None:
            raise self._broken
        try:
            if not self._has_started:
                hello = self._exchange(None, _START_LIMIT_S, "starting the model host")
                self._has_started = True
                self.walls = _walls(hello)
            return self._exchange(request, self._host.call_limit_s, doing)
        except _Gone as gone:
            self._broken = Unusable(f"model.py {gone} while {doing}")
            raise self._broken from gone

    def _exchange(self, request: dict[str, Any] | None, limit_s: float, doing: str) -> Any:
        limit_s = max(0.1, min(limit_s, self._host.deadline - time.monotonic()))
        deadline = time.monotonic() + limit_s
        try:
            self._connection.settimeout(limit_s)
            if request is not None:
                wire.send(self._connection, request)
            while True:
                self._connection.settimeout(max(0.01, deadline - time.monotonic()))
                answer = wire.receive(self._connection)
                note = answer.get("note")
                if note is None:
                    break
                if isinstance(note, list) and len(note) == 2 and len(self.notes) < 100:
                    self.notes.append(Note(*(leavings.printable(str(part))[:300] for part in note)))
        except wire.Garbled as error:
            raise _Gone("gave an answer that is none") from error
        except (OSError, wire.Ended) as error:
            raise _Gone(self._host.how_it_ended(after_s=limit_s)) from error
        if "ok" in answer:
            return answer["ok"]
        text = answer.get("error")
        raise Unusable(self._host.words_for(text)) if isinstance(text, str) else self._nonsense(doing)

    def _nonsense(self, doing: str) -> Unusable:
        return Unusable(f"the process of model.py gave an answer that is none, while {doing}")


class _Gone(Exception):
    """The host does not answer any more; the message says why."""


def _walls(hello: Any) -> str:
    """What the host says stands around it, before any foreign code ran."""
    known = hello if isinstance(hello, dict) else {}
    walls = [f"Landlock {known['landlock']}"] if known.get("landlock") else []
    return " and ".join([*walls, *(["seccomp"] if known.get("seccomp") else [])]) or "no wall of the kernel's"


def _holds(directory: Path, *places: Path) -> bool:
    """Whether one of the places is in a directory: that is no library then."""
    return any(place.is_relative_to(directory.resolve()) for place in places)


def _environment(scratch: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return inherited | {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # no compiler can be started in there; the arithmetic is the same
    }


def _size_of_weights(path: Path) -> int:
    sizes = [0]
    for file in path.glob("ckpts/*/model.safetensors"):
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    return max(sizes)


def _memory_for(weights: int) -> int:
    """Drivers of accelerators reserve far more than they use: there it is not limited."""
    import psutil

    if any(True for pattern in ("nvidia*", "kfd") for _ in Path("/dev").glob(pattern)):
        return 0
    return int(
        min(_SHARE_OF_MACHINE * psutil.virtual_memory().total, _LEAST_MEMORY + _MEMORY_PER_WEIGHT * weights)
    )


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
