"""What the shell offers after Tab. Only names of folders are read, so that it answers at once."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from ml_intern_cli.errors import MlInternError
from ml_intern_cli.resources import resource


def slugs(context: typer.Context, incomplete: str) -> list[str]:
    """Runs whose name begins like this, the latest first."""
    chosen = context.params.get("runs_dir") or os.environ.get("ML_INTERN_RUNS_DIR") or "~/ml-intern-runs"
    try:
        folders = [folder for folder in Path(chosen).expanduser().iterdir() if (folder / "TASK.md").is_file()]
        folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:
        return []  # nowhere to look is nothing to offer
    return [folder.name for folder in folders if folder.name.startswith(incomplete)]


def blueprints(incomplete: str) -> list[str]:
    """Architectures whose name begins like this."""
    try:
        cards = sorted(resource("blueprints").glob("*/blueprint.py"))
    except MlInternError:
        return []
    names = [card.parent.name.replace("_", "-") for card in cards]
    return [name for name in names if name.startswith(incomplete)]
