# ruff: noqa: E501 - an edit is easier to read on one line
"""A rehearsal of train.py finds what is wrong with the loop and the data, and nothing where nothing is."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ml_intern_cli.judge.confinement import landlock
from ml_intern_cli.judge.rehearsal import PROBES
from ml_intern_cli.judge.rehearsal.record import Start
from ml_intern_cli.judge.rehearsal.rehearse import rehearsal_config, rehearse
from ml_intern_cli.judge.rehearsal.starting import Launcher
from tests import rehearsed_path
from tests.rehearsal_defects import DEFECTS, SOUND

OWN_PROGRAM = Path(__file__).parent / "programs" / "own_train.py"
USUAL = {  # one of each family; the others are slow
    "no-zero-grad", "trained-on-val", "loss-smoothed", "evaluated-on-train", "cursor-lost", "dropout-in-evaluation",
}  # fmt: skip


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """One interpreter that every rehearsal here is forked from; gone before other modules look for leftovers."""
    with Launcher() as launcher:
        yield launcher


def marked(names: list[str], *, usual: set[str]) -> list[object]:
    return [name if name in usual else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("defect", marked(list(DEFECTS), usual=USUAL))
def test_defect_fails_its_probe(
    defect: str, tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    planted = DEFECTS[defect]
    path = rehearsed_path.write(tmp_path, *planted.edits, vocab_size=vocab_size, **planted.settings)

    failed = rehearsed_path.failed(rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher))

    assert planted.probe in failed
    assert "not run" not in failed[planted.probe]


@pytest.mark.parametrize("variation", marked(list(SOUND), usual={"as-it-is", "loss-outside-the-model"}))
def test_sound_program_passes_every_probe(
    variation: str, tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    edits, settings = SOUND[variation]
    path = rehearsed_path.write(tmp_path, *edits, vocab_size=vocab_size, **settings)

    results = rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher)

    assert rehearsed_path.failed(results) == {}
    assert list(results) == [probe.name for probe in PROBES]


def write_own(directory: Path, vocab_size: int, *edits: tuple[str, str]) -> Path:
    path = rehearsed_path.write(directory, vocab_size=vocab_size)
    text = OWN_PROGRAM.read_text()
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (path / "train.py").write_text(text)
    return path


TWO = ("PROCESSES = 1", "PROCESSES = 2")


@pytest.mark.slow
@pytest.mark.parametrize("edits", [(), (TWO,)], ids=["one-process", "two-processes"])
def test_program_of_another_hand_passes_every_probe(
    edits: tuple[tuple[str, str], ...], tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = write_own(tmp_path, vocab_size, *edits)

    assert rehearsed_path.failed(rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "edit"),
    [
        # TrainCheck pytorch-104336 and x-jxmnop: replicas that drift apart
        ("replicas-agree", ("wrapped = DistributedDataParallel(model) if PROCESSES > 1 else model", "wrapped = model")),
        ("data-sharded", ("mine = starts[rank :: max(1, PROCESSES)]", "mine = starts[: len(starts) // PROCESSES]")),
        # TrainCheck, fault injection: communication loss
        ("replicas-agree", ("        optimizer.step()\n", "        [p.grad.mul_(1 + rank * 0.1) for p in vectors]\n        optimizer.step()\n")),
    ],
)  # fmt: skip
def test_defect_of_two_processes_fails_its_probe(
    probe: str, edit: tuple[str, str], tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = write_own(tmp_path, vocab_size, TWO, edit)

    assert probe in rehearsed_path.failed(rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher))


# --- programs that misbehave ---------------------------------------------------------------------

MISBEHAVING = {
    "hangs": ("import time\nwhile True: time.sleep(1)", "did not end within"),
    "hangs-deaf": (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "did not end within",
    ),
    "prints-without-end": ("while True: print('x' * 1_000_000)", "printed"),
    "writes-without-end": ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", "start 1"),
    "exits": ("raise SystemExit(0)", "ended without a step"),
    "raises": ("raise ValueError('no')", "ValueError: no"),
    "kills-its-parent": (
        "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)",
        "killed its parent",
    ),
}


def first_start(path: Path, data: Path, scratch: Path, launcher: Launcher) -> Start:
    record = rehearse(
        path,
        data,
        scratch=scratch,
        num_parameters=100_000,
        launcher=launcher,
        progress=lambda _: None,
        limit_s=12.0,
    )
    return record.starts[0]


@pytest.mark.slow
@pytest.mark.parametrize("program", MISBEHAVING)
def test_misbehaving_program_is_a_failed_probe_in_time(
    program: str, tmp_path: Path, data: Path, vocab_size: int
) -> None:
    code, reason = MISBEHAVING[program]
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)
    (path / "train.py").write_text(code)

    with Launcher() as launcher:
        results = rehearsed_path.rehearse(path, data, tmp_path / "scratch", launcher, limit_s=12.0)

    assert reason in results["train-runs"].finding
    assert results["train-runs"].failed


@pytest.mark.skipif(landlock.version() == 0, reason="needs Landlock")
@pytest.mark.parametrize(
    "attempt",
    [
        "print(open(HELDOUT, 'rb').read())",
        "print(subprocess.run([sys.executable, '-c', f'open({HELDOUT!r})'], check=True))",
        "os.link(HELDOUT, 'mine')",
        "os.symlink(HELDOUT, 'mine'); open('mine', 'rb')",
        "os.rename(HELDOUT, 'mine')",
        "os.unlink(HELDOUT)",
        "open(HELDOUT, 'ab')",
        "os.rename(os.path.dirname(HELDOUT), 'mine')",
    ],
)
def test_heldout_shards_are_out_of_reach(
    attempt: str, tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)
    own_data = Path(shutil.copytree(data, tmp_path / "data"))
    shards = {file: file.read_bytes() for file in own_data.glob("heldout-*.bin")}
    (path / "train.py").write_text(
        "import os, subprocess, sys, tempfile\n"
        f"HELDOUT = {str(next(iter(shards)))!r}\n"
        f"assert open({str(own_data / 'manifest.json')!r}).read()\n"
        "tempfile.TemporaryFile().write(b'as always')\n"
        f"{attempt}\n"
    )

    start = first_start(path, own_data, tmp_path / "scratch", launcher)

    assert start.exit_code == 1
    assert any(
        error in start.stderr for error in ("PermissionError", "cross-device link", "CalledProcessError")
    )
    assert {file: file.read_bytes() for file in shards} == shards


@pytest.mark.slow
def test_nothing_is_left_running_of_a_program_that_detaches(
    tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)
    (path / "train.py").write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('daemon.pid', 'w').write(str(os.getpid()))\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "while not os.path.exists('daemon.pid'): time.sleep(0.01)\n"
        "time.sleep(0.1)\n"
    )

    first_start(path, data, tmp_path / "scratch", launcher)

    daemon = int((tmp_path / "scratch/rehearsal/run/path-a/daemon.pid").read_text())
    assert not psutil.pid_exists(daemon) or psutil.Process(daemon).status() == psutil.STATUS_ZOMBIE


# --- what a rehearsal changes --------------------------------------------------------------------


def test_rehearsal_shortens_training_and_leaves_what_is_learned_alone() -> None:
    settings, every = rehearsal_config(rehearsed_path.SETTINGS, 100_000)

    assert {key for key in settings if settings[key] != rehearsed_path.SETTINGS[key]} == {
        "steps", "warmup_steps", "micro_batch", "eval_every", "checkpoint_every", "grad_clip",
    }  # fmt: skip
    assert (settings["steps"], every) == (12, 4)
    assert settings.keys() == rehearsed_path.SETTINGS.keys()


def test_large_model_is_rehearsed_on_fewer_and_shorter_windows() -> None:
    settings, every = rehearsal_config(rehearsed_path.SETTINGS | {"seq_len": 512}, 100_000_000)

    tokens = settings["steps"] * settings["micro_batch"] * settings["accumulation"] * settings["seq_len"]
    assert every == 2
    assert tokens * 100e6 <= 6.1e11


@pytest.mark.parametrize("most_bytes", [1 << 30, 4096], ids=["enough", "too little"])
def test_a_rehearsal_keeps_to_the_file_size_that_it_is_allowed(
    most_bytes: int, tmp_path: Path, data: Path, vocab_size: int
) -> None:
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)
    (path / "train.py").write_text(
        "import pathlib, resource, sys\n"
        "print(*resource.getrlimit(resource.RLIMIT_FSIZE), file=sys.stderr)\n"
        "pathlib.Path('big').write_bytes(bytes(8192))\n"
    )
    with Launcher() as launcher:
        first_start(path, data, tmp_path / "scratch", launcher)  # the launcher runs
        assert launcher._server is not None
        resource.prlimit(launcher._server.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        start = first_start(path, data, tmp_path / "scratch", launcher)

    assert start.stderr.splitlines()[0] == f"{most_bytes} {most_bytes}"
    assert ("File too large" in start.stderr) == (most_bytes < 8192)


def test_path_and_data_are_left_as_they_are(
    tmp_path: Path, data: Path, vocab_size: int, launcher: Launcher
) -> None:
    path = rehearsed_path.write(tmp_path, vocab_size=vocab_size)
    own_data = Path(shutil.copytree(data, tmp_path / "data"))
    before = {
        file: file.read_bytes() for root in (path, own_data) for file in root.rglob("*") if file.is_file()
    }

    rehearsed_path.rehearse(path, own_data, tmp_path / "scratch", launcher)

    after = {
        file: file.read_bytes() for root in (path, own_data) for file in root.rglob("*") if file.is_file()
    }
    assert after == before
    view = tmp_path / "scratch/rehearsal/run/data"
    assert {entry.name for entry in view.iterdir()} == {
        entry.name for entry in own_data.iterdir() if not entry.name.startswith("heldout")
    }
