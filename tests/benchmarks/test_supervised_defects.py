"""Classifiers and regressors of the defect benchmark: data, programs, and that every defect fits them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="pip install 'ml-intern-cli[bench]'")

from benchmarks.defects.case import Family, Folder, Half
from benchmarks.defects.supervised import CLEAN, DEFECTS, PROGRAMS, data, names, score

BY_NAME = {program.name: program for program in PROGRAMS}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The data of every program, by the key that programs share."""
    root = tmp_path_factory.mktemp("data")
    for program in PROGRAMS:
        if not (root / program.data).exists():
            program.build_data(root / program.data)
    return root


def folder_of(name, built, root):
    """A healthy run, untrained."""
    folder = Folder(root, name)
    folder.path.mkdir(parents=True)
    for file, text in BY_NAME[name].files().items():
        folder.write(file, text)
    shutil.copytree(built / BY_NAME[name].data, folder.data)
    return folder


def test_there_are_enough_of_everything():
    assert len(DEFECTS) >= 40
    assert {defect.family for defect in DEFECTS} == set(Family)
    assert sum(len(variation.programs) for variation in CLEAN) >= 60
    assert {program.half for program in PROGRAMS} == set(Half)
    for half in Half:
        tasks = {program.task for program in PROGRAMS if program.half is half}
        assert tasks == {"classification", "regression"}


def test_names_are_unique_and_every_defect_cites_its_source():
    changes = [change.name for change in (*DEFECTS, *CLEAN)]
    assert len(changes) == len(set(changes))
    assert all(len(defect.source) > 10 and defect.what and defect.component for defect in DEFECTS)
    assert set(names.TEMPLATE) | set(names.PARALLEL) == set(BY_NAME)


@pytest.mark.parametrize("change", [*DEFECTS, *CLEAN], ids=lambda change: change.name)
def test_a_change_fits_each_of_its_programs_and_changes_something(change, built, tmp_path):
    for name in change.programs:
        folder = folder_of(name, built, tmp_path / name)
        before = tree(folder)
        change.plant(folder)
        for file in ("model.py", "train.py"):
            compile(folder.read(file), file, "exec")
        is_untouched = tree(folder) == before
        assert is_untouched == (not change.edits and change.before is None), name
        shutil.rmtree(folder.root)


def tree(folder):
    """Every file's content."""
    return {
        path.relative_to(folder.root): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()
    }


def test_data_are_the_same_each_time_and_their_splits_apart(built, tmp_path):
    for program in {program.data: program for program in PROGRAMS}.values():
        again = tmp_path / program.data
        program.build_data(again)
        manifest = (built / program.data / "manifest.json").read_text()
        assert (again / "manifest.json").read_text() == manifest  # which has the hashes of the arrays
        train, heldout = (
            {row.tobytes() for row in data.read_split(again, split)[0]} for split in ("train", "heldout")
        )
        assert len(train) >= 100
        assert len(train & heldout) <= 0.01 * len(heldout)


def test_manifests_have_the_scaling_of_their_training_rows(built):
    for key in ("wine", "cancer", "cells", "diabetes", "digits"):
        told = json.loads((built / key / "manifest.json").read_text())["scaling"]
        inputs = data.read_split(built / key, "train")[0].astype(np.float64)
        axes = tuple(range(inputs.ndim)) if key == "digits" else (0,)
        assert np.allclose(np.ravel(told["mean"]), np.ravel(inputs.mean(axes)))
        assert np.allclose(np.ravel(told["std"]), np.ravel(inputs.std(axes)))


@pytest.fixture(scope="module")
def trained(built, tmp_path_factory):
    """Programs trained at most once each."""
    kept = {}

    def train(name):
        if name not in kept:
            folder = folder_of(name, built, tmp_path_factory.mktemp(name))
            finished = subprocess.run(
                [sys.executable, "train.py"], cwd=folder.path, capture_output=True, text=True, check=False
            )
            assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
            kept[name] = folder
        return kept[name]

    return train


@pytest.mark.parametrize("name", ["wine_mlp", "diabetes_mlp"])
def test_a_healthy_program_beats_a_constant_by_far(name, built, trained):
    folder = trained(name)
    targets = data.read_split(built / BY_NAME[name].data, "heldout")[1]
    found = score.heldout_score(folder.path, built / BY_NAME[name].data)
    if BY_NAME[name].task == "regression":
        scale = json.loads((folder.data / "manifest.json").read_text())["target_scaling"]["std"]
        assert found < 0.8 * targets.std() / scale
    else:
        shares = np.bincount(targets) / len(targets)
        assert found < 0.3 * -(shares * np.log(shares)).sum()
        assert score.heldout_accuracy(folder.path, built / BY_NAME[name].data) > shares.max() + 0.4


def test_each_process_of_a_pair_takes_its_half_and_the_mean_is_that_of_one_process(trained, tmp_path):
    """Two processes make the update that one makes on the whole batch."""
    folder = trained("wine_ddp")
    single = tmp_path / "run"
    shutil.copytree(folder.root, single)
    path = single / "path-a"
    shutil.rmtree(path / "ckpts")
    program = (path / "train.py").read_text()
    (path / "train.py").write_text(program.replace("WORLD_SIZE = 2", "WORLD_SIZE = 1"))
    subprocess.run([sys.executable, "train.py"], cwd=path, capture_output=True, check=True)
    losses = [
        [float(line.split("loss=")[1]) for line in (root / "train.log").read_text().splitlines()]
        for root in (folder.path, path)
    ]
    assert len(losses[0]) == folder.json("train_config.json")["steps"]
    assert np.allclose(losses[0], losses[1], atol=0.01)


def test_two_processes_that_were_stopped_go_on_with_the_same_bits(built, trained, tmp_path):
    whole = trained("wine_ddp")
    folder = folder_of("wine_ddp", built, tmp_path / "stopped")
    process = subprocess.Popen(
        [sys.executable, "train.py"], cwd=folder.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (folder.path / "ckpts" / "last.json").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert folder.json("ckpts/last.json")["status"] == "stopped"
    subprocess.run([sys.executable, "train.py"], cwd=folder.path, capture_output=True, check=True)
    assert folder.json("ckpts/last.json")["status"] == "done"
    assert folder.read("train.log") == whole.read("train.log")
    names_of = [run.json("ckpts/last.json")["dir"] for run in (folder, whole)]
    weights = [
        (run.path / "ckpts" / name / "model.safetensors").read_bytes()
        for run, name in zip((folder, whole), names_of, strict=True)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", ["metric-invented", "losses-smoothed", "best-of-another-step"])
def test_what_is_done_to_a_finished_run_makes_its_claim_untrue(name, trained, tmp_path):
    defect = next(defect for defect in DEFECTS if defect.name == name)
    healthy = trained("wine_mlp")
    folder = Folder(tmp_path / "run", "wine_mlp")
    shutil.copytree(healthy.root, folder.root)
    assert not defect.claim(folder, healthy.path).is_false
    defect.after(folder)
    assert defect.claim(folder, healthy.path).is_false


def test_a_permuted_head_is_scored_as_such(built, trained, tmp_path):
    defect = next(defect for defect in DEFECTS if defect.name == "classes-permuted-on-save")
    folder = Folder(tmp_path / "run", "wine_mlp")
    shutil.copytree(trained("wine_mlp").root, folder.root)
    before = score.heldout_accuracy(folder.path, built / "wine")
    defect.after(folder)
    assert before > 0.9
    assert score.heldout_accuracy(folder.path, built / "wine") < 0.2
