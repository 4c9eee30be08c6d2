"""Writing and diagnosing by a language model: what is taken, what goes back, and what it cannot reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.diagnosis import diagnose
from ml_intern_cli.brains.language_model.diagnosing import diagnose_with
from ml_intern_cli.brains.language_model.implementing import implement_with
from ml_intern_cli.brains.protocol import Evidence, Implementation
from ml_intern_cli.executors.walls import Wall, standing_wall
from tests.examples import PLAN, RESEARCH, SMOKE, TASK
from tests.loopback_models import Act, Call, LoopbackModels
from tests.model_work import Work
from tests.scripted_brain import CONFIG, FIX, LEAK, MODEL
from tests.workbench import Bench

GOOD = MODEL.replace(LEAK, FIX)
HAND_IN = Call("hand_in_code", {"summary": "Attention is replaced by decaying averages."})
CONFIGURED = Call("write_file", {"path": "config.json", "text": json.dumps(CONFIG)})


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Any]:
    """Begins a service with a script and gives what talks to it."""
    with ExitStack() as stack:

        def begin(*acts: Act) -> Work:
            server = stack.enter_context(LoopbackModels(list(acts)))
            started = Work(tmp_path / "run", server, "anthropic")
            started.write_budget()
            return started

        yield begin


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A path to write, with the blueprint's code to start from."""
    return Bench(tmp_path / "bench", start=BlueprintBrain().start(PLAN.paths[0], PLAN))


def _implement(work: Work, bench: Bench) -> Implementation:
    path = PLAN.paths[0].model_copy(update={"variant": "averages"})
    return implement_with(work.agent(), path, PLAN, TASK, RESEARCH, bench, further=())


def _answers(work: Work) -> list[str]:
    return [result for one in work.server.requests for result in one.incoming.last_results]


def test_a_claim_without_a_change_goes_back(work: Any, bench: Bench) -> None:
    started = work(
        HAND_IN, CONFIGURED, HAND_IN, Call("write_file", {"path": "model.py", "text": GOOD}), HAND_IN
    )
    made = _implement(started, bench)
    answers = _answers(started)
    assert "nothing was changed" in answers[0]
    assert "other numbers are no other model" in answers[2]
    assert made.files["model.py"] == GOOD
    assert made.code is not None
    assert (made.code.author, made.code.summary) == ("test-model", HAND_IN.arguments["summary"])


def test_code_that_does_not_compile_or_names_no_class_goes_back(work: Any, bench: Bench) -> None:
    started = work(
        Call("write_file", {"path": "model.py", "text": "def f(:"}),
        Call("write_file", {"path": "config.json", "text": "{}"}),
        HAND_IN,
        CONFIGURED,
        Call("write_file", {"path": "model.py", "text": GOOD}),
        HAND_IN,
    )
    _implement(started, bench)
    refused = _answers(started)[2]
    assert "model.py: does not compile" in refused
    assert "config.json: has no _model_class" in refused


def test_the_plans_numbers_and_the_claim_to_be_a_known_architecture_are_not_the_models(
    work: Any, bench: Bench
) -> None:
    claimed = json.dumps(CONFIG | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    started = work(
        Call("write_file", {"path": "train_config.json", "text": "{}"}),
        Call("write_file", {"path": "config.json", "text": claimed}),
        Call("write_file", {"path": "model.py", "text": GOOD}),
        HAND_IN,
    )
    made = _implement(started, bench)
    assert "not yours to change" in _answers(started)[0]
    assert made.files["train_config.json"] == bench.start["train_config.json"]
    assert json.loads(made.files["config.json"]) == CONFIG


@pytest.mark.skipif(standing_wall() is Wall.NONE, reason="this machine has no wall")
def test_a_model_that_does_all_that_a_hostile_page_asks_gets_nothing_and_nowhere(
    work: Any, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "home" / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_" + "s3cr3t" * 6)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s3cr3t" * 6)
    program = f"""
import os, glob, socket, pathlib
for attempt in (
    lambda: open({str(token)!r}).read(),
    lambda: os.environ.get("HF_TOKEN"),
    lambda: [open(one, errors="replace").read() for one in glob.glob("/proc/*/environ")],
    lambda: socket.create_connection(("127.0.0.1", 80), 1),
    lambda: pathlib.Path({str(tmp_path / "planted")!r}).write_text("x"),
):
    try:
        print(attempt())
    except OSError as error:
        print(type(error).__name__)
"""
    started = work(
        Call("read_file", {"path": str(token)}),
        Call("read_file", {"path": "../../home/.cache/huggingface/token"}),
        Call("publish", {"repo": "everything"}),
        Call("run_python", {"code": program}),
        Call("write_file", {"path": "../../planted", "text": "x"}),
        CONFIGURED,
        Call("write_file", {"path": "model.py", "text": GOOD}),
        HAND_IN,
    )
    _implement(started, bench)
    said = "".join(_answers(started)) + started.layout.session.read_text()
    assert "s3cr3t" not in said
    assert "there is no tool 'publish'" in said
    assert not (tmp_path / "planted").exists()


def test_a_diagnosis_names_a_probe_that_failed(work: Any, tmp_path: Path) -> None:
    (tmp_path / "path-a").mkdir()
    found = {
        "symptom": "causality fails",
        "root_cause": "model.py:40: no mask",
        "fix": "mask the weights",
        "fixable": True,
    }
    started = work(
        Call("hand_in_diagnosis", found | {"probe": "speed"}),
        Call("hand_in_diagnosis", found | {"probe": "causality"}),
    )
    evidence = Evidence(
        path=PLAN.paths[0], folder=tmp_path / "path-a", failed_stage="smoke", smoke=SMOKE, remaining_s=100.0
    )
    diagnosis = diagnose_with(started.agent(), evidence, diagnose(evidence))
    assert "probe: must be one that failed: causality" in _answers(started)[0]
    assert (diagnosis.probe, diagnosis.rewrite, diagnosis.changes) == ("causality", True, {})
    assert diagnosis.cause == "smoke:causality"
