"""What the options of a command say about a run. ``None``: not given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options that shape a run; they win over the sentence and over what stands in BUDGET.md."""

    slug: str | None = None
    new: bool = False
    until: str | None = None
    brain: str = "auto"
    model: str | None = None
    cheap_model: str | None = None
    effort: str | None = None
    falls_back: bool = False
    dataset: str | None = None
    dataset_column: str | None = None
    params: int | None = None
    seq_len: int | None = None
    time_budget_s: float | None = None
    token_budget: int | None = None
    max_paths: int | None = None
    max_retries: int | None = None
    parallel: int | None = None
    max_usd: float | None = None
    publish: str | None = None
    with_session: bool = False
    seed: int | None = None
    headless: bool = True
    yes: bool = False
    wall: str | None = None
    docker_image: str | None = None
    allow_unsandboxed: bool = False
