"""Code that does not ship with the program runs without a wall only when the user has said so."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ml_intern_cli.brains.protocol import Question
from ml_intern_cli.documents.budget import Budget, render
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import Blocked
from ml_intern_cli.executors.process import LocalExecutor
from ml_intern_cli.executors.walls import Wall
from ml_intern_cli.resources import resource
from ml_intern_cli.runs.compute import BudgetedCompute
from ml_intern_cli.runs.consent import Consent

EDIT = "open('ran', 'w').close()\n"


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    """A run with one path as the blueprint brain writes it."""
    layout = RunLayout(tmp_path / "a-run")
    folder = layout.path("a")
    folder.mkdir(parents=True)
    shutil.copy(resource("blueprints", "deepseek_v3", "model.py"), folder / "model.py")
    for name in ("train.py", "eval.py"):
        shutil.copy(resource("templates", name), folder / name)
    (folder / "config.json").write_text('{"vocab_size": 7}')
    layout.document("BUDGET.md").write_text(render(Budget(compute_cap=1, scale_ceiling=1_000_000)))
    return layout


class Asked:
    """Answers as it was told to, and remembers what it was asked."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.questions: list[Question] = []

    def __call__(self, questions: tuple[Question, ...]) -> dict[str, str]:
        self.questions.extend(questions)
        return {} if self.answer is None else {question.name: self.answer for question in questions}


def _train(layout: RunLayout, consent: Consent, *, wall: Wall = Wall.NONE, name: str = "train.py") -> bool:
    """Whether the program was started."""
    folder = layout.path("a")
    compute = BudgetedCompute(layout, LocalExecutor(wall=wall), consent=consent)
    compute.run((sys.executable, name), what="training", cwd=folder, limit_s=30, writable=(folder,))
    return (folder / "ran").exists()


def _judge(layout: RunLayout, consent: Consent) -> None:
    layout.scratch.mkdir(exist_ok=True)
    argv = (sys.executable, "-m", "ml_intern_cli.judge", "smoke", "--path", str(layout.path("a")))
    consent.require(argv, cwd=layout.scratch)


def test_shipped_programs_run_without_asking(run: RunLayout) -> None:
    asked = Asked("no")
    consent = Consent(run, ask=asked)
    consent.require((sys.executable, "train.py"), cwd=run.path("a"))
    _judge(run, consent)
    (run.path("a") / "config.json").write_text('{"vocab_size": 8}')  # numbers are no code
    _judge(run, Consent(run))
    assert asked.questions == []
    assert not run.receipts.exists()


@pytest.mark.parametrize("answer", ["no", None, "", "what?"])
def test_anything_but_yes_is_no(run: RunLayout, answer: str | None) -> None:
    (run.path("a") / "train.py").write_text(EDIT)
    asked = Asked(answer)
    with pytest.raises(Blocked, match=r"path-a/train\.py is not one of the shipped programs"):
        _train(run, Consent(run, ask=asked))
    assert not (run.path("a") / "ran").exists()
    assert asked.questions[0].default == "no"
    assert "path-a/train.py is not one of the shipped programs" in asked.questions[0].text


def test_it_is_asked_once_for_each_version_of_the_code(run: RunLayout) -> None:
    program = run.path("a") / "train.py"
    program.write_text(EDIT)
    asked = Asked("yes")
    assert _train(run, Consent(run, ask=asked))
    assert _train(run, Consent(run, ask=asked))
    assert _train(run, Consent(run))  # nobody has to be there any more
    assert len(asked.questions) == 1
    program.write_text(EDIT + "# another version\n")
    with pytest.raises(Blocked):
        _train(run, Consent(run))
    assert _train(run, Consent(run, ask=asked))
    assert len(asked.questions) == 2


def test_permission_is_gone_with_the_receipts(run: RunLayout) -> None:
    (run.path("a") / "train.py").write_text(EDIT)
    assert _train(run, Consent(run, given=True))
    shutil.rmtree(run.receipts)
    with pytest.raises(Blocked):
        _train(run, Consent(run))


def test_a_run_from_somebody_else_does_not_bring_its_permission_along(
    run: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path("a") / "train.py").write_text(EDIT)
    assert _train(run, Consent(run, given=True))
    copied = RunLayout(Path(shutil.copytree(run.root, tmp_path / "copied")))
    with pytest.raises(Blocked):  # elsewhere on this machine
        _train(copied, Consent(copied))
    monkeypatch.setenv("HOME", str(tmp_path / "another-user"))
    with pytest.raises(Blocked):  # in the same place on another one
        _train(run, Consent(run))


def test_what_an_option_allows_is_remembered_and_what_a_setting_allows_is_not(run: RunLayout) -> None:
    (run.path("a") / "train.py").write_text(EDIT)
    assert _train(run, Consent(run, standing=True))
    with pytest.raises(Blocked):
        _train(run, Consent(run))
    assert _train(run, Consent(run, given=True))
    assert _train(run, Consent(run))


def test_the_blocker_names_every_way_on(run: RunLayout) -> None:
    (run.path("a") / "model.py").write_text("raise SystemExit\n")
    with pytest.raises(Blocked) as blocked:
        _judge(run, Consent(run))
    ways = " ".join(blocked.value.ways_on)
    assert "ml-intern run a-run --allow-unsandboxed" in ways
    assert "bubblewrap" in ways
    assert "--wall docker" in ways


@pytest.mark.parametrize(
    "name", ["model.py", "torch/__init__.py", "json.py", "numpy.cpython-311-x86_64-linux-gnu.so", "math.pyc"]
)
def test_the_judge_and_the_training_load_nothing_unasked(run: RunLayout, name: str) -> None:
    """Python takes a library from the working directory before it takes the real one."""
    file = run.path("a") / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("print('mine')\n")
    with pytest.raises(Blocked, match=file.name):
        _judge(run, Consent(run))
    with pytest.raises(Blocked, match=file.name):
        Consent(run).require((sys.executable, "train.py"), cwd=run.path("a"))


def test_a_library_in_a_linked_folder_is_seen(run: RunLayout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("print('mine')\n")
    (run.path("a") / "torch").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")  # round in a circle
    with pytest.raises(Blocked, match=r"torch/__init__\.py"):
        _judge(run, Consent(run))


def test_compiled_modules_do_not_stand_in_for_what_was_looked_at(run: RunLayout) -> None:
    cache = run.path("a") / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"something else")
    _judge(run, Consent(run))
    assert not cache.exists()


@pytest.mark.parametrize(
    "argv",
    [
        (sys.executable, "-c", "print(1)"),
        ("/bin/sh", "train.py"),
        (sys.executable, "-m", "train"),
        (sys.executable, "-i", "train.py"),
    ],
)
def test_a_command_that_is_code_itself_is_asked_about(run: RunLayout, argv: tuple[str, ...]) -> None:
    with pytest.raises(Blocked):
        Consent(run).require(argv, cwd=run.path("a"))


def test_a_program_outside_the_folder_is_looked_at_too(run: RunLayout) -> None:
    (run.root / "notes").mkdir()
    (run.root / "notes" / "mine.py").write_text(EDIT)
    for name in ("../notes/mine.py", str(run.root / "notes" / "mine.py")):
        with pytest.raises(Blocked, match=r"notes/mine\.py"):
            Consent(run).require((sys.executable, name), cwd=run.path("a"))


def test_a_pipe_in_place_of_a_program_does_not_hang_the_question(run: RunLayout) -> None:
    (run.path("a") / "model.py").unlink()
    os.mkfifo(run.path("a") / "model.py")
    with pytest.raises(Blocked, match=r"path-a/model\.py"):
        _judge(run, Consent(run))


def test_behind_a_wall_nothing_is_asked(run: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Consent, "require", lambda *arguments, **_: asked.append(arguments))
    compute = BudgetedCompute(run, _Walled(), consent=Consent(run))
    compute.run((sys.executable, "train.py"), what="training", cwd=run.path("a"), limit_s=30)
    assert asked == []


class _Walled(LocalExecutor):
    """Says that a wall stands, and runs nothing."""

    wall = Wall.BUBBLEWRAP

    def __init__(self) -> None:
        pass

    def run(self, job, *, on_tick):
        from ml_intern_cli.executors.process import Finished

        return Finished(0, 0.1, out_of_time=False, killed=False)


def test_a_damaged_memory_of_permissions_allows_nothing(run: RunLayout) -> None:
    (run.path("a") / "train.py").write_text(EDIT)
    assert _train(run, Consent(run, given=True))
    file = run.receipts / "consent.json"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), "0" * 64)))
    with pytest.raises(Blocked):
        _train(run, Consent(run))
