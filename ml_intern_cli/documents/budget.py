"""BUDGET.md: caps and spend, in the layout of the seed (`name = value  # comment`)."""

from __future__ import annotations

import re

from pydantic import Field

from ml_intern_cli.documents.draft import Draft
from ml_intern_cli.documents.markdown import outline
from ml_intern_cli.documents.model import Hours, Minutes, Model
from ml_intern_cli.documents.parts import field_name
from ml_intern_cli.documents.values import field_types


class Budget(Model):
    """Caps the user sets, and the spend that only the program counts.

    ``compute_cap`` is in hours, of a GPU where there is one, else of wall-clock.
    ``token_budget`` ``None`` is written ``plan``: what PLAN.md fixes.
    """

    max_paths: int = Field(default=2, ge=1, le=26)
    max_retries_per_path: int = Field(default=2, ge=0)
    compute_cap: Hours = Field(default=2.0, gt=0)
    scale_ceiling: int = Field(gt=0)  # parameters
    token_budget: int | None = Field(default=None, gt=0)
    paths_launched: int = Field(default=0, ge=0)
    gpu_min_used: Minutes = Field(default=0.0, ge=0)
    retries_used: int = Field(default=0, ge=0)


_CAPS = {
    "max_paths": "different approaches to try",
    "max_retries_per_path": "repairs of one path before it is dropped",
    "compute_cap": "hours: of a GPU where there is one, else by the clock",
    "scale_ceiling": "parameters, at most",
    "token_budget": "training tokens over all paths; plan: as PLAN.md says",
}
_SPENT = ("paths_launched", "gpu_min_used", "retries_used")
_SPENT_LINE = "--- spent ---"
_AS_PLANNED = "plan"
_SETTING = re.compile(r"\s*[*_`]*([A-Za-z][\w ]*?)[*_`]*\s*=([^#]*)(#.*)?")


def parse(text: str, *, source: str) -> Budget:
    """The budget that a text says; every line must be there, because a lost one would widen it.

    Raises:
        InvalidDocument: with everything that is wrong.
    """
    draft = Draft(source)
    types = field_types(Budget)
    for section in outline(text):
        for line, words in section.lines:
            setting = _SETTING.fullmatch(words)
            if setting is None:
                continue
            name, value = field_name(setting[1]), setting[2].strip()
            if name not in types:
                draft.unknown(line, name, types)
            elif name == "token_budget" and value.casefold() == _AS_PLANNED:
                draft.put((name,), None, line)
            else:
                draft.put((name,), types[name].read(value), line)
    draft.require((*_CAPS, *_SPENT))
    return draft.finish(Budget)


def render(document: Budget) -> str:
    """The text that says this budget."""
    values = {name: _write(document, name) for name in (*_CAPS, *_SPENT)}
    name_width = max(map(len, _CAPS))
    value_width = max(len(values[name]) for name in _CAPS)
    caps = [
        f"{name:<{name_width}} = {values[name]:<{value_width}}  # {comment}"
        for name, comment in _CAPS.items()
    ]
    spent_width = max(map(len, _SPENT))
    spent = [f"{name:<{spent_width}} = {values[name]}" for name in _SPENT]
    return "\n".join([*caps, _SPENT_LINE, *spent]) + "\n"


def _write(document: Budget, name: str) -> str:
    value = getattr(document, name)
    # Other tools read these numbers, so they are not grouped.
    return _AS_PLANNED if value is None else field_types(Budget)[name].write(value).replace(",", "")
