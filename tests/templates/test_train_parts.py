"""The parts of train.py and eval.py, called directly."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ml_intern_cli.resources import resource
from tests.tiny_path import SETTINGS, TinyPath, write_data


@pytest.fixture(scope="module")
def train():
    """templates/train.py as a module; it and its sibling leave no trace in the interpreter."""
    sys.path.insert(0, str(resource("templates")))
    yield importlib.import_module("train")
    sys.path.remove(str(resource("templates")))
    for name in ("train", "eval"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "data"
    write_data(directory)
    return directory


@pytest.fixture(scope="module")
def tokens(train, data_dir):
    return train.Tokens(data_dir, json.loads((data_dir / "manifest.json").read_text()), split="train")


class Positions:
    """Tokens whose ids are their positions."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def window(self, start, length):
        assert 0 <= start <= self._length - length
        return np.arange(start, start + length)


@settings(deadline=None)
@given(length=st.integers(40, 3000), seq_len=st.integers(1, 17), seed=st.integers(0, 99))
def test_an_epoch_visits_each_window_once_and_the_next_one_in_another_way(train, length, seq_len, seed):
    sampler = train.WindowSampler(Positions(length), seq_len=seq_len, seed=seed)
    count = sampler.windows_per_epoch
    assert length - 2 * seq_len < count * seq_len <= length - seq_len
    starts = sampler.windows(0, 2 * count)[:, 0].tolist()
    for epoch in (starts[:count], starts[count:]):
        assert np.diff(sorted(epoch)).tolist() == [seq_len] * (count - 1)
    if count > 8:
        assert starts[:count] != starts[count:]


def test_the_cursor_is_the_whole_state_of_the_sampler(train, tokens):
    one, other = (train.WindowSampler(tokens, seq_len=16, seed=5) for _ in range(2))
    everything = one.windows(0, 2000)
    assert torch.equal(other.windows(1234, 10), everything[1234:1244])
    assert torch.equal(other.windows(17, 10), everything[17:27])


def test_windows_cross_shard_borders(tokens, data_dir):
    ids = np.concatenate([np.fromfile(path, dtype="<u2") for path in sorted(data_dir.glob("train-*.bin"))])
    assert len(tokens) == len(ids)
    for start, length in ((4990, 20), (0, len(ids)), (11_999, 1), (12_000, 2)):
        assert tokens.window(start, length).tolist() == ids[start : start + length].tolist()


def test_a_shard_of_another_size_than_the_manifest_says_is_refused(train, data_dir):
    manifest = json.loads((data_dir / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1]["tokens"] -= 1
    with pytest.raises(train.CannotStart, match=r"train-00001\.bin"):
        train.Tokens(data_dir, manifest, split="train")


def test_a_split_shorter_than_a_window_is_evaluated_whole(train):
    (batch,) = sys.modules["eval"].leading_batches(Positions(9), seq_len=16, max_tokens=100)
    assert batch.tolist() == [list(range(9))]
    with pytest.raises(train.CannotStart):
        sys.modules["eval"].leading_batches(Positions(1), seq_len=16, max_tokens=100)


def configuration(train, **changes):
    return train.TrainConfig(**(SETTINGS | changes))


def test_weight_decay_is_for_matrices_only_and_tied_weights_count_once(train):
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "norm": nn.LayerNorm(4), "head": nn.Linear(4, 5)})
    model["head"].weight = model["embed"].weight
    decayed, plain = train.new_optimizer(model, configuration(train)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(model["embed"].weight)]
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model["norm"].weight, model["norm"].bias, model["head"].bias)
    }


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"),
    [("cosine", 0.0055, 0.001), ("linear", 0.0055, 0.001), ("constant", 0.01, 0.01)],
)
def test_schedules(train, schedule, halfway, end):
    config = configuration(train, schedule=schedule, steps=105)
    rates = [train.learning_rate_at(step, config) for step in range(106)]
    assert rates[4] == rates[5] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(halfway)
    assert rates[105] == pytest.approx(end)


def test_evaluation_reads_at_most_a_tenth_of_what_is_trained_on(train):
    assert configuration(train, eval_every=100).eval_tokens == 100 * 8 * 16 // 10
    assert configuration(train, eval_every=10**6).eval_tokens == 40_960


class Balanced(nn.Module):
    """Has a loss method with an auxiliary term, counts its forwards, and fails where it is told to."""

    def __init__(self, *, fails_at=None, nan_at=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 8))
        self.register_buffer("load", torch.zeros(()))
        self.after = []
        self.fails_at, self.nan_at = fails_at, nan_at

    def loss(self, input_ids, targets):
        self.load += 1
        if self.load == self.fails_at:
            raise MemoryError
        cross_entropy = nn.functional.cross_entropy(self.weight[input_ids].flatten(0, 1), targets.flatten())
        total = 2 * cross_entropy + 100
        return total * float("nan") if self.load == self.nan_at else total, cross_entropy

    def after_optimizer_step(self):
        self.after.append(self.load.item())
        self.load.zero_()


def stepper_of(train, model, **changes):
    config = configuration(train, **changes)
    return train.Stepper(model, config, train.Accelerator(cpu=True))


def step(stepper):
    windows = torch.arange(8 * 6).reshape(8, 6) % 8
    return stepper.step(windows, micro_batch=2, precision="fp32", learning_rate=0.1)


def test_auxiliary_terms_are_not_in_the_logged_loss_and_the_hook_runs_after_the_update(train):
    model = Balanced()
    loss, _ = step(stepper_of(train, model))
    assert loss == pytest.approx(np.log(8))
    assert model.after == [4.0]
    assert model.weight.abs().sum() > 0


@pytest.mark.parametrize("fault", [{"fails_at": 3}, {"nan_at": 3}])
def test_a_step_that_does_not_happen_leaves_no_trace(train, fault):
    model = Balanced(**fault)
    stepper = stepper_of(train, model)
    try:
        loss, grad_norm = step(stepper)
    except MemoryError:
        assert "fails_at" in fault
    else:
        assert np.isfinite(loss)
        assert not np.isfinite(grad_norm)
    assert model.load == 0
    assert not model.weight.any()
    assert model.weight.grad is None
    assert not stepper.optimizer.state
    assert not model.after


def test_the_cpu_allocator_s_error_counts_as_out_of_memory(train):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert train.is_out_of_memory(caught.value)
    assert not train.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_logs_are_cut_back_to_whole_rows_of_the_checkpoint(train, tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 9, "loss": 1.0}\n{"step": 10, "loss": 2.0}\n{"step": 11, "loss": 3.0}\n{"step": 1'
    )
    train.cut_back(log, last_step=10)
    assert log.read_text() == '{"step": 9, "loss": 1.0}\n{"step": 10, "loss": 2.0}\n'
    train.cut_back(log, last_step=None)
    assert not log.read_text()


def test_bad_settings_are_named(train, tmp_path):
    path = TinyPath(tmp_path)
    for change, complaint in (
        ({"schedule": "step"}, "schedule"),
        ({"precision": "fp8"}, "precision"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"dropout": 0.1}, "unknown dropout"),
    ):
        path.configure(**change)
        with pytest.raises(train.CannotStart, match=complaint):
            train.TrainConfig.read(path.directory / "train_config.json")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"step": 16', "not JSON"), ("[]", "not a JSON object"), ('{"step": 16}', "lacks dir, status")],
)
def test_a_damaged_pointer_is_refused(train, tmp_path, text, complaint):
    (tmp_path / "last.json").write_text(text)
    with pytest.raises(train.CannotStart, match=rf"last\.json: {complaint}"):
        train.Checkpoints(tmp_path, fingerprint="").last()


def test_a_damaged_or_foreign_checkpoint_is_refused(train, tmp_path):
    model, checkpoints = Balanced(), train.Checkpoints(tmp_path, fingerprint="")
    stepper = stepper_of(train, model)
    step(stepper)
    state = train.State(step=1, micro_batch=2, accumulation=4)
    checkpoints.save(state, model, stepper.optimizer)
    last = {"dir": "step-00000001"}
    assert checkpoints.load(last, model, stepper.optimizer) == state
    with pytest.raises(train.CannotStart, match="another model"):
        checkpoints.load(last, nn.Linear(2, 2), stepper.optimizer)
    for name in ("optimizer.safetensors", "model.safetensors", "state.json"):  # the reverse of loading
        file = tmp_path / last["dir"] / name
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(train.CannotStart, match=name):
            checkpoints.load(last, model, stepper.optimizer)


def test_a_checkpoint_that_was_not_finished_is_removed_at_the_next_start(train, tmp_path):
    model, checkpoints = Balanced(), train.Checkpoints(tmp_path, fingerprint="")
    stepper = stepper_of(train, model)
    for number in (1, 2):
        checkpoints.save(train.State(step=number, micro_batch=2, accumulation=4), model, stepper.optimizer)
    (tmp_path / ".step-00000003").mkdir()
    (tmp_path / "best.json").write_text("{}")
    checkpoints.tidy({"dir": "step-00000001", "best": None})
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def test_eval_without_a_checkpoint_says_what_is_missing(train, tmp_path, monkeypatch, capsys):
    path = TinyPath(tmp_path)
    monkeypatch.setattr(sys.modules["eval"], "HERE", path.directory)
    monkeypatch.setattr(sys, "argv", ["eval.py"])
    assert sys.modules["eval"].main() == 2
    assert (
        capsys.readouterr().err == f"eval.py: {path.directory}/ckpts/best.json: No such file or directory\n"
    )
