"""Where the shipped files are: `templates/` and `blueprints/`.

A wheel carries both inside the package; an editable install does not see that copy, so the
repository root is tried second.
"""

from __future__ import annotations

from pathlib import Path

from ml_intern_cli.errors import MlInternError

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """The path of a shipped file or folder, such as ``resource("templates", "train.py")``.

    Raises:
        MlInternError: the installation lacks it.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise MlInternError(
        f"this installation lacks {'/'.join(parts)}",
        hint="reinstall: pip install --force-reinstall ml-intern-cli",
    )
