"""`ml-intern audit` as a person meets it: verdicts, exit codes, code of others, bad input."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ml_intern_cli.__main__ import main
from ml_intern_cli.documents.audit import Audit
from ml_intern_cli.documents.registry import load
from ml_intern_cli.executors.walls import Wall, standing_wall
from tests import checkpoints
from tests.planted import DEFECTS, copy_of
from tests.small_runs import copy_run

HAS_WALL = standing_wall() is Wall.BUBBLEWRAP


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    return checkpoints.texts()


@pytest.fixture(scope="session")
def checkpoint(texts, tmp_path_factory) -> Path:
    return checkpoints.make(tmp_path_factory.mktemp("audited") / "tiny", "llama", texts)


@pytest.fixture
def text(texts, tmp_path) -> Path:
    file = tmp_path / "held-out.txt"
    file.write_text(texts.heldout)
    return file


def _contents(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(one.relative_to(directory)): (one.stat().st_size, one.stat().st_mtime_ns)
        for one in directory.rglob("*")
    }


def test_a_sound_checkpoint_passes_and_is_left_as_it_was(checkpoint, text, tmp_path, capsys):
    before = _contents(checkpoint)
    out = tmp_path / "AUDIT.md"
    assert main(["audit", str(checkpoint), "--text", str(text), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["architecture"] == "LlamaForCausalLM"
    assert {probe["verdict"] for probe in answer["probes"]} == {"pass"}
    written = load(out)
    assert isinstance(written, Audit)
    assert written.passed
    assert written.loss == answer["loss"]
    assert _contents(checkpoint) == before


def test_a_failing_probe_is_named_with_its_component_and_the_exit_code_is_4(
    checkpoint, text, texts, tmp_path, capsys
):
    directory = copy_of(checkpoint, tmp_path / "damaged")
    DEFECTS["a file cut off"].plant(directory, texts)
    assert main(["audit", str(directory), "--text", str(text)]) == 4
    said = capsys.readouterr()
    assert "✗  checkpoint-files" in said.out
    assert "model.safetensors" in said.out
    assert "next: ml-intern probes checkpoint-files" in said.out
    assert "✗ audit" in said.err


def test_links_of_a_download_cache_are_followed_behind_the_wall(checkpoint, text, tmp_path, capsys):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    shutil.copytree(checkpoint, blobs)
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
    main(["audit", str(snapshot), "--text", str(text), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["loss"] < 1.2


def test_code_in_a_checkpoint_is_asked_about(checkpoint, text, texts, tmp_path, capsys):
    directory = copy_of(checkpoint, tmp_path / "own")
    DEFECTS["a leak over time"].plant(directory, texts)
    assert main(["audit", str(directory), "--text", str(text)]) == 3
    assert "--trust-remote-code" in capsys.readouterr().err
    arguments = ["audit", str(directory), "--text", str(text), "--trust-remote-code", "--wall", "none"]
    assert main(arguments) == 3
    assert "--allow-unsandboxed" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_WALL, reason="needs bubblewrap")
def test_code_that_is_trusted_runs_behind_the_wall_and_is_judged(checkpoint, text, texts, tmp_path, capsys):
    directory = copy_of(checkpoint, tmp_path / "own")
    DEFECTS["a leak over time"].plant(directory, texts)
    source = (directory / "modeling_own.py").read_text()
    marks = [tmp_path / "mark", directory / "mark"]
    lines = [f"try:\n    open({str(mark)!r}, 'w')\nexcept OSError:\n    pass\n" for mark in marks]
    (directory / "modeling_own.py").write_text("".join(lines) + source)
    assert main(["audit", str(directory), "--text", str(text), "--trust-remote-code", "--json"]) == 4
    failed = {
        probe["name"]: probe["component"]
        for probe in json.loads(capsys.readouterr().out)["probes"]
        if probe["verdict"] == "fail"
    }
    assert failed["checkpoint-causality"] == "model.layers.1.mlp"
    assert not any(mark.exists() for mark in marks)


@pytest.mark.parametrize(
    ("code", "limit", "said"),
    [
        ("import time; time.sleep(600)", "20s", "no answer within"),
        ("import os; os._exit(0)", "3m", "exited with code 0 before any verdict"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "3m", "killed by signal 11"),
    ],
)
def test_code_that_takes_the_judge_down_fails_by_the_probe_it_was_at(
    code, limit, said, checkpoint, text, texts, tmp_path, capsys
):
    directory = copy_of(checkpoint, tmp_path / "own")
    DEFECTS["a leak over time"].plant(directory, texts)
    (directory / "modeling_own.py").write_text(code)
    arguments = ["--trust-remote-code", "--allow-unsandboxed", "--time-limit", limit, "--json"]
    assert main(["audit", str(directory), "--text", str(text), *arguments]) == 4
    (probe,) = json.loads(capsys.readouterr().out)["probes"]
    assert probe["name"] == "judge-answered"
    assert said in probe["measured"]
    assert probe["component"]


def test_a_path_is_smoked_and_verified_where_it_lies(good_run, runs_dir, capsys):
    run = copy_run(good_run, runs_dir)
    before = _contents(run)
    assert main(["audit", str(run / "path-a"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    names = [probe["name"] for probe in answer["probes"]]
    assert answer["kind"] == "path"
    assert {"causality", "overfit-one-batch", "verify-loss-sanity", "verify-param-count"} <= set(names)
    assert _contents(run) == before
    (run / "PLAN.md").unlink()
    assert main(["audit", str(run / "path-a")]) == 2
    assert "PLAN.md" in capsys.readouterr().err


def _empty(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _gguf(directory: Path) -> None:
    _empty(directory)
    (directory / "model.gguf").write_bytes(b"GGUF")


def _classifier(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_empty, "is empty: looked for config.json"),
        (_pickled, "pickle"),
        (_gguf, "model.gguf"),
        (_classifier, "BertForMaskedLM is no causal language model"),
        (lambda directory: (directory / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda directory: (directory / "config.json").write_text("[]"), "holds no object"),
        (lambda directory: (directory / "config.json").unlink(), "neither a checkpoint nor a path"),
    ],
)
def test_a_directory_that_cannot_be_judged_says_what_to_do(spoil, said, checkpoint, text, tmp_path, capsys):
    directory = copy_of(checkpoint, tmp_path / "spoilt")
    spoil(directory)
    assert main(["audit", str(directory), "--text", str(text)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) >= 2  # the message, and what to do


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"Once upon a time.", "too short: "),
        (b"\xff\xfe\x00binary" * 100, "is not UTF-8 text (line 1)"),
        (b"text\x00more" * 100, "holds binary data"),
        (None, "No such file"),
    ],
)
def test_a_text_that_cannot_be_used_says_so(content, said, checkpoint, tmp_path, capsys):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["audit", str(checkpoint), "--text", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "--text FILE" in error


def test_other_bad_arguments_say_so(checkpoint, text, tmp_path, capsys):
    for arguments, said in (
        ([str(checkpoint)], "ml-intern audit"),
        ([str(text), "--text", str(text)], "is a file"),
        ([str(tmp_path / "none"), "--text", str(text)], "there is no"),
        ([str(checkpoint), "--text", str(tmp_path)], "Is a directory"),
        ([str(checkpoint), "--text", str(text), "--claim", "loss=2"], "--claim eval_loss="),
        ([str(checkpoint), "--text", str(text), "--claim", "eval_loss=nan"], "--claim eval_loss="),
        ([str(checkpoint), "--text", str(text), "--out", str(tmp_path)], "cannot be written"),
        ([str(checkpoint), "--text", str(text), "--time-limit", "soon"], "soon"),
    ):
        assert main(["audit", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_of_a_huge_text_the_beginning_is_read_and_that_is_said(texts, tmp_path):
    from ml_intern_cli.runs.audit_subject import read_text

    file = tmp_path / "huge.txt"
    with file.open("w") as opened:
        opened.write("é" * ((16 << 20) // 2 - 1) + "ab" + "é")
        opened.truncate(1 << 40)  # a hole of a terabyte
    given = read_text(file, option="--text")
    assert given.content.endswith("ab")
    assert given.name.endswith("(its first 16 of 1,048,576 MiB)")
