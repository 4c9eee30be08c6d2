"""How many paths this machine carries at a time, and on which of its GPUs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.executors.walls import has_accelerator
from ml_intern_cli.runs.receipts import StageMemory

_BYTES_PER_PARAM = 24  # fp32: weights, gradients, two moments of AdamW; a checkpoint on its way to the disk
_BYTES_PER_PROGRAM = 1 << 30  # the interpreter, PyTorch, a batch and its activations
_NVIDIA_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A place to work beside others.

    Attributes:
        device: The GPU that belongs to it; ``None``: none, or all there are.
    """

    device: str | None = None


def most_at_once(layout: RunLayout) -> int | None:
    """How many paths at a time the user wished, or memory admitted; ``None``: nothing was said."""
    kept = _memory(layout).recall("most")
    return int(kept) if kept is not None and kept.isdecimal() and int(kept) > 0 else None


def remember_most(layout: RunLayout, most: int) -> None:
    """So many from now on, also when another process goes on with the run."""
    _memory(layout).remember("most", str(most))


def _memory(layout: RunLayout) -> StageMemory:
    return StageMemory(layout, name="parallel.json")


def seats_for(params: int, *, most: int | None, devices: Sequence[str], free_bytes: int) -> tuple[Seat, ...]:
    """As many seats as this machine carries.

    Without a wish there is one for each GPU, and one on a machine without: there two programs only share the
    cores. With a wish there are so many, but never more than fit into the memory that is free.

    Args:
        params: Size of each path's model.
        most: What the user wishes; ``None``: nothing.
        devices: The GPUs of this machine.
        free_bytes: Memory that nobody uses.
    """
    wanted = most if most is not None else max(1, len(devices))
    per_path = _BYTES_PER_PROGRAM + _BYTES_PER_PARAM * params
    carried = max(1, free_bytes // per_path)
    count = min(wanted, carried)
    if count == 1 or not devices:
        return tuple(Seat() for _ in range(count))
    return tuple(Seat(devices[number % len(devices)]) for number in range(count))


def free_bytes() -> int:
    """Memory of this machine that nobody uses."""
    return int(psutil.virtual_memory().available)


def devices() -> list[str]:
    """The GPUs that PyTorch would use, as CUDA_VISIBLE_DEVICES names them."""
    try:
        if not has_accelerator() or "+cpu" in version("torch"):
            return []
    except PackageNotFoundError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in {"", "-1"}]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_TIMEOUT_S,
            check=True,
            env={"PATH": os.environ.get("PATH", "")},  # no token is its business
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
