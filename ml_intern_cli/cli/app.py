"""The program: every command registered, and what it does without one."""

from __future__ import annotations

from typing import Annotated

import typer

from ml_intern_cli import __version__
from ml_intern_cli.cli import audit, look_commands, run_commands
from ml_intern_cli.cli.command import app

__all__ = ["app", "audit", "look_commands", "run_commands"]

_EPILOG = """\b
Examples:
  ml-intern run "implement DeepSeek-V3 at 1M" --time-budget 5m --publish folder
  ml-intern status implement-deepseek-v3-at-1m
  ml-intern size deepseek-v3 100M

\b
Exit codes:
  0 done · 1 a bug or a failed dependency · 2 bad input · 3 blocked, you are needed
  4 no path passed verification · 130 interrupted, resumable
"""


def _print_version(wanted: bool) -> None:  # noqa: FBT001, typer's callback protocol
    if wanted:
        typer.echo(f"ml-intern {__version__}")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """An autonomous machine-learning engineer: one sentence in, a trained and verified model out.

    Everything it knows is in Markdown files that you can read, edit and resume from.
    """
    del version
