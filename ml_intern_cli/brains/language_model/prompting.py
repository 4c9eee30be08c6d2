"""The prompts: Markdown beside this module, filled in with what the documents say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent / "prompts"


def prompt(name: str, **values: Any) -> str:
    """The text of ``prompts/<name>.md`` with these values; a value that is missing is an error."""
    return _environment().get_template(f"{name}.md").render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701, Markdown for a model, not HTML for a browser
    )
