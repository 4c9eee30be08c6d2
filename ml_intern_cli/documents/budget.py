"""BUDGET.md: caps and spend, in the layout of the seed (`name = value  # comment`)."""

from __future__ import annotations

import re

from pydantic import Field

from ml_intern_cli.documents.draft import Draft
from ml_intern_cli.documents.markdown import outline
from ml_intern_cli.documents.model import Dollars, Hours, Minutes, Model
from ml_intern_cli.documents.parts import field_name
from ml_intern_cli.documents.values import field_types


class ModelUse(Model):
    """What language models did for one stage. Tokens read from a prompt cache count as tokens in."""

    stage: str = Field(pattern=r"^[a-z]+( [a-z][a-z0-9-]*)?$")  # "restate", "implement a"
    calls: int = Field(ge=0)
    tokens_in: int = Field(ge=0)
    tokens_out: int = Field(ge=0)
    usd: Dollars = Field(ge=0)


class Budget(Model):
    """Caps the user sets, and the spend that only the program counts.

    ``compute_cap`` is in hours, of a GPU where there is one, else of wall-clock.
    ``token_budget`` ``None`` is written ``plan``: what PLAN.md fixes.
    The caps of language models have defaults, so that a budget from before there were any is read.
    """

    max_paths: int = Field(default=2, ge=1, le=26)
    max_retries_per_path: int = Field(default=2, ge=0)
    compute_cap: Hours = Field(default=2.0, gt=0)
    scale_ceiling: int = Field(gt=0)  # parameters
    token_budget: int | None = Field(default=None, gt=0)
    max_usd: Dollars = Field(default=5.0, ge=0)
    max_model_tokens: int = Field(default=20_000_000, ge=0)  # in and out, over the run
    max_model_calls: int = Field(default=300, ge=0)  # in one conversation
    paths_launched: int = Field(default=0, ge=0)
    gpu_min_used: Minutes = Field(default=0.0, ge=0)
    retries_used: int = Field(default=0, ge=0)
    usd_used: Dollars = Field(default=0.0, ge=0)
    model_use: tuple[ModelUse, ...] = ()


_CAPS = {
    "max_paths": "different approaches to try",
    "max_retries_per_path": "repairs of one path before it is dropped",
    "compute_cap": "hours: of a GPU where there is one, else by the clock",
    "scale_ceiling": "parameters, at most",
    "token_budget": "training tokens over all paths; plan: as PLAN.md says",
    "max_usd": "dollars for language models",
    "max_model_tokens": "tokens of language models, in and out",
    "max_model_calls": "calls of a language model in one conversation",
}
_SPENT = ("paths_launched", "gpu_min_used", "retries_used", "usd_used")
_SPENT_LINE = "--- spent ---"
_USE_LINE = "--- language models, by stage ---"
_LATER = frozenset({"max_usd", "max_model_tokens", "max_model_calls", "usd_used"})
"""Lines that budgets of earlier versions do not have."""
_AS_PLANNED = "plan"
_SETTING = re.compile(r"\s*[*_`]*([A-Za-z][\w ]*?)[*_`]*\s*=([^#]*)(#.*)?")
_USE = re.compile(
    r"\s*(?P<stage>[a-z]+(?: [a-z][a-z0-9-]*)?)\s*=\s*(?P<calls>[\d,]+) calls?, "
    r"(?P<tokens_in>[\d,]+) tokens in, (?P<tokens_out>[\d,]+) out, (?P<usd>[\d.e+-]+) usd\s*"
)


def parse(text: str, *, source: str) -> Budget:
    """The budget that a text says; every line must be there, because a lost one would widen it.

    Raises:
        InvalidDocument: with everything that is wrong.
    """
    draft = Draft(source)
    draft.put(("model_use",), [], 1)
    types = field_types(Budget)
    seen = set()
    for section in outline(text):
        for line, words in section.lines:
            use = _USE.fullmatch(words)
            if use is not None:
                draft.append(("model_use",), _read_use(use), line)
                continue
            setting = _SETTING.fullmatch(words)
            if setting is None:
                continue
            name, value = field_name(setting[1]), setting[2].strip()
            seen.add(name)
            if name not in types:
                draft.unknown(line, name, types)
            elif name == "token_budget" and value.casefold() == _AS_PLANNED:
                draft.put((name,), None, line)
            else:
                draft.put((name,), types[name].read(value), line)
    is_earlier = not _LATER & seen
    draft.require([name for name in (*_CAPS, *_SPENT) if not (is_earlier and name in _LATER)])
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
    return "\n".join([*caps, _SPENT_LINE, *spent, *_use_lines(document)]) + "\n"


def _use_lines(document: Budget) -> list[str]:
    if not document.model_use:
        return []
    width = max(len(one.stage) for one in document.model_use)
    return [
        _USE_LINE,
        *(
            f"{one.stage:<{width}} = {one.calls} call{'s' * (one.calls != 1)}, {one.tokens_in} tokens in, "
            f"{one.tokens_out} out, {f'{one.usd:.6f}'.rstrip('0').rstrip('.')} usd"
            for one in document.model_use
        ),
    ]


def _read_use(match: re.Match[str]) -> dict[str, object]:
    numbers = {name: match[name].replace(",", "") for name in ("calls", "tokens_in", "tokens_out", "usd")}
    return {"stage": match["stage"], **numbers}


def _write(document: Budget, name: str) -> str:
    value = getattr(document, name)
    # Other tools read these numbers, so they are not grouped.
    return _AS_PLANNED if value is None else field_types(Budget)[name].write(value).replace(",", "")
