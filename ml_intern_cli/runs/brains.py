"""The brain of a run, with what it is given: its purse, its session.jsonl, and the tools that reach out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml_intern_cli.runs.files import JsonLines
from ml_intern_cli.runs.money import MoneyCaps, RunPurse
from ml_intern_cli.runs.receipts import StageMemory
from ml_intern_cli.stages.base import Caps, Progress

if TYPE_CHECKING:
    from ml_intern_cli.access import HubAccess, ModelAccess
    from ml_intern_cli.brains.agent.session import Session
    from ml_intern_cli.brains.protocol import Brain, Question
    from ml_intern_cli.brains.tools.mcp.settings import McpServer
    from ml_intern_cli.brains.tools.tool import Tool
    from ml_intern_cli.documents.layout import RunLayout
    from ml_intern_cli.runs.options import RunOptions
    from ml_intern_cli.runs.reporter import Reporter

Ask = Callable[[tuple["Question", ...]], dict[str, str]]

_DEFAULT_MAX_USD = 5.0
_YES = {"y", "yes"}
_REMEMBERED = ("brain", "model", "cheap_model", "effort")


class Surroundings(Protocol):
    """What of the user's surroundings a brain needs."""

    @property
    def hub(self) -> HubAccess: ...  # noqa: D102
    @property
    def anthropic(self) -> ModelAccess: ...  # noqa: D102
    @property
    def openai(self) -> ModelAccess: ...  # noqa: D102
    @property
    def github_token(self) -> str | None: ...  # noqa: D102
    @property
    def s2_api_key(self) -> str | None: ...  # noqa: D102
    @property
    def secrets(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def config(self) -> Config: ...  # noqa: D102


class Config(Protocol):
    """What of the user's config file a brain needs."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def preferred(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def prices(self) -> Mapping[str, Mapping[str, float]]: ...  # noqa: D102
    @property
    def mcp(self) -> Mapping[str, McpServer]: ...  # noqa: D102


def brain_of(
    layout: RunLayout,
    request: str,
    options: RunOptions,
    settings: Surroundings,
    *,
    reporter: Reporter,
    sleep: Callable[[float], None],
    caps: Caps,
    ask: Ask | None,
    until_the_end: ExitStack,
) -> Brain:
    """The brain that the options name, or that the run was begun with.

    Args:
        layout: The run.
        request: Its sentence, which may cap the money before BUDGET.md does.
        options: What was said now.
        settings: Accounts and addresses.
        reporter: Is told what the brain does.
        sleep: Waits, for a service to answer again.
        caps: Caps that options gave.
        ask: Puts a question to the user; ``None`` when nobody is there.
        until_the_end: Holds what lives as long as the brain does: MCP servers.

    Raises:
        InvalidInput: the brain lacks a key, an address or a model's name.
    """
    from ml_intern_cli.brains import choose
    from ml_intern_cli.brains.models.prices import read_own_prices

    memory = StageMemory(layout, name="brain.json")
    options = _as_begun(options, memory)

    def approve(what: str) -> bool:
        return ask is None or _consents(ask, what)

    def tell(stage: str, line: str) -> None:
        name, _, path_id = stage.partition(" ")
        reporter.progress(Progress(stage=name, path_id=path_id or None, what=line))

    wishes = choose.Wishes(
        brain=options.brain,
        model=options.model,
        cheap_model=options.cheap_model,
        effort=options.effort,
        falls_back=options.falls_back,
    )
    brain = choose.choose_brain(
        wishes,
        choose.Surroundings(
            anthropic=settings.anthropic,
            openai=settings.openai,
            hub=settings.hub,
            session=_session(layout),
            purse=RunPurse(
                layout,
                before=MoneyCaps(max_usd=_max_usd(caps, request)),
                prices=read_own_prices(settings.config.prices),
                config_file=settings.config.path,
                approve=approve,
                wait=sleep,
            ),
            lookups=lambda: _lookups(settings),
            further=lambda: _mcp_tools(settings, reporter, ask, until_the_end),
            tell=tell,
            sleep=sleep,
            note=reporter.note,
            preferred=settings.config.preferred,
            secrets=settings.secrets,
        ),
    )
    if options.brain != "auto":
        for name in _REMEMBERED:
            memory.remember(name, getattr(options, name) or "")
    return brain


def _as_begun(options: RunOptions, memory: StageMemory) -> RunOptions:
    """Without another word a run goes on with the brain that it was begun with."""
    if options.brain != "auto":
        return options
    kept: dict[str, Any] = {
        name: memory.recall(name) for name in _REMEMBERED if getattr(options, name) in {None, "auto"}
    }
    return replace(options, **{name: value for name, value in kept.items() if value})


def _session(layout: RunLayout) -> Session:
    from ml_intern_cli.brains.agent.session import Session

    return Session(JsonLines(layout.session))


def _max_usd(caps: Caps, request: str) -> float:
    """The cap until BUDGET.md is there: an option's, else the sentence's, else the default."""
    from ml_intern_cli.brains.reader import Field, read

    if caps.max_usd is not None:
        return caps.max_usd
    said = read(request, spellings={}, arxiv_ids={}).amount(Field.MAX_USD) if request else None
    return _DEFAULT_MAX_USD if said is None else said


def _lookups(settings: Surroundings) -> tuple[tuple[Tool, ...], Callable[[], list[str]]]:
    """The tools of research, none where the user wants no network; and what tells what they did not reach."""
    if settings.hub.offline:
        return (), list
    from ml_intern_cli.brains.tools.lookup import lookup_tools
    from ml_intern_cli.research.library import Library

    library = Library(
        hub=settings.hub,
        github_token=settings.github_token,
        s2_api_key=settings.s2_api_key,
        secrets=settings.secrets,
    )
    return lookup_tools(library), lambda: library.missed


def _mcp_tools(
    settings: Surroundings, reporter: Reporter, ask: Ask | None, until_the_end: ExitStack
) -> tuple[Tool, ...]:
    """The tools of the user's MCP servers, which are started for it."""
    if not settings.config.mcp:
        return ()
    from ml_intern_cli.brains.tools.mcp import McpServers

    def approve(what: str) -> bool:
        return ask is not None and _consents(ask, f"call {what}")

    servers = McpServers(settings.config.mcp, approve=approve, environment=os.environ)
    tools = until_the_end.enter_context(servers).tools(taken=())
    for note in servers.notes:
        reporter.note(note)
    return tools


def _consents(ask: Ask, what: str) -> bool:
    from ml_intern_cli.brains.protocol import Question

    question = Question(
        name="approval",
        text=f"May ml-intern {what}?",
        default="yes",
        why_default="it stays within BUDGET.md",
        choices=("yes", "no"),
    )
    return ask((question,)).get(question.name, question.default).casefold() in _YES
