"""The program starts light, and leaves quietly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "transformers", "datasets", "anthropic", "httpx", "huggingface_hub", "numpy", "apprise",
    "mcp", "jsonschema",
}  # fmt: skip
REPORT = """
import json, sys
from ml_intern_cli.__main__ import main
code = main(json.loads(sys.argv[1]))
sys.stdout.flush()
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def _modules_after(*arguments: str) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    facts = json.loads(done.stderr.splitlines()[-1])
    return facts["code"], set(facts["modules"])


@pytest.fixture
def started_run(tmp_path: Path) -> Path:
    """A run that was restated, made by the program itself."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ml_intern_cli",
            "restate",
            "implement DeepSeek-V3 at 1M",
            "--runs-dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return tmp_path / done.stdout.strip()


def test_help_loads_nothing_heavy_and_not_even_rich_or_pydantic():
    code, modules = _modules_after("--help")
    assert code == 0
    assert not modules & (HEAVY | {"rich", "pydantic", "jinja2", "markdown_it"})


def test_status_loads_nothing_heavy(started_run):
    code, modules = _modules_after("status", str(started_run))
    assert code == 0
    assert not modules & HEAVY


def test_configured_servers_are_not_loaded_to_look_at_a_run(started_run, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text('[mcp.tracker]\ncommand = ["tracker"]\n')
    monkeypatch.setenv("ML_INTERN_CONFIG", str(tmp_path / "config.toml"))
    code, modules = _modules_after("status", str(started_run))
    assert code == 0
    assert "ml_intern_cli.brains.tools.mcp.settings" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "arguments", [["list"], ["blueprints"], ["doctor"], ["probes"], ["probes", "causality"]]
)
def test_looking_around_loads_nothing_heavy(arguments, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, modules = _modules_after(*arguments)
    assert code == 0
    assert not modules & (HEAVY - {"numpy"})


def test_a_reader_that_goes_away_is_no_error():
    program = subprocess.Popen(
        [sys.executable, "-m", "ml_intern_cli", "size", "deepseek-v3", "5M"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout
    program.stdout.close()
    assert program.stderr
    said = program.stderr.read()
    program.stderr.close()
    assert program.wait(timeout=60) == 0
    assert said == b""
