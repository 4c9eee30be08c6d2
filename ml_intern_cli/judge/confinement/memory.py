"""Memory that the judge and the model host share: tensors go through it, never through a pickle."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch


class SharedMemory:
    """Anonymous memory that a child process can map too. It grows, and is emptied by every layout."""

    def __init__(self) -> None:
        self._file = _sealed_memory() or tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._map: Any = None
        self.size = 0
        self.end = 0
        self.reserve(1 << 16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    def layout(self, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> list[dict[str, Any]]:
        """Places for tensors, one after the other from the beginning."""
        places, self.end = [], 0
        for name, (dtype, shape) in tensors.items():
            places.append(
                {
                    "name": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "shape": list(shape),
                    "offset": self.end,
                }
            )
            self.end += -(-math.prod(shape) * dtype.itemsize // 64) * 64
        self.reserve(0)
        return places

    def reserve(self, count: int) -> None:
        """Room for so many bytes behind what was laid out."""
        if self.end + count > self.size:
            self.size = -(-(self.end + count) // (1 << 20)) * (1 << 20)
            os.ftruncate(self.fileno(), self.size)
            self._map = mmap.mmap(self.fileno(), self.size)

    def view(self, place: Mapping[str, Any]) -> torch.Tensor:
        """The tensor at a place."""
        import torch

        dtype, shape = getattr(torch, place["dtype"]), place["shape"]
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=place["offset"]).view(shape)


def _sealed_memory() -> Any:
    """Memory that nobody can make smaller, which would crash whoever reads it; None where there is none."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("model-host", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return os.fdopen(descriptor, "r+b")
