"""One invocation of the program: its streams, settings, reporter, and how a result is shown."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_intern_cli.cli.options import SharedOptions
from ml_intern_cli.cli.terminal import Terminal, standard_streams

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Question
    from ml_intern_cli.cli.reporter import QuietReporter
    from ml_intern_cli.cli.settings import Settings
    from ml_intern_cli.runs.index import RunIndex
    from ml_intern_cli.runs.service import RunService

T = TypeVar("T")


class Session:
    """What a command is given. Everything is made when it is first asked for."""

    def __init__(self, options: SharedOptions, environment: Mapping[str, str]) -> None:
        self.options = options
        self._environment = environment
        self.out, self.err = standard_streams(environment)

    @cached_property
    def settings(self) -> Settings:
        """The environment and `.env`. Raises InvalidInput."""
        from ml_intern_cli.cli.settings import load_settings

        return load_settings(self._environment, working_dir=Path.cwd(), runs_dir=self.options.runs_dir)

    @cached_property
    def reporter(self) -> QuietReporter:
        """Who draws progress on stderr."""
        from ml_intern_cli.cli.reporter import make_reporter

        return make_reporter(self.err, quiet=self.options.quiet)

    @cached_property
    def index(self) -> RunIndex:
        """All runs of the chosen directory, to look at."""
        from ml_intern_cli.runs.index import RunIndex

        return RunIndex(self.settings.runs_dir)

    @cached_property
    def runs(self) -> RunService:
        """All runs of the chosen directory, to work on."""
        from ml_intern_cli.runs.service import RunService

        return RunService(index=self.index, settings=self.settings, reporter=self.reporter, ask=self._ask)

    @property
    def is_headless(self) -> bool:
        """Nobody can answer: stdin is no terminal."""
        return sys.stdin is None or not sys.stdin.isatty()

    def show(
        self, result: T, render: Callable[[T, Terminal], Iterable[str]], *, key: str | None = None
    ) -> None:
        """Put a result on stdout: one JSON object with --json, else the lines that ``render`` gives.

        A result that is a listing needs the ``key`` that it has in the object.
        """
        if self.options.as_json:
            self.out.line(to_json(result if key is None else {key: result}))
        else:
            self.out.lines(render(result, self.out))

    def close(self) -> None:
        """Put the screen back in order."""
        if "reporter" in self.__dict__:
            self.reporter.close()

    def _ask(self, questions: tuple[Question, ...]) -> dict[str, str]:
        from ml_intern_cli.cli.questions import ask

        with self.reporter.paused():
            return ask(questions, terminal=self.err, answers=sys.stdin)


def environment() -> Mapping[str, str]:
    """The process environment, as it is now."""
    return os.environ


def to_json(value: object) -> str:
    """One line of JSON."""
    return json.dumps(_plain(value), ensure_ascii=True)


def _plain(value: Any) -> Any:
    """Dataclasses, documents, enums, paths and times as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        plain: Any = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    elif hasattr(value, "model_dump"):  # a document, recognised without importing pydantic
        plain = value.model_dump(mode="json")
    elif isinstance(value, Mapping):
        plain = {str(key): _plain(one) for key, one in value.items()}
    elif isinstance(value, (list, tuple)):
        plain = [_plain(one) for one in value]
    elif isinstance(value, Enum):
        plain = value.value
    elif isinstance(value, date):
        plain = value.isoformat()
    elif isinstance(value, float) and not math.isfinite(value):
        plain = None  # JSON has no other word for it
    else:
        plain = str(value) if isinstance(value, Path) else value
    return plain
