"""What the training program says of itself: train.log, metrics.jsonl, the checkpoint's pointers.

Claims, all of them. The checks compare them with what the judge recomputes, and with each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.judge.artifact import Artifact, Unusable, read_json_object

_STEP_LINE = re.compile(r"step=(\d+) loss=(\S+)")


@dataclass(frozen=True, slots=True)
class Records:
    """The claims of one path. Files that are missing or malformed leave a line in ``problems``."""

    losses: tuple[tuple[int, float], ...]  # (step, loss) per line of train.log
    metrics: tuple[dict[str, Any], ...]
    last: dict[str, Any]  # ckpts/last.json
    state: dict[str, Any]  # state.json of the last checkpoint
    best: dict[str, Any]  # ckpts/best.json
    problems: tuple[str, ...]

    @classmethod
    def read(cls, artifact: Artifact) -> Records:
        """Reads what is there."""
        problems: list[str] = []
        last = _read_pointer(artifact, "last.json", problems)
        return cls(
            losses=_read_log(artifact, problems),
            metrics=_read_metrics(artifact, problems),
            last=last,
            state=_read_pointer(artifact, f"{Path(str(last.get('dir'))).name}/state.json", problems),
            best=_read_pointer(artifact, "best.json", problems),
            problems=tuple(problems),
        )

    @property
    def step(self) -> int:
        """The step of the last checkpoint; 0 when none says."""
        return _whole_number(self.last.get("step"))

    @property
    def tokens(self) -> int:
        """Training tokens consumed, as last.json says; 0 when it does not."""
        return _whole_number(self.last.get("tokens"))

    @property
    def cursor(self) -> int:
        """Training windows that the data cursor has passed; 0 when no checkpoint says."""
        return _whole_number(self.state.get("cursor"))

    @property
    def best_step(self) -> int:
        """The step of the judged checkpoint; 0 when none says."""
        return _whole_number(self.best.get("step"))

    @property
    def best_eval_loss(self) -> float | None:
        """The loss on val that the training program claims for the judged checkpoint."""
        claimed = self.best.get("eval_loss")
        return float(claimed) if isinstance(claimed, int | float) else None

    @property
    def eval_tokens(self) -> int | None:
        """The tokens that claim was measured on."""
        rows = [row for row in self.metrics if row.get("step") == self.best_step and "eval_loss" in row]
        return _whole_number((rows[-1] if rows else self.best).get("eval_tokens")) or None


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _read_log(artifact: Artifact, problems: list[str]) -> tuple[tuple[int, float], ...]:
    losses = []
    for number, line in enumerate(_lines(artifact, "train.log", problems), start=1):
        match = _STEP_LINE.fullmatch(line.strip())
        try:
            losses.append((int(match[1]), float(match[2])) if match else _malformed(line))
        except ValueError:
            problems.append(f"train.log:{number} is not 'step=N loss=<val>'")
    return tuple(losses)


def _read_metrics(artifact: Artifact, problems: list[str]) -> tuple[dict[str, Any], ...]:
    rows = []
    for number, line in enumerate(_lines(artifact, "metrics.jsonl", problems), start=1):
        row = leavings.parse_object(line)
        if row is None:
            problems.append(f"metrics.jsonl:{number} is no JSON object")
        else:
            rows.append(row)
    return tuple(rows)


def _malformed(line: str) -> Any:
    raise ValueError(line)


def _lines(artifact: Artifact, name: str, problems: list[str]) -> list[str]:
    try:
        return leavings.read_text(artifact.directory, name, errors="replace").splitlines()
    except leavings.Refused as error:
        problems.append(f"{name} {error.strerror}")
        return []
    except OSError:
        problems.append(f"{name} is missing")
        return []


def _read_pointer(artifact: Artifact, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        return read_json_object(artifact.directory / "ckpts" / name)
    except Unusable as error:
        problems.append(f"ckpts/{error}")
        return {}
