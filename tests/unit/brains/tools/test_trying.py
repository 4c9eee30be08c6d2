"""Running code, reading logs, looking at what is installed."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.inspecting import inspect_tool
from ml_intern_cli.brains.tools.logs import log_tools
from ml_intern_cli.brains.tools.output import MOST_SHOWN, Outputs, plain
from ml_intern_cli.brains.tools.running import running_tools
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed
from ml_intern_cli.executors.walls import Wall, standing_wall
from tests.workbench import Bench

behind_a_wall = pytest.mark.skipif(standing_wall() is Wall.NONE, reason="this machine has no wall")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder to run programs in."""
    return Bench(tmp_path)


@pytest.fixture
def tools(bench: Bench) -> dict[str, Tool]:
    """All that run something."""
    outputs = Outputs(bench.folder)
    found = (*running_tools(bench, outputs), inspect_tool(bench, outputs))
    found += log_tools(Folder(bench.folder), outputs)
    return {one.name: one for one in found}


def test_a_snippet_answers_with_its_exit_code_time_and_output(tools: dict[str, Tool]) -> None:
    answer = tools["run_python"].call({"code": "import sys; print(6 * 7); sys.exit(3)"})
    assert answer.startswith("exit code 3, took ")
    assert answer.endswith("42\n")


def test_a_file_runs_with_its_arguments(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "show.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert "['a', 'b']" in tools["run_python"].call({"file": "show.py", "arguments": ["a", "b"]})
    with pytest.raises(ToolFailed, match="leads out"):
        tools["run_python"].call({"file": "../show.py"})


def test_a_shape_error_comes_with_the_shapes(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "try.py").write_text(
        "import torch\nx, w = torch.ones(2, 3), torch.ones(4, 5)\ny = x @ w\n"
    )
    answer = tools["run_python"].call({"file": "try.py"})
    assert "try.py:3 in <module>:  y = x @ w" in answer
    assert "x  (2, 3) float32" in answer
    assert "w  (4, 5) float32" in answer


def test_a_program_without_end_is_stopped(tools: dict[str, Tool]) -> None:
    answer = tools["run_python"].call({"code": "while True: pass", "seconds": 1})
    assert answer.startswith("stopped: it was not done after")


@pytest.mark.parametrize(
    "given",
    [
        *({}, {"code": "1", "file": "a.py"}, {"code": "1", "seconds": 999}, {"code": "1\0"}),
        *({"code": "#" * 200_000}, {"code": "'\ud800'"}, {"file": "a.py", "arguments": ["\0"]}),
    ],
)
def test_what_cannot_be_run_is_explained(tools: dict[str, Tool], given: dict[str, Any]) -> None:
    with pytest.raises(ToolFailed, match="cannot be called like this"):
        tools["run_python"].call(given)


@behind_a_wall
def test_a_snippet_sees_no_secret_and_writes_nowhere_else(
    tools: dict[str, Tool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret-0123456789")
    (tmp_path / "token").write_text("the secret")
    program = f"""
import os, socket
print(dict(os.environ))
for attempt in (
    lambda: open({str(tmp_path / "token")!r}).read(),
    lambda: open({str(tmp_path / "new")!r}, "w").write("x"),
    lambda: socket.create_connection(("127.0.0.1", 80), 1),
    lambda: open(f"/proc/{{os.getppid()}}/environ").read(),
):
    try:
        print("GOT", attempt())
    except OSError as error:
        print("refused", type(error).__name__)
"""
    answer = tools["run_python"].call({"code": program})
    assert "sk-secret" not in answer
    assert "the secret" not in answer
    assert not (tmp_path / "new").exists()
    # What it wrote beside its folder and what it read of a parent were its own world's, not this one's.
    assert answer.count("refused") >= 2


def test_the_judges_verdict_reads_failures_first(tools: dict[str, Tool]) -> None:
    lines = tools["smoke"].call({}).splitlines()
    assert lines[0].startswith("1 of 2 probes pass")
    assert lines[1].startswith("FAIL causality: measured max |Δ| 0.81, allowed 1e-5. a missing mask")
    assert lines[2].startswith("pass parameter-count")


def test_code_is_checked_without_running_it(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "model.py").write_text("import torch\nimport flash_attn_9\nfrom eval import x\n")
    (bench.folder / "train.py").write_text("def f(:\n")
    answer = tools["check_code"].call({})
    assert "model.py:2: there is no module 'flash_attn_9' here" in answer
    assert "train.py: does not compile" in answer
    assert "eval" not in answer


def test_the_installed_api_is_shown_and_what_is_not_there_has_its_nearest(tools: dict[str, Tool]) -> None:
    inspect = tools["inspect_api"]
    assert "(input" in inspect.call({"name": "torch.nn.functional.rms_norm"})
    assert "class RMSNorm" in inspect.call({"name": "torch.nn.RMSNorm", "what": "source"})
    with pytest.raises(ToolFailed, match=r"torch\.nn has no 'RMSNrom'; nearest: .*RMSNorm"):
        inspect.call({"name": "torch.nn.RMSNrom"})
    with pytest.raises(ToolFailed, match="no module 'torchh'"):
        inspect.call({"name": "torchh.nn"})
    with pytest.raises(ToolFailed, match="cannot be called like this"):
        inspect.call({"name": "os;import sys"})


def test_long_output_keeps_its_head_and_three_quarters_of_tail_and_the_whole_on_disk(bench: Bench) -> None:
    lines = [f"line {number}" for number in range(5_000)]
    shown = Outputs(bench.folder).bounded("\n".join(lines), name="run")
    head, _, tail = shown.partition("\n… ")
    assert len(shown) <= MOST_SHOWN + 200
    assert 0.2 <= len(head) / len(shown) <= 0.3
    assert shown.endswith("line 4999")
    assert "outputs/001-run.txt" in tail
    assert (bench.folder / "outputs" / "001-run.txt").read_text() == "\n".join(lines)
    Outputs(bench.folder).bounded("\n".join(lines), name="run")
    assert (bench.folder / "outputs" / "002-run.txt").is_file()


def test_a_log_is_read_by_head_tail_and_pattern(bench: Bench, tools: dict[str, Tool]) -> None:
    text = (
        "".join(f"step={step} loss={10 - step}\n" for step in range(1, 10))
        + "\x1b[31mred\x1b[0m\n 10%\r 99%\n"
    )
    (bench.folder / "train.log").write_text(text, newline="")
    read = tools["read_log"]
    assert read.call({"path": "train.log", "mode": "head", "lines": 1}) == "     1\tstep=1 loss=9"
    assert read.call({"path": "train.log", "lines": 2}) == "    10\tred\n    11\t 99%"
    assert read.call({"path": "train.log", "pattern": "loss=[12]$"}) == (
        "     8\tstep=8 loss=2\n     9\tstep=9 loss=1"
    )
    assert read.call({"path": "train.log", "pattern": "loss=5$", "context": 1}).count("\n") == 2
    assert "no line of train.log matches" in read.call({"path": "train.log", "pattern": "nan"})


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "no regular expression"),
        ("(a+)+$", "takes too long"),
    ],
)
def test_a_pattern_that_is_none_or_never_ends_is_refused(
    bench: Bench, tools: dict[str, Tool], pattern: str, reason: str
) -> None:
    (bench.folder / "train.log").write_text("a" * 1_500 + "!\n")
    with pytest.raises(ToolFailed, match=reason):
        tools["read_log"].call({"path": "train.log", "pattern": pattern})


@pytest.mark.parametrize(
    "pattern", ["(?:(?:(?:a){9999,99999}){9999,99999}){9999,99999}", "(?:" * 48 + "a" + ")+" * 48 + "$"]
)
def test_a_pattern_takes_no_memory_of_this_process(
    bench: Bench, tools: dict[str, Tool], pattern: str
) -> None:
    (bench.folder / "train.log").write_text("a" * 1_500 + "!\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(ToolFailed):
        tools["read_log"].call({"path": "train.log", "pattern": pattern})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_head_of_a_log_is_its_head_however_long_it_is(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "train.log").write_text(
        "first\n" + "x" * 80 + "\n" + ("y" * 99 + "\n") * 100_000 + "last\n"
    )
    assert tools["read_log"].call({"path": "train.log", "mode": "head", "lines": 1}).endswith("first")
    assert tools["read_log"].call({"path": "train.log", "lines": 1}).endswith("last")


def test_a_file_of_the_folder_does_not_pass_for_a_library(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "json.py").write_text("def dumps(): 'mine'\n")
    assert "skipkeys" in tools["inspect_api"].call({"name": "json.dumps"})
    (bench.folder / "layers.py").write_text("def mix(x, decay): 'mine'\n")
    assert "mix(x, decay)" in tools["inspect_api"].call({"name": "layers.mix"})
    (bench.folder / "rude.py").write_text("import sys; sys.exit(3)\n")
    with pytest.raises(ToolFailed, match="rude cannot be imported"):
        tools["inspect_api"].call({"name": "rude"})


def test_kept_output_holds_no_credential_and_any_letters(bench: Bench) -> None:
    text = "漢字 \ud800\n" * 60_000 + "HF_TOKEN=hf_" + "a1" * 17 + " and s3cr3tword\n"
    shown = Outputs(bench.folder, secrets=("s3cr3tword",)).bounded(text, name="run")
    kept = (bench.folder / "outputs" / "001-run.txt").read_text()
    for one in (shown, kept):
        assert "hf_a1" not in one
        assert "s3cr3tword" not in one
    assert kept.count("漢字") == 60_000


def test_the_last_state_of_a_progress_bar_stays() -> None:
    assert plain("  0%|\r 50%|==\r100%|====\r\ndone\r\n") == "100%|====\ndone\n"


def test_a_program_that_is_a_link_is_reported_beside_the_others(bench: Bench, tools: dict[str, Tool]) -> None:
    (bench.folder / "model.py").symlink_to("/etc/hostname")
    (bench.folder / "train.py").write_text("def f(:\n")
    assert "train.py: does not compile" in tools["check_code"].call({})
