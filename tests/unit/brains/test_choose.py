"""Which brain a run gets: by name, by what has a key, and with which models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.access import HubAccess, ModelAccess
from ml_intern_cli.brains.agent.session import Session
from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.choose import Surroundings, Wishes, choose_brain
from ml_intern_cli.brains.language_model.brain import LanguageModelBrain
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.runs.files import JsonLines

NOTHING = ModelAccess(api_key=None, base_url=None)
KEY = ModelAccess(api_key="key-0123456789", base_url=None)
OWN_SERVER = ModelAccess(api_key=None, base_url="http://localhost:11434/v1")


def surroundings(
    *,
    anthropic: ModelAccess = NOTHING,
    openai: ModelAccess = NOTHING,
    hub_token: str | None = None,
    preferred: dict[str, str] | None = None,
) -> Surroundings:
    """What a user has set; nothing is called, so the purse is never opened."""
    return Surroundings(
        anthropic=anthropic,
        openai=openai,
        hub=HubAccess(token=hub_token),
        session=Session(JsonLines(Path("session.jsonl"))),
        purse=None,  # type: ignore[arg-type]
        lookups=lambda: ((), list),
        further=tuple,
        tell=lambda stage, line: None,
        sleep=lambda seconds: None,
        note=lambda text: None,
        preferred=preferred or {},
    )


def models(brain: Any) -> Iterator[tuple[str, str, str | None]]:
    """Service, name and effort of who thinks, and of who does research and summaries."""
    assert isinstance(brain, LanguageModelBrain)
    assert brain.agent.notes.name == brain.researcher.model.name
    for model in (brain.agent.model, brain.researcher.model):
        yield model.service, model.name, getattr(model, "effort", None)


@pytest.mark.parametrize(
    ("set_up", "expected"),
    [
        ({}, "blueprint"),
        ({"anthropic": KEY, "openai": KEY}, "anthropic"),
        ({"openai": KEY, "hub_token": "hf_x"}, "openai"),
        ({"openai": OWN_SERVER, "model": "qwen3"}, "openai"),
        ({"hub_token": "hf_x"}, "blueprint"),  # a token of the Hub is not one to think with, unless asked
    ],
    ids=["nothing", "both keys", "one key", "a server", "the Hub's token"],
)
def test_auto_takes_the_first_that_has_a_key_or_an_address(set_up: dict[str, Any], expected: str) -> None:
    model = set_up.pop("model", None)
    brain = choose_brain(Wishes(brain="auto", model=model), surroundings(**set_up))
    if expected == "blueprint":
        assert isinstance(brain, BlueprintBrain)
    else:
        assert {service for service, _, _ in models(brain)} == {expected}


def test_a_named_brain_wins_over_the_keys() -> None:
    everything = surroundings(anthropic=KEY, openai=KEY)
    assert isinstance(choose_brain(Wishes(brain="blueprint"), everything), BlueprintBrain)
    (service, _, _), _ = models(choose_brain(Wishes(brain="openai"), everything))
    assert service == "openai"


def test_research_and_summaries_are_for_a_cheaper_model() -> None:
    both = surroundings(anthropic=KEY, openai=KEY)
    for brain in ("anthropic", "openai"):
        (_, name, _), (_, cheap, _) = models(choose_brain(Wishes(brain=brain), both))
        assert name != cheap
        wishes = Wishes(brain=brain, model="large", cheap_model="small", effort="low")
        assert list(models(choose_brain(wishes, both))) == [
            (brain, "large", "low"),
            (brain, "small", None),
        ]
        only = models(choose_brain(Wishes(brain=brain, model="large"), both))
        assert [name for _, name, _ in only] == ["large", "large"]  # none is guessed to go with it


def test_the_config_file_is_asked_where_nothing_was_said() -> None:
    given = surroundings(anthropic=KEY, preferred={"anthropic": "mine", "cheap": "small", "effort": "high"})
    assert [one[1:] for one in models(choose_brain(Wishes(brain="auto"), given))] == [
        ("mine", "high"),
        ("small", None),
    ]


def test_hugging_faces_router_is_used_when_it_is_asked_for() -> None:
    router = surroundings(hub_token="hf_x")
    brain = choose_brain(Wishes(brain="openai", model="a/b"), router)
    assert isinstance(brain, LanguageModelBrain)
    assert brain.agent.model.base_url == "https://router.huggingface.co/v1"
    with pytest.raises(InvalidInput, match="which model"):
        choose_brain(Wishes(brain="openai"), router)


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_a_brain_without_its_key_says_what_to_set(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"--brain {name} needs {name.upper()}_API_KEY") as refused:
        choose_brain(Wishes(brain=name), surroundings())
    assert refused.value.hint
