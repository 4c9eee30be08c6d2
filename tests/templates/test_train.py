"""train.py as a program: what it learns, logs and keeps, and how it goes on after a stop."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors import safe_open

from tests.tiny_path import MODEL, VOCAB_SIZE, TinyPath, write_data

STEPS = 240


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    write_data(root / "data")
    return root


@pytest.fixture(scope="module")
def unbroken(root):
    """A path trained from start to end in one go, with dropout, so that random numbers matter."""
    path = TinyPath(root / "unbroken", steps=STEPS, dropout=0.1, data_dir=str(root / "data"))
    finished = path.run()
    assert (finished.returncode, finished.stderr) == (0, "")
    return path


@pytest.fixture
def copy(unbroken, tmp_path):
    """The finished path, to be changed."""
    shutil.copytree(unbroken.directory, tmp_path / "path-a")
    path = TinyPath.__new__(TinyPath)
    path.directory = tmp_path / "path-a"
    return path


def small_path(root, tmp_path, **settings):
    return TinyPath(tmp_path, data_dir=str(root / "data"), **settings)


def test_loss_falls_well_below_the_uniform_loss(unbroken):
    losses = unbroken.losses()
    assert abs(losses[0] - math.log(VOCAB_SIZE)) < 0.5
    assert sum(losses[-10:]) / 10 < 1.5
    assert abs(unbroken.json("ckpts/best.json")["eval_loss"] - sum(losses[-10:]) / 10) < 0.5


def test_train_log_has_one_line_per_step(unbroken):
    lines = unbroken.read("train.log").splitlines()
    assert [line.split()[0] for line in lines] == [f"step={step}" for step in range(1, STEPS + 1)]
    logged = [float(re.fullmatch(r"step=\d+ loss=(\S+)", line)[1]) for line in lines]
    assert logged == pytest.approx(unbroken.losses(), abs=5e-5)


def test_tokens_are_counted_from_the_windows_consumed(unbroken):
    assert [row["tokens"] for row in unbroken.rows("loss")] == [step * 8 * 16 for step in range(1, STEPS + 1)]
    assert unbroken.json("ckpts/last.json")["tokens"] == STEPS * 8 * 16


def test_learning_rate_warms_up_and_decays_to_the_minimum(unbroken):
    rates = [row["lr"] for row in unbroken.rows("loss")]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.001, rel=0.01)


def test_every_evaluation_is_logged_and_the_best_one_kept(unbroken):
    rows = unbroken.rows("eval_loss")
    assert [row["step"] for row in rows] == [25, 50, 75, 100, 125, 150, 175, 200, 225, 240]
    assert unbroken.read("eval.log").splitlines() == [
        f"step={row['step']} eval_loss={row['eval_loss']:.4f}" for row in rows
    ]
    best = min(rows, key=lambda row: row["eval_loss"])
    assert unbroken.json("ckpts/best.json") == {
        "step": best["step"],
        "dir": f"step-{best['step']:08d}",
        "eval_loss": best["eval_loss"],
        "eval_tokens": best["eval_tokens"],
    }


def test_only_directories_that_a_pointer_names_are_kept(unbroken):
    named = {unbroken.json(f"ckpts/{name}.json")["dir"] for name in ("best", "last")}
    assert {entry.name for entry in (unbroken.directory / "ckpts").iterdir()} == named | {
        "best.json",
        "last.json",
    }


def test_tied_weights_are_stored_once_under_the_first_name(unbroken):
    name = unbroken.json("ckpts/last.json")["dir"]
    with safe_open(unbroken.directory / "ckpts" / name / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
    assert "embed_tokens.weight" in names
    assert "a_head.weight" not in names


def test_a_sample_follows_every_evaluation_and_those_of_the_best_checkpoint_the_end(unbroken):
    samples = [json.loads(line) for line in unbroken.read("gen_samples.log").splitlines()]
    on_the_way, at_the_end = samples[:-3], samples[-3:]
    assert [sample["step"] for sample in on_the_way] == [row["step"] for row in unbroken.rows("eval_loss")]
    assert {sample["prompt"] for sample in on_the_way} == {"Once upon a time,"}
    assert [sample["prompt"] for sample in at_the_end] == ["Once upon a time,", "The", ""]
    assert {sample["step"] for sample in at_the_end} == {unbroken.json("ckpts/best.json")["step"]}
    assert all(sample["output"] for sample in samples)


def test_a_done_training_is_left_as_it_is(copy):
    settings = copy.json("train_config.json")
    copy.write("train_config.json", json.dumps(settings | {"time_limit_s": 60.0}))  # no reason to refuse
    before = {path: path.read_bytes() for path in copy.directory.rglob("*") if path.is_file()}
    again = copy.run()
    assert again.returncode == 0
    assert again.stdout == f"done already: {STEPS} steps, {STEPS * 128} tokens\n"
    after = {path: path.read_bytes() for path in copy.directory.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if "__pycache__" not in path.parts} == {
        path: text for path, text in before.items() if "__pycache__" not in path.parts
    }


def test_eval_repeats_the_logged_loss(copy):
    best = copy.json("ckpts/best.json")
    logged = copy.read("eval.log")
    evaluated = copy.run("eval.py")
    line = f"step={best['step']} eval_loss={best['eval_loss']:.4f} split=val tokens={best['eval_tokens']}"
    assert evaluated.returncode == 0
    assert evaluated.stdout.splitlines()[0] == line
    assert copy.read("eval.log") == f"{logged}{line}\n"
    assert 'PROMPT: "Once upon a time,"\nOUTPUT: w' in evaluated.stdout


def test_killed_and_terminated_training_goes_on_with_the_same_losses(root, unbroken, tmp_path):
    path = small_path(root, tmp_path, steps=STEPS, dropout=0.1)
    assert path.stop_at(33, signal.SIGKILL) == -signal.SIGKILL
    assert path.stop_at(61, signal.SIGTERM) == 0
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"]) == ("stopped", "terminated")
    assert path.json("ckpts/best.json")["step"] <= last["step"]
    path.stop_at(last["step"] + 20, signal.SIGKILL)
    assert path.run().returncode == 0
    assert path.losses() == unbroken.losses()
    assert path.rows("eval_loss") == unbroken.rows("eval_loss")
    assert path.read("train.log") == unbroken.read("train.log")
    assert path.read("eval.log") == unbroken.read("eval.log")
    for pointer in ("best", "last"):
        name = path.json(f"ckpts/{pointer}.json")["dir"]
        weights = f"ckpts/{name}/model.safetensors"
        assert (path.directory / weights).read_bytes() == (unbroken.directory / weights).read_bytes()
    assert path.json("ckpts/last.json")["elapsed_s"] > path.rows("loss")[-1]["elapsed_s"] - 1


def test_a_stop_before_the_first_evaluation_still_leaves_a_best_checkpoint(root, tmp_path):
    path = small_path(root, tmp_path, steps=100_000, eval_every=50_000)
    assert path.stop_at(3, signal.SIGINT) == 0
    best, last = path.json("ckpts/best.json"), path.json("ckpts/last.json")
    assert best["step"] == last["step"] >= 3
    assert (path.directory / "ckpts" / best["dir"] / "model.safetensors").is_file()

    # The time of the first start counts, so the second has none left: it evaluates in full and samples.
    path.write("train_config.json", json.dumps(path.json("train_config.json") | {"time_limit_s": 0.5}))
    assert path.run().returncode == 0
    spent = path.json("ckpts/last.json")
    assert (spent["status"], spent["reason"], spent["step"]) == ("stopped", "time limit", last["step"])
    assert spent["elapsed_s"] > last["elapsed_s"]
    assert path.json("ckpts/best.json")["eval_tokens"] > best["eval_tokens"]
    assert len(path.read("gen_samples.log").splitlines()) == 3


def test_training_stops_when_its_parent_is_gone(root, tmp_path):
    path = small_path(root, tmp_path, steps=100_000)
    shell = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} train.py & wait"],
        cwd=path.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not path.has_logged(2):
        time.sleep(0.01)
    shell.kill()
    shell.wait()
    last = path.directory / "ckpts" / "last.json"
    while not (last.exists() and json.loads(last.read_text())["status"] == "stopped"):
        time.sleep(0.05)
    assert json.loads(last.read_text())["reason"] == "terminated"


def test_a_checkpoint_of_other_settings_is_refused(copy):
    settings = copy.json("train_config.json")
    copy.write("train_config.json", json.dumps(settings | {"learning_rate": 0.02}))
    refused = copy.run()
    assert refused.returncode == 2
    assert "remove ckpts/ to start over" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_too_little_data_is_refused_in_one_line(tmp_path):
    write_data(tmp_path / "data", {"train": (100,), "val": (50,), "heldout": (50,)})
    path = TinyPath(tmp_path)
    refused = path.run()
    assert refused.returncode == 2
    assert refused.stderr == (
        "train.py: too little data: 100 training tokens, 5 windows of 16; one step takes 8\n"
    )


def test_a_loss_that_is_not_finite_skips_the_update_and_halves_the_rate(root, tmp_path):
    model = (
        MODEL.replace("return (self.a_head(x),)", "return (self.a_head(x) * self.poison(),)") + POISONED_ONCE
    )
    path = small_path(root, tmp_path, model=model, steps=20, schedule="constant")
    finished = path.run()
    assert finished.returncode == 0
    assert finished.stderr == "train.py: step 10: not finite: update skipped, learning rate scaled by 0.5\n"
    rows = path.rows("loss")
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert [row["lr"] for row in rows[5:]] == [0.01] * 4 + [0.005] * 11
    assert rows[-1]["tokens"] == 21 * 8 * 16
    assert path.json("ckpts/last.json")["skipped"] == 1
    assert [row["step"] for row in path.rows("event")] == [10]


POISONED_ONCE = """
    calls = 0

    def poison(self):
        self.calls += self.training
        return float("nan") if self.training and self.calls == 10 else 1.0
"""


def test_five_losses_in_a_row_that_are_not_finite_end_the_training(root, tmp_path):
    model = MODEL.replace(
        "return (self.a_head(x),)", "return (self.a_head(x) * (float('nan') if self.forwards > 8 else 1.0),)"
    )
    path = small_path(root, tmp_path, model=model)
    failed = path.run()
    assert failed.returncode == 3
    assert failed.stderr.splitlines()[-1] == "train.py: failed: not finite at step 9"
    assert len(path.rows("event")) == 5
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"], last["step"]) == ("failed", "not finite at step 9", 8)


def test_smaller_micro_batches_make_the_same_updates(root, tmp_path):
    """Whole, accumulated, and cut down because memory ran out: one effective batch, one trajectory."""
    whole = small_path(root, tmp_path / "whole")
    accumulated = small_path(root, tmp_path / "accumulated", micro_batch=2, accumulation=4)
    cramped = small_path(root, tmp_path / "cramped", model=cramped_model(2))
    stderr = [path.run().stderr for path in (whole, accumulated, cramped)]
    assert stderr[:2] == ["", ""]
    assert stderr[2].splitlines() == [
        "train.py: step 1: out of memory: micro-batch 4, accumulation 2",
        "train.py: step 1: out of memory: micro-batch 2, accumulation 4",
    ]
    assert accumulated.losses() == pytest.approx(whole.losses(), abs=1e-4)
    assert cramped.losses() == accumulated.losses()
    assert [row["tokens"] for row in cramped.rows("loss")] == [row["tokens"] for row in whole.rows("loss")]
    assert len(cramped.rows("event")) == 2


def cramped_model(sequences):
    """The model, on a machine with memory for so many sequences."""
    return MODEL.replace(
        "x = self.dropout(",
        f"if self.training and len(input_ids) > {sequences}:\n"
        "            raise torch.OutOfMemoryError('planted')\n"
        "        x = self.dropout(",
    )


def test_out_of_memory_with_single_sequences_ends_the_training(root, tmp_path):
    path = small_path(root, tmp_path, model=cramped_model(0))
    assert path.run().returncode == 3
    last = path.json("ckpts/last.json")
    assert (last["status"], last["reason"], last["step"]) == ("failed", "out of memory", 0)


def test_calibration_measures_what_fits_and_leaves_only_its_file(tmp_path):
    path = TinyPath(tmp_path, model=cramped_model(4))
    before = {entry.name for entry in path.directory.iterdir()}
    arguments = ("--seconds", "2", "--micro-batches", "2,4,8", "--precisions", "fp32,bf16")
    finished = path.run("train.py", "--calibrate", "speed.json", *arguments)
    assert finished.returncode == 0
    speed = path.json("speed.json")
    assert {entry.name for entry in path.directory.iterdir()} - before - {"__pycache__"} == {"speed.json"}
    measured = [(result["micro_batch"], result["precision"]) for result in speed["results"]]
    assert measured == [(2, "fp32"), (2, "bf16"), (4, "fp32"), (4, "bf16")]
    for result in speed["results"]:
        assert result["tokens_per_s"] == pytest.approx(
            result["micro_batch"] * 16 / result["step_s"], rel=0.01
        )
    assert min(speed[key] for key in ("eval_tokens_per_s", "checkpoint_s", "startup_s")) > 0
