"""These arguments lead to this call, and its result is shown like this."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ml_intern_cli.__main__ import main
from ml_intern_cli.documents.blocker import Blocker
from ml_intern_cli.runs.options import RunOptions

SLUG = "implement-deepseek-v3-at-1m"
COMMANDS = [
    *("run", "restate", "clarify", "research", "plan", "implement", "smoke", "train", "verify"),
    *("diagnose", "report", "publish", "status", "list", "show", "audit", "doctor", "size", "blueprints"),
    "probes",
]


def test_run_passes_every_option_on(runs):
    arguments = [
        *("--slug", "s", "--new", "--until", "smoke", "--brain", "blueprint"),
        *("--dataset", "d", "--dataset-column", "c", "--params", "2.5M", "--seq-len", "1k"),
        *("--time-budget", "1h30m", "--token-budget", "5M", "--max-paths", "3", "--max-retries", "0"),
        *("--max-usd", "1.5", "--publish", "folder", "--seed", "7", "--headless", "--yes"),
        *("--wall", "docker", "--docker-image", "an-image", "--allow-unsandboxed"),
    ]
    assert main(["run", "task", *arguments]) == 0
    assert runs.calls == [
        (
            "run",
            "task",
            RunOptions(
                slug="s",
                new=True,
                until="smoke",
                brain="blueprint",
                dataset="d",
                dataset_column="c",
                params=2_500_000,
                seq_len=1024,
                time_budget_s=5400.0,
                token_budget=5_000_000,
                max_paths=3,
                max_retries=0,
                max_usd=1.5,
                publish="folder",
                seed=7,
                headless=True,
                yes=True,
                wall="docker",
                docker_image="an-image",
                allow_unsandboxed=True,
            ),
        )
    ]


@pytest.mark.parametrize("stage", ["plan", "implement", "smoke", "train", "verify", "publish"])
def test_every_stage_that_runs_code_takes_the_options_of_walls(runs, stage):
    assert main([stage, SLUG, "--wall", "none", "--allow-unsandboxed"]) == 0
    options = runs.calls[0][3]
    assert (options.wall, options.docker_image, options.allow_unsandboxed) == ("none", None, True)


def test_a_wall_that_there_is_not_is_a_usage_error(runs):
    assert main(["run", "task", "--wall", "moat"]) == 2
    assert runs.calls == []


def test_without_options_nothing_is_given_and_no_terminal_means_headless(runs):
    main(["run", "task"])
    assert runs.calls == [("run", "task", RunOptions(headless=True))]


def test_a_terminal_on_stdin_means_interactive_unless_p_is_given(runs, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    main(["run", "task"])
    main(["run", "task", "-p"])
    assert [call[2].headless for call in runs.calls] == [False, True]


@pytest.mark.parametrize("stage", ["implement", "smoke", "train", "verify", "diagnose"])
def test_stage_of_one_path(stage, runs):
    assert main([stage, SLUG, "--path", "b"]) == 0
    assert runs.calls == [("step", SLUG, stage, RunOptions(), "b")]


@pytest.mark.parametrize("stage", ["clarify", "research", "plan", "report", "publish"])
def test_stage_of_the_run(stage, runs):
    assert main([stage, SLUG]) == 0
    assert runs.calls == [("step", SLUG, stage, RunOptions(), None)]


def test_publish_says_where_to(runs):
    main(["publish", SLUG, "--publish", "folder"])
    assert runs.calls[0][3].publish == "folder"


def test_restate_prints_the_slug_alone(runs, capsys):
    assert main(["restate", "implement DeepSeek-V3 at 1M"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{SLUG}\n"
    assert "next:" in err


def test_runs_dir_option_wins_over_the_environment_and_the_default(runs, monkeypatch, tmp_path):
    main(["list"])
    assert runs.runs_dir == Path.home() / "ml-intern-runs"
    monkeypatch.setenv("ML_INTERN_RUNS_DIR", str(tmp_path / "env"))
    main(["list"])
    assert runs.runs_dir == tmp_path / "env"
    main(["list", "--runs-dir", str(tmp_path / "option")])
    assert runs.runs_dir == tmp_path / "option"


def test_the_end_of_a_run_reads_as_designed(runs, capsys):
    assert main(["run", "task"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "",
        "DONE in 5 min 48 s · budget 2 of 2 paths, 0 retries, 4.7 of 5 min",
        "winner: a · eval loss 1.412 nats per token · published/ml-intern-x",
        f"next: ml-intern show {SLUG}",
    ]


def test_a_stage_shows_how_it_ended_on_each_path(runs, capsys):
    assert main(["smoke", SLUG]) == 0
    assert capsys.readouterr().out.splitlines() == [
        " ✗  smoke a  failed  causality failed",
        f"next: ml-intern show {SLUG}",
    ]


def test_a_blocked_restate_says_so_instead_of_a_slug(runs, capsys):
    runs.outcome = replace(runs.outcome, exit_code=3, done=False)
    assert main(["restate", "train a llama"]) == 3
    assert "BLOCKED" in capsys.readouterr().out


def test_a_blocked_run_is_exit_3_and_says_why(runs, capsys):
    blocker = Blocker(
        stage="publish", what="no Hub token", why="HF_TOKEN is not set", ways_on=("HF_TOKEN=…",)
    )
    runs.outcome = replace(runs.outcome, exit_code=3, done=False, winner=None, blocker=blocker)
    assert main(["run", "task"]) == 3
    out = capsys.readouterr().out
    assert "BLOCKED at publish: no Hub token" in out
    assert "why: HF_TOKEN is not set" in out


def test_a_run_where_no_path_passed_is_exit_4(runs, capsys):
    runs.outcome = replace(runs.outcome, exit_code=4, done=False, winner=None)
    assert main(["run", "task"]) == 4
    assert "NO PATH PASSED" in capsys.readouterr().out


def test_a_run_stopped_by_until_names_the_last_stage(runs, capsys):
    runs.outcome = replace(runs.outcome, done=False)
    assert main(["run", "task", "--until", "restate"]) == 0
    assert "STOPPED after restate" in capsys.readouterr().out


def test_status_shows_states_reasons_and_the_next_command(runs, capsys):
    assert main(["status", SLUG]) == 0
    out = capsys.readouterr().out
    assert " ✓ " in out
    assert "implement a  stale   PLAN.md: learning_rate 0.001 → 0.002" in out
    assert "diagnose" not in out
    assert "budget 2 of 2 paths, 1 retry, 4.7 of 5 min" in out
    assert out.endswith(f"next: ml-intern run {SLUG}\n")


def test_list_shows_every_run(runs, capsys):
    main(["list"])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "run"
    assert row.startswith(SLUG)
    assert "1.410" in row


def test_an_empty_list_says_how_to_start(runs, capsys):
    runs.listings = ()
    main(["list"])
    assert "no runs yet; start one: ml-intern run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "task"],
        ["restate", "task"],
        ["train", SLUG],
        ["status", SLUG],
        ["list"],
        ["show", SLUG],
        ["size", "deepseek-v3", "1M"],
        ["blueprints"],
        ["probes"],
        ["probes", "causality"],
        ["doctor"],
    ],
)
def test_json_is_exactly_one_object_on_stdout(arguments, runs, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs.act = lambda _reporter: print("a library prints")  # noqa: T201
    assert main([*arguments, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_json_of_a_run_holds_the_outcome(runs, capsys):
    main(["run", "task", "--json"])
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["slug"] == SLUG
    assert outcome["winner"] == "a"
    assert outcome["stages"][1]["state"] == "stale"
    assert outcome["next"] == [f"ml-intern show {SLUG}"]


def test_progress_goes_to_stderr_and_quiet_silences_it(runs, capsys):
    runs.act = lambda reporter: reporter.note("something")
    main(["run", "task"])
    out, err = capsys.readouterr()
    assert "something" in err
    assert "something" not in out
    main(["run", "task", "--quiet"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: ml-intern {command}")
    assert "--json" in out


def test_the_help_shows_every_command_in_its_panel_and_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    positions = [out.index(f"\n  {command} ") for command in COMMANDS]
    assert positions == sorted(positions)
    assert "130 interrupted, resumable" in out


def test_stage_names_of_until_are_those_of_the_pipeline():
    from typing import get_args

    from ml_intern_cli.cli.options import StageName
    from ml_intern_cli.stages import STAGES

    assert set(get_args(StageName)) == set(STAGES)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ml-intern ")
