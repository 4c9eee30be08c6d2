"""Exceptions and bad arguments become messages and exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_intern_cli import errors
from ml_intern_cli.__main__ import main
from ml_intern_cli.errors import Blocked, InvalidDocument, InvalidInput, MlInternError, NoPathPassed, Problem
from ml_intern_cli.runs.reporter import Reporter


def _raises(error: BaseException) -> Callable[[Reporter], None]:
    def act(_reporter: Reporter) -> None:
        raise error

    return act


def _every_error() -> list[MlInternError]:
    made = [
        MlInternError("the Hub failed", hint="try again"),
        InvalidInput("bad", hint="better"),
        InvalidDocument([Problem("PLAN.md", 14, "learning_rate", "must be > 0")]),
        errors.UnknownRun("implemnt", ["implement-x"]),
        errors.RunLocked("x", "process 7"),
        errors.NewerRun("x", "9.0", "0.1"),
        errors.StorageFailed("the disk is full", hint="free some space"),
        Blocked("no token", why="HF_TOKEN is not set", ways_on=["HF_TOKEN=… ml-intern publish x"]),
        NoPathPassed("nothing passed", hint="ml-intern show x"),
    ]
    family = {
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MlInternError)
    }
    assert {type(error) for error in made} == family
    return made


@pytest.mark.parametrize("error", _every_error(), ids=lambda error: type(error).__name__)
def test_every_error_becomes_its_exit_code_with_message_and_hint_on_stderr(error, runs, capsys):
    runs.act = _raises(error)
    assert main(["run", "x"]) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert error.message in err
    assert error.hint in err


@pytest.mark.parametrize("error", _every_error(), ids=lambda error: type(error).__name__)
def test_every_error_is_one_json_object_with_json(error, runs, capsys):
    runs.act = _raises(error)
    assert main(["run", "x", "--json"]) == error.exit_code
    facts = json.loads(capsys.readouterr().out)["error"]
    assert facts["kind"] == type(error).__name__
    assert (facts["message"], facts["hint"], facts["exit_code"]) == (
        error.message,
        error.hint,
        error.exit_code,
    )


def test_json_lists_every_problem_of_a_document(runs, capsys):
    runs.act = _raises(
        InvalidDocument([Problem("PLAN.md", 14, "steps", "must be > 0"), Problem("TASK.md", None, None, "?")])
    )
    main(["run", "x", "--json"])
    problems = json.loads(capsys.readouterr().out)["error"]["problems"]
    assert problems[0] == {"source": "PLAN.md", "line": 14, "field": "steps", "message": "must be > 0"}
    assert len(problems) == 2


def test_no_arguments_show_the_help_and_are_bad_input(capsys):
    assert main([]) == 2
    assert "One stage at a time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["statsu"], "Did you mean 'status'"),
        (["status"], "Missing argument 'SLUG'"),
        (["run", "x", "--bogus"], "No such option: --bogus"),
        (["run", "x", "--until", "later"], "'later' is not one of 'restate'"),
        (["run", "x", "--params", "-3"], "'-3' is not a parameter count; write it like 500k, 100M or 1.3B"),
        (["run", "x", "--time-budget", "20"], "'20' needs a unit"),
        (["run", "x", "--seq-len", "1"], "between 2 and"),
        (["run", "x", "--max-paths", "27"], "less than or equal to 26"),
        (["run", "x", "--seed", "-1"], "greater than or equal to 0"),
        (["run", "x", "--publish", "moon"], "'moon' is not one of"),
        (["size", "deepseek-v3", "tiny"], "'tiny' is not a parameter count"),
    ],
)
def test_bad_arguments_are_exit_2_and_point_to_the_help(arguments, said, runs, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "--help" in err
    assert "Value error" not in err
    assert runs.calls == []


def test_bad_arguments_with_json_are_one_json_object(capsys):
    assert main(["run", "x", "--json", "--bogus"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_interrupt_says_how_to_resume(runs, capsys):
    def act(reporter: Reporter) -> None:
        reporter.run_opened("my-run", Path("/runs/my-run"), "a task")
        raise KeyboardInterrupt

    runs.act = act
    assert main(["run", "x"]) == 130
    assert "resume with: ml-intern run my-run" in capsys.readouterr().err


def test_interrupt_with_json_is_one_json_object(runs, capsys):
    runs.act = _raises(KeyboardInterrupt())
    assert main(["run", "x", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_termination_counts_as_interrupt_and_leaves_the_signal_as_it_was(runs):
    before = signal.getsignal(signal.SIGTERM)
    runs.act = lambda _reporter: os.kill(os.getpid(), signal.SIGTERM)
    assert main(["run", "x"]) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_bug_is_exit_1_with_the_traceback_in_a_file_and_no_secret_in_it(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    token = "hf_" + "A1b2C3d4E5" * 4
    runs.act = _raises(ZeroDivisionError(f"at {token}"))
    assert main(["run", "x"]) == 1
    err = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in err
    assert "Traceback" not in err
    [saved] = tmp_path.glob("*.traceback")
    assert str(saved) in err
    assert "ZeroDivisionError" in saved.read_text()
    assert token not in saved.read_text()
    assert token not in err


def test_debug_shows_the_traceback_of_a_bug(runs, capsys):
    runs.act = _raises(ZeroDivisionError("oops"))
    assert main(["run", "x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_storage_failures_are_bad_input_that_says_what_to_do(number, runs, capsys):
    runs.act = _raises(OSError(number, os.strerror(number), "/runs/x/PLAN.md"))
    assert main(["run", "x"]) == 2
    err = capsys.readouterr().err
    assert "/runs/x/PLAN.md" in err
    assert "Traceback" not in err


def test_unwritable_runs_dir_is_exit_2(capsys, tmp_path):
    in_the_way = tmp_path / "runs"
    in_the_way.write_text("a file")
    assert main(["run", "implement DeepSeek-V3 at 1M", "--runs-dir", str(in_the_way)]) == 2
    assert str(in_the_way) in capsys.readouterr().err


def test_unknown_slug_names_the_nearest(capsys, tmp_path):
    run_dir = tmp_path / "implement-deepseek-v3-at-1m"
    run_dir.mkdir()
    (run_dir / "TASK.md").write_text("# Task\n")
    assert main(["status", "implement-deepseek-v3-at-2m", "--runs-dir", str(tmp_path)]) == 2
    assert "did you mean implement-deepseek-v3-at-1m?" in capsys.readouterr().err
