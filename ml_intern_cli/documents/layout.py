"""Every file name of a run, in one place. Pure path arithmetic; nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TASK = "TASK.md"
BUDGET = "BUDGET.md"
RESEARCH = "RESEARCH.md"
PLAN = "PLAN.md"
EXPERIMENTS = "EXPERIMENTS.md"
RESULTS = "RESULTS.md"
PUBLISHED = "PUBLISHED.md"
BLOCKER = "BLOCKER.md"
MANIFEST = "data/manifest.json"
TOKENIZER = "data/tokenizer/tokenizer.json"

CODE = "CODE.md"
SMOKE = "SMOKE.md"
VERIFY = "VERIFY.md"
POSTMORTEM = "POSTMORTEM.md"
MODEL_PY = "model.py"
TRAIN_PY = "train.py"
EVAL_PY = "eval.py"
CONFIG = "config.json"
TRAIN_CONFIG = "train_config.json"
LAST_CHECKPOINT = "ckpts/last.json"
BEST_CHECKPOINT = "ckpts/best.json"
METRICS = "metrics.jsonl"
TRAIN_STDERR = "train.stderr"


def path_folder(path_id: str) -> str:
    """``path-a`` for ``a``."""
    return f"path-{path_id}"


@dataclass(frozen=True, slots=True)
class RunLayout:
    """One run's directory."""

    root: Path

    @property
    def slug(self) -> str:
        """The run's name: its folder's."""
        return self.root.name

    @property
    def data(self) -> Path:
        """Tokenizer, shards and manifest."""
        return self.root / "data"

    @property
    def receipts(self) -> Path:
        """What each stage read and wrote; deletable."""
        return self.root / ".receipts"

    @property
    def history(self) -> Path:
        """What was overwritten, by time."""
        return self.root / ".history"

    @property
    def scratch(self) -> Path:
        """Calibration and judging leave nothing here between two stages."""
        return self.root / ".scratch"

    @property
    def lock(self) -> Path:
        """Held by the one process that works on the run."""
        return self.root / ".lock"

    @property
    def session(self) -> Path:
        """What was said to language models and by them, one JSON row per message."""
        return self.root / "session.jsonl"

    @property
    def events(self) -> Path:
        """Append-only log, one JSON row per event."""
        return self.root / "events.jsonl"

    def scratch_of(self, path_id: str | None) -> Path:
        """The scratch folder of one path's stages, or of those that are of no path."""
        return self.scratch / ("run" if path_id is None else path_folder(path_id))

    def document(self, name: str) -> Path:
        """A document of the run, such as ``PLAN.md`` or ``path-a/SMOKE.md``."""
        return self.root / name

    def path(self, path_id: str, name: str = "") -> Path:
        """A path's folder, or a file in it."""
        folder = self.root / path_folder(path_id)
        return folder / name if name else folder
