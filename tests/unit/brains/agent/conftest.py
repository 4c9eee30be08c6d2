"""A loopback service and a run's folder, for each wire format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_models import LoopbackModels, Script
from tests.model_work import WIRES, Work

Begin = Callable[..., Work]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    """Each wire format in turn."""
    return str(request.param)


@pytest.fixture
def begin(tmp_path: Path, wire: str) -> Iterator[Begin]:
    """Starts a service with a script, and a run with a budget."""
    with ExitStack() as stack:

        def start(script: Script, *, context_tokens: int | None = None, **caps: Any) -> Work:
            server = stack.enter_context(LoopbackModels(script))
            work = Work(tmp_path / "run", server, wire, context_tokens=context_tokens)
            work.write_budget(**caps)
            return work

        yield start
