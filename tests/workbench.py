"""A workbench for tests: programs really run, behind the wall that this machine has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_intern_cli.brains.protocol import Implementation, Ran
from ml_intern_cli.documents.postmortem import Postmortem
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.executors.process import Job, LocalExecutor
from ml_intern_cli.executors.walls import Openings
from tests.examples import EXAMPLES


@dataclass
class Bench:
    """A folder, and programs in it. ``smoke`` gives the example's verdict."""

    root: Path
    start: dict[str, str] = field(default_factory=dict)
    written: Implementation | None = None
    postmortem: Postmortem | None = None

    @property
    def folder(self) -> Path:
        folder = self.root / "path-a"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, argv: tuple[str, ...], *, limit_s: float) -> Ran:
        printed = self.root / "printed"
        printed.unlink(missing_ok=True)
        finished = LocalExecutor().run(
            Job(
                argv=argv,
                cwd=self.folder,
                home=self.root / "home",
                limit_s=limit_s,
                grace_s=1.0,
                stdout=printed,
                stderr=printed,
                openings=Openings(writable=(self.folder,)),
            ),
            on_tick=lambda _: None,
        )
        return Ran(
            exit_code=finished.exit_code,
            seconds=finished.seconds,
            out_of_time=finished.out_of_time,
            output=printed.read_text(errors="replace"),
        )

    def smoke(self) -> Smoke:
        smoke: Any = EXAMPLES["SMOKE.md"]
        return smoke
