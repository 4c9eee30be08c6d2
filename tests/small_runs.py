"""Real runs for functional tests: small models, short training, the program as users start it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

SENTENCE = "implement DeepSeek-V3 at 500k"
SLUG = "implement-deepseek-v3-at-500k"
# Fixed by tokens, not by time, so that it comes out the same on a busy machine.
GOOD_SENTENCE = f"{SENTENCE}, tokens 600k"
QUICK = ("--max-paths", "1", "--max-retries", "0", "--publish", "none", "--time-budget", "6m")


@dataclass(frozen=True)
class Answer:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object on stdout."""
        return json.loads(self.out)


def ml_intern(
    *arguments: str, runs_dir: Path, env: dict[str, str] | None = None, timeout: float = 600
) -> Answer:
    """Run the program in a process of its own, without a terminal."""
    completed = subprocess.run(
        [sys.executable, "-m", "ml_intern_cli", *arguments, "--runs-dir", str(runs_dir)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
        timeout=timeout,
        check=False,
    )
    return Answer(completed.returncode, completed.stdout, completed.stderr)


def copy_run(run: Path, runs_dir: Path) -> Path:
    """A copy that a test may spoil; file times are kept, as `cp -a` would."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(run, runs_dir / run.name, copy_function=shutil.copy2))


def edit(path: Path, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> None:
    """Change the one place that matches, as a person with an editor would."""
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{count} places match {pattern!r} in {path.name}"
    path.write_text(text, encoding="utf-8")


def states(status: dict) -> dict[str, str]:
    """``{"train a": "done"}`` from ``status --json``."""
    return {
        stage["stage"] + (f" {stage['path_id']}" if stage["path_id"] else ""): stage["state"]
        for stage in status["stages"]
    }


def losses(run: Path, path: str = "path-a") -> list[str]:
    """The lines of train.log."""
    return (run / path / "train.log").read_text(encoding="utf-8").splitlines()


def children_of(run: Path) -> list[psutil.Process]:
    """Processes that work in a run."""

    def works_there(process: psutil.Process) -> bool:
        try:
            return process.cwd().startswith(str(run)) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if works_there(process)]
