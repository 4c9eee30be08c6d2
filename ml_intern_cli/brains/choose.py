"""From the word of ``--brain`` to a brain; what it needs is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.access import HubAccess, ModelAccess
from ml_intern_cli.brains.names import REPLAY
from ml_intern_cli.brains.protocol import Brain, Purse
from ml_intern_cli.errors import InvalidInput

if TYPE_CHECKING:
    from ml_intern_cli.brains.agent.session import Session
    from ml_intern_cli.brains.models.message import LanguageModel
    from ml_intern_cli.brains.tools.tool import Tool

_CLAUDE, _CHEAP_CLAUDE = "claude-opus-5-5", "claude-haiku-4-5"
_GPT, _CHEAP_GPT = "gpt-5.1", "gpt-5-mini"  # newer ones take tools on another interface only
_ROUTER = "https://router.huggingface.co/v1"
_HUB_DOMAINS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user says about brains. ``None``: not said.

    Attributes:
        brain: ``auto``, ``blueprint``, ``anthropic``, ``openai`` or ``replay:FILE``.
        cheap_model: For research and summaries.
        falls_back: Go on with the blueprint brain when the model's service fails for good.
    """

    brain: str
    model: str | None = None
    cheap_model: str | None = None
    effort: str | None = None
    falls_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a brain is given of the world.

    Attributes:
        lookups: Makes the tools of research, none where there is to be no network, and what tells what they
            could not reach.
        further: Makes the user's own tools.
        preferred: What the config file says: ``anthropic``, ``openai`` and ``cheap`` models, ``effort``.
        tell: Gets the stage and one line on what is being done.
        sleep: Waits that many seconds.
        note: Tells the user something that belongs to no stage.
    """

    anthropic: ModelAccess
    openai: ModelAccess
    hub: HubAccess
    session: Session
    purse: Purse
    lookups: Callable[[], tuple[tuple[Tool, ...], Callable[[], Sequence[str]]]]
    further: Callable[[], tuple[Tool, ...]]
    tell: Callable[[str, str], None]
    sleep: Callable[[float], None]
    note: Callable[[str], None]
    preferred: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def choose_brain(wishes: Wishes, surroundings: Surroundings) -> Brain:
    """The brain of that name; ``auto`` takes a language model that has a key, else the blueprints.

    Raises:
        InvalidInput: there is no such brain, or it lacks a key, an address or a model's name.
    """
    from ml_intern_cli.brains.blueprint import BlueprintBrain

    name = _automatic(surroundings) if wishes.brain == "auto" else wishes.brain
    wishes = _completed(wishes, surroundings.preferred, name)
    rules = BlueprintBrain()
    if name == "blueprint":
        return rules
    from ml_intern_cli.brains.agent.loop import Agent
    from ml_intern_cli.brains.language_model.brain import LanguageModelBrain

    model, cheap = _models(name, wishes, surroundings)
    agent, researcher = (
        Agent(
            model=one,
            notes=cheap,
            session=surroundings.session,
            purse=surroundings.purse,
            tell=surroundings.tell,
            sleep=surroundings.sleep,
            secrets=surroundings.secrets,
        )
        for one in (model, cheap)
    )
    (lookups, missed), further = surroundings.lookups(), surroundings.further()
    if name.startswith(REPLAY):
        lookups, further = _recorded(model, lookups), _recorded(model, further)
    return LanguageModelBrain(
        name=name,
        agent=agent,
        researcher=researcher,
        rules=rules,
        lookups=lookups,
        missed=missed,
        why_no_lookups="papers, pages and repositories: HF_HUB_OFFLINE is set",
        further=further,
        falls_back=wishes.falls_back,
        note=surroundings.note,
    )


def _completed(wishes: Wishes, preferred: Mapping[str, str], name: str) -> Wishes:
    """What was said, and where nothing was, what the config file prefers."""
    return replace(
        wishes,
        model=wishes.model or preferred.get(name),
        cheap_model=wishes.cheap_model or (None if wishes.model else preferred.get("cheap")),
        effort=wishes.effort or preferred.get("effort"),
    )


def _automatic(surroundings: Surroundings) -> str:
    if surroundings.anthropic.api_key:
        return "anthropic"
    if surroundings.openai.api_key or surroundings.openai.base_url:
        return "openai"
    return "blueprint"


def _models(name: str, wishes: Wishes, surroundings: Surroundings) -> tuple[LanguageModel, LanguageModel]:
    """The model that thinks, and the cheaper one. Raises InvalidInput."""
    if name.startswith(REPLAY):
        from ml_intern_cli.brains.models.replay import ReplayedModel

        replayed = ReplayedModel.of(Path(name.removeprefix(REPLAY)).expanduser())
        return replayed, replayed
    if name == "anthropic":
        return _claudes(wishes, surroundings.anthropic)
    if name == "openai":
        return _chat_models(wishes, surroundings)
    raise AssertionError(f"{name!r} is no brain; brain_name() refuses it")


def _claudes(wishes: Wishes, access: ModelAccess) -> tuple[LanguageModel, LanguageModel]:
    from ml_intern_cli.brains.models.anthropic import AnthropicModel

    if access.api_key is None:
        raise InvalidInput(
            "--brain anthropic needs ANTHROPIC_API_KEY",
            hint="set it, or use --brain blueprint, which needs no key",
        )
    key, address = access.api_key, access.base_url
    model = AnthropicModel(
        name=wishes.model or _CLAUDE, api_key=key, base_url=address, effort=wishes.effort, thinking=True
    )
    cheap = wishes.cheap_model or (_CHEAP_CLAUDE if wishes.model is None else wishes.model)
    return model, AnthropicModel(name=cheap, api_key=key, base_url=address, effort=None, thinking=False)


def _chat_models(wishes: Wishes, surroundings: Surroundings) -> tuple[LanguageModel, LanguageModel]:
    from ml_intern_cli.brains.models.endpoints import is_at
    from ml_intern_cli.brains.models.openai import PUBLIC_ADDRESS, OpenAIModel

    key, address = surroundings.openai.api_key, surroundings.openai.base_url
    if address is None:
        address = PUBLIC_ADDRESS if key else _ROUTER if surroundings.hub.token else None
    if address is None:
        raise InvalidInput(
            "--brain openai needs OPENAI_API_KEY, OPENAI_BASE_URL for a server of your own, or HF_TOKEN for "
            "Hugging Face's router",
            hint="for Ollama: OPENAI_BASE_URL=http://localhost:11434/v1 and --model NAME",
        )
    if key is None and is_at(address, *_HUB_DOMAINS):
        key = surroundings.hub.token
    is_public = address == PUBLIC_ADDRESS
    name = wishes.model or (_GPT if is_public else None)
    if name is None:
        raise InvalidInput(f"which model of {address}?", hint="name it: --model NAME")
    default = _CHEAP_GPT if is_public and wishes.model is None else name
    model = OpenAIModel(name=name, api_key=key, base_url=address, effort=wishes.effort)
    return model, OpenAIModel(name=wishes.cheap_model or default, api_key=key, base_url=address)


def _recorded(model: LanguageModel, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The tools with the answers that they gave when the session was recorded."""
    from ml_intern_cli.brains.models.replay import ReplayedModel

    assert isinstance(model, ReplayedModel)  # noqa: S101, only a replay has a record
    return tuple(model.recorded(tool) for tool in tools)
