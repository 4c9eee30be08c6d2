"""size, blueprints, doctor and completion."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ml_intern_cli.__main__ import main
from ml_intern_cli.executors import docker, walls
from tests.unit.executors.containers import use_stand_in


@pytest.fixture
def hub():
    """A Hub that answers, and remembers the headers of what it was asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_size_hits_the_target(capsys):
    assert main(["size", "DeepSeek V3", "100M", "--json"]) == 0
    size = json.loads(capsys.readouterr().out)
    assert size["architecture"] == "deepseek-v3"
    assert abs(size["params"] - 100_000_000) <= 1_000_000
    assert abs(size["off_percent"]) <= 1
    assert size["active_params"] < size["params"]
    assert size["config"]["hidden_size"] > 0


def test_size_takes_vocabulary_and_sequence_length(capsys):
    assert main(["size", "deepseek-v3", "5M", "--vocab-size", "2048", "--seq-len", "256", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 2048


def test_size_reads_well(capsys):
    assert main(["size", "deepseek-v3", "100M"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("deepseek-v3 · ")
    assert "% of target" in first
    assert "active per token" in second


def test_an_unknown_architecture_names_the_nearest(capsys):
    assert main(["size", "deepseek", "100M"]) == 2
    assert "deepseek-v3" in capsys.readouterr().err


def test_blueprints_lists_them(capsys):
    assert main(["blueprints"]) == 0
    assert "deepseek-v3" in capsys.readouterr().out


def test_probes_are_listed_by_kind_and_told_by_name(capsys):
    assert main(["probes"]) == 0
    listed = capsys.readouterr().out
    assert listed.index("before training: the model") < listed.index("  causality ")
    assert main(["probes", "causality"]) == 0
    assert "usual causes  a mask missing in one attention branch" in capsys.readouterr().out


def test_an_unknown_probe_names_the_nearest(capsys):
    assert main(["probes", "casuality"]) == 2
    assert "did you mean causality " in capsys.readouterr().err


def test_a_blueprint_shows_its_card(capsys):
    assert main(["blueprints", "deepseek-v3"]) == 0
    assert "DeepSeek-V3" in capsys.readouterr().out


def test_doctor_finds_the_hub_without_sending_the_token(hub, monkeypatch, capsys):
    endpoint, asked = hub
    token = "hf_" + "x" * 34
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["Hub"]["finding"] == "present"
    assert checks["Hub token"]["value"] == "set (environment)"
    assert asked
    assert "Authorization" not in asked[0]
    assert token not in out


def test_doctor_says_what_is_absent_and_what_it_would_enable(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert " ✓ torch" in out
    assert " – Hub token" in out
    assert "HF_TOKEN publishes to the Hub" in out
    assert "the main job runs here" in out


def test_doctor_is_exit_1_when_runs_cannot_be_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert main(["doctor", "--runs-dir", str(in_the_way)]) == 1
    assert " ✗ runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ml-intern status imp", "implement-x"),
        ("ml-intern run imp", "implement-x"),
        ("ml-intern run x --until sm", "smoke"),
        ("ml-intern size deep", "deepseek-v3"),
        ("ml-intern pub", "publish"),
    ],
)
def test_the_shell_completes(typed, offered, monkeypatch, tmp_path):
    (tmp_path / "implement-x").mkdir()
    (tmp_path / "implement-x" / "TASK.md").write_text("")
    monkeypatch.setenv("ML_INTERN_RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("_ML_INTERN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    done = subprocess.run(
        [sys.executable, "-m", "ml_intern_cli"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == [offered]


def _walls(capsys, *arguments):
    code = main(["doctor", "--json", *arguments])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, {check["name"]: check for check in checks if check["group"] == "walls"}


def test_doctor_says_which_wall_stands_and_which_is_chosen(monkeypatch, capsys):
    monkeypatch.setattr(walls, "standing_wall", lambda: walls.Wall.BUBBLEWRAP)
    assert _walls(capsys)[1]["bubblewrap"]["value"] == "stands"
    code, found = _walls(capsys, "--wall", "none")
    assert (code, found["none"]["value"]) == (0, "no wall is used")
    assert "none was chosen" in found["bubblewrap"]["enables"]
    monkeypatch.setattr(walls, "standing_wall", lambda: walls.Wall.NONE)
    code, found = _walls(capsys)
    assert (code, found["none"]["enables"]) == (0, "code that is not shipped is asked about first")
    code, found = _walls(capsys, "--wall", "bubblewrap")
    assert (code, found["bubblewrap"]["finding"]) == (1, "broken")


def test_doctor_asks_docker_only_when_it_is_chosen(tmp_path, monkeypatch, capsys):
    image = use_stand_in(tmp_path / "bin", monkeypatch)
    assert "docker" not in _walls(capsys)[1]
    assert not (tmp_path / "bin" / "state").exists()
    code, found = _walls(capsys, "--wall", "docker", "--docker-image", image)
    assert (code, found["docker"]["value"]) == (
        0,
        "0-stand-in answers, stand-in is there, without a GPU",
    )
    code, found = _walls(capsys, "--wall", "docker", "--docker-image", "ghost")
    assert (code, found["docker"]["finding"]) == (1, "broken")
    docker.daemon.cache_clear()
