"""Long answers: a quarter of head, three quarters of tail, and the whole in a file."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.secrets import scrub

MOST_SHOWN = 16_000  # characters
_HEAD_SHARE = 0.25
_MOST_KEPT = 4 << 20  # bytes
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
FOLDER = "outputs"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Keeps whole outputs in ``outputs/`` of a path's folder.

    Attributes:
        secrets: Values that must stand in none of them.
    """

    root: Path
    secrets: tuple[str, ...] = field(default=(), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def bounded(self, text: str, *, name: str) -> str:
        """The text, cut in its middle where it is too long; the whole is then in a file, which is named."""
        text = scrub(plain(text), known=self.secrets)
        if len(text) <= MOST_SHOWN:
            return text
        kept = self._keep(text, name)
        head = (
            text[: int(_HEAD_SHARE * MOST_SHOWN)].rpartition("\n")[0] or text[: int(_HEAD_SHARE * MOST_SHOWN)]
        )
        rest = text[len(text) - (MOST_SHOWN - len(head)) :]
        tail = rest.partition("\n")[2] or rest
        left_out = len(text) - len(head) - len(tail)
        return f"{head}\n… {left_out:,} characters left out; the whole is in {kept} …\n{tail}"

    def _keep(self, text: str, name: str) -> str:
        """Writes the whole, of endless output the end; says where it is."""
        folder = Folder(self.root)
        data = text.encode("utf-8", errors="replace")
        whole = data[-_MOST_KEPT:].decode("utf-8", errors="ignore")
        with self._lock:
            number = 1 + sum(one.startswith(f"{FOLDER}/") for one in folder.names())
            while folder.exists(f"{FOLDER}/{number:03}-{name}.txt"):
                number += 1
            kept = f"{FOLDER}/{number:03}-{name}.txt"
            folder.write(kept, whole, most=_MOST_KEPT)
        return kept if len(data) <= _MOST_KEPT else f"{kept} (its last {_MOST_KEPT >> 20} MiB)"


def plain(text: str) -> str:
    """Text without the codes that move a terminal's cursor or colour it."""
    text = _ESCAPES.sub("", text)
    # Of a progress bar, which goes back to the line's beginning again and again, the last state.
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROLS.sub("", text)
