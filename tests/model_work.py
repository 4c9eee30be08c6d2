"""A language model at work for tests: the real loop, purse and journal against a loopback service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Session, Step
from ml_intern_cli.brains.models.anthropic import AnthropicModel
from ml_intern_cli.brains.models.message import LanguageModel
from ml_intern_cli.brains.models.openai import OpenAIModel
from ml_intern_cli.brains.models.prices import Price
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.layout import BUDGET, RunLayout
from ml_intern_cli.documents.registry import load, render
from ml_intern_cli.runs.files import JsonLines, read_rows
from ml_intern_cli.runs.money import MoneyCaps, RunPurse
from tests.loopback_models import LoopbackModels

MODEL = "test-model"
PRICE = Price(input=2.0, output=10.0, cache_read=2.0, cache_write=2.0)  # dollars per million tokens
WIRES = ("anthropic", "openai")


class Answer(Arguments):
    """What the model is asked for."""

    value: int = Field(ge=10)


class Word(Arguments):
    """What the tools of these tests take."""

    word: str = ""


def accept(given: Answer, _: Sequence[Step]) -> int:
    if given.value == 13:
        raise ToolFailed("13 is not taken")
    return given.value


@dataclass
class Work:
    """One run's folder, and a model that works for it.

    ``restart`` is what a new process finds: nothing but the files.
    """

    root: Path
    server: LoopbackModels
    wire: str
    prices: dict[str, Price] = field(default_factory=lambda: {MODEL: PRICE})
    approved: list[str] = field(default_factory=list)
    consent: bool = True
    waits: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    context_tokens: int | None = None

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.root)

    @property
    def budget(self) -> Budget:
        budget = load(self.layout.document(BUDGET))
        assert isinstance(budget, Budget)
        return budget

    def write_budget(self, **caps: Any) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.layout.document(BUDGET).write_text(render(Budget(scale_ceiling=1_000_000, **caps)))

    def model(self) -> LanguageModel:
        if self.wire == "anthropic":
            return AnthropicModel(
                name=MODEL,
                api_key=self.server.key,
                base_url=self.server.anthropic_url,
                effort=None,
                thinking=False,
            )
        return OpenAIModel(
            name=MODEL,
            api_key=self.server.key,
            base_url=self.server.openai_url,
            context_limit=self.context_tokens,
        )

    def agent(self, model: LanguageModel | None = None, **changes: Any) -> Agent:
        def approve(what: str) -> bool:
            self.approved.append(what)
            return self.consent

        model = model or self.model()
        given = {
            "model": model,
            "notes": model,
            "session": Session(JsonLines(self.layout.session)),
            "purse": RunPurse(
                self.layout,
                before=MoneyCaps(max_usd=5.0),
                prices=self.prices,
                config_file=Path("config.toml"),
                approve=approve,
            ),
            "tell": lambda stage, line: self.told.append(line),
            "sleep": self.waits.append,
        }
        return Agent(**(given | changes))

    def rows(self) -> list[dict[str, Any]]:
        return list(read_rows(self.layout.session))

    def served_usd(self) -> float:
        """What the service would have on its bill."""
        counted = [one.tokens for one in self.server.requests if one.tokens is not None]
        read = sum(one.fresh + one.read + one.written for one in counted)
        return (read * PRICE.input + sum(one.output for one in counted) * PRICE.output) / 1e6


def job(*tools: Tool, stage: str = "implement a", task: str = "Find the number.") -> Job[Answer, int]:
    """Work whose result is a number of at least 10 that is not 13."""
    finish = Finish(name="hand_in", description="Hand in the number.", arguments=Answer, accept=accept)
    return Job(stage=stage, system="You look for a number.", task=task, tools=tools, finish=finish)


def recorder(name: str, calls: list[str], *, read_only: bool = True, answers: Sequence[str] = ()) -> Tool:
    """A tool that notes what it was called with."""

    def run(given: Word) -> str:
        calls.append(given.word)
        return answers[min(len(calls), len(answers)) - 1] if answers else f"{name} saw {given.word}"

    return tool(name, "Takes a word.", Word, run, read_only=read_only)
