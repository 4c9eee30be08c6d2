"""A well-trained path passes all six checks; each damage fails the check that is there for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.verify import Judgement, Verify
from ml_intern_cli.judge.artifact import Artifact
from ml_intern_cli.judge.checks.consumption import judge_consumption
from ml_intern_cli.judge.checks.stderr import judge_stderr
from ml_intern_cli.judge.records import Records
from tests import judged_path

PLANNED = 300 * 1024


@pytest.fixture
def path(trained, tmp_path: Path) -> Path:
    """A copy of the trained path, to be damaged."""
    return judged_path.copy_run(trained.path, tmp_path)


def judge(path: Path, data: Path, params: int) -> Verify:
    return judged_path.judge(path, data, params=params, planned_tokens=PLANNED)


def edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def checkpoint(path: Path) -> Path:
    return path / "ckpts" / "step-00000300" / "model.safetensors"


def consumption(path: Path) -> Judgement:
    artifact = Artifact(path)
    return judge_consumption(artifact, Records.read(artifact), planned_tokens=PLANNED)


def test_well_trained_path_passes_all_six(trained) -> None:
    reasons = {name: judgement.reason for name, judgement in trained.verify.judgements.items()}

    assert trained.verify.first_failure is None, reasons
    assert [sample.prompt for sample in trained.verify.samples] == ["Once upon a time,", "The", ""]
    assert all("allowed" in reason for reason in reasons.values() if "tokens," not in reason)
    assert trained.verify.actual_params == trained.params
    assert trained.verify.consumed_tokens == PLANNED


def test_same_checkpoint_and_seed_give_the_same_verdict(trained, data: Path) -> None:
    assert judge(trained.path, data, trained.params) == trained.verify


def test_model_of_20_steps_fails_generation(tmp_path: Path, data: Path, vocab_size: int) -> None:
    path = judged_path.write_path(tmp_path, vocab_size=vocab_size, hidden_size=64, num_layers=2)
    params = judged_path.train(path, data, steps=20)

    result = judged_path.judge(path, data, params=params, planned_tokens=20 * 1024)

    assert result.first_failure == "Generation samples"
    assert all(sample.judgement.verdict is Verdict.FAIL for sample in result.samples)


class TestTables:
    """Models that are a table of next-token logits, filled to write one kind of nonsense each."""

    @pytest.fixture
    def write(self, path: Path, vocab_size: int):
        def write(table: torch.Tensor) -> Path:
            (path / "model.py").write_text((judged_path.MODELS / "bigram_table.py").read_text())
            (path / "config.json").write_text(
                json.dumps({"_model_class": "BigramTable", "vocab_size": vocab_size})
            )
            save_file({"table": table.contiguous()}, checkpoint(path))
            return path

        return write

    @pytest.fixture
    def counts(self, data: Path, vocab_size: int) -> torch.Tensor:
        """How often each token follows each in the training text: (V, V)."""
        tokens = np.fromfile(data / "train-00000.bin", dtype="<u2").astype(np.int64)
        pairs = np.bincount(tokens[:-1] * vocab_size + tokens[1:], minlength=vocab_size**2)
        return torch.from_numpy(pairs).view(vocab_size, vocab_size).float()

    def test_word_salad_of_the_right_frequencies_fails(self, write, counts, data: Path) -> None:
        salad = torch.log(counts.sum(0) + 1e-3).expand_as(counts)

        result = judge(write(salad), data, salad.numel())

        assert result.generation.verdict is Verdict.FAIL
        assert "likeness to held-out text" in result.generation.reason

    def test_one_repeated_token_fails(self, write, counts, data: Path) -> None:
        stuck = 30 * torch.eye(len(counts))

        result = judge(write(stuck), data, stuck.numel())

        assert result.generation.verdict is Verdict.FAIL
        assert "distinct 3-grams" in result.generation.reason

    def test_loop_over_one_likely_sentence_fails(self, write, counts, data: Path) -> None:
        loop = torch.zeros_like(counts)
        loop[torch.arange(len(counts)), counts.argmax(dim=1)] = 30

        result = judge(write(loop), data, loop.numel())

        assert "distinct 3-grams" in result.generation.reason

    def test_text_that_is_right_only_pair_by_pair_fails(self, write, counts, data: Path) -> None:
        pairwise = torch.log(counts + 1e-4)

        result = judge(write(pairwise), data, pairwise.numel())

        assert result.generation.verdict is Verdict.FAIL

    def test_uniform_model_fails_loss_and_generation(self, write, counts, data: Path) -> None:
        result = judge(write(torch.zeros_like(counts)), data, counts.numel())

        assert result.loss.verdict is Verdict.FAIL
        assert result.generation.verdict is Verdict.FAIL


def test_claimed_eval_loss_better_than_recomputed_fails(path: Path, trained, data: Path) -> None:
    best = json.loads((path / "ckpts" / "best.json").read_text())
    edit_json(path / "ckpts" / "best.json", eval_loss=best["eval_loss"] - 0.15)

    result = judge(path, data, trained.params)

    assert result.first_failure == "Loss sanity"
    assert f"eval loss claimed {best['eval_loss'] - 0.15:.3f}, recomputed" in result.loss.reason


def test_invented_training_losses_fail(path: Path, trained, data: Path) -> None:
    lines = [f"step={step} loss={6 - step / 50.5:.4f}\n" for step in range(1, 301)]
    (path / "train.log").write_text("".join(lines))

    result = judge(path, data, trained.params)

    assert result.loss.verdict is Verdict.FAIL
    assert "train loss claimed" in result.loss.reason


def test_loss_below_the_known_floor_fails(path: Path, trained, data: Path, tmp_path: Path) -> None:
    other = Path(judged_path.copy_run(data, tmp_path / "other"))
    edit_json(other / "manifest.json", loss_floor=trained.verify.final_eval_loss + 0.3)

    result = judge(path, other, trained.params)

    assert result.loss.verdict is Verdict.FAIL
    assert "held-out loss measured" in result.loss.reason


def test_heldout_file_that_was_overwritten_fails(path: Path, trained, data: Path, tmp_path: Path) -> None:
    other = Path(judged_path.copy_run(data, tmp_path / "other"))
    train_tokens = (other / "train-00000.bin").read_bytes()
    (other / "heldout-00000.bin").write_bytes(train_tokens[: (other / "heldout-00000.bin").stat().st_size])

    result = judge(path, other, trained.params)

    assert "heldout-00000.bin is not what the manifest recorded" in result.loss.reason


def test_truncated_checkpoint_fails_with_the_reason(path: Path, trained, data: Path) -> None:
    content = checkpoint(path).read_bytes()
    checkpoint(path).write_bytes(content[: len(content) // 2])

    result = judge(path, data, trained.params)

    assert result.first_failure == "Generation samples"
    assert "model.safetensors is corrupt" in result.generation.reason
    assert result.final_eval_loss is None
    assert result.data.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda tensors: tensors["norm.weight"].fill_(float("nan")), "norm.weight holds NaN or infinity"),
        (lambda tensors: tensors.pop("norm.weight"), "missing tensor norm.weight"),
        (lambda tensors: tensors.update(spare=torch.zeros(1)), "unexpected tensor spare"),
        (lambda tensors: tensors.update({"norm.weight": torch.zeros(3)}), r"norm.weight has shape \[3\]"),
    ],
)
def test_checkpoint_that_does_not_fit_fails_by_name(damage, reason: str, path: Path, data: Path) -> None:
    tensors = load_file(checkpoint(path))
    damage(tensors)
    save_file(tensors, checkpoint(path))

    with pytest.raises(Exception, match=reason):
        judged_path.load(path)


def test_missing_checkpoint_fails_every_check_that_needs_it(path: Path, trained, data: Path) -> None:
    (path / "ckpts" / "best.json").unlink()

    result = judge(path, data, trained.params)

    assert "best.json is missing" in result.generation.reason
    assert "best.json is missing" in result.loss.reason
    assert "best.json is missing" in result.params.reason


def test_half_of_the_planned_tokens_fails(path: Path) -> None:
    artifact = Artifact(path)

    judgement = judge_consumption(artifact, Records.read(artifact), planned_tokens=2 * PLANNED)

    assert judgement.verdict is Verdict.FAIL
    assert "50.0%, allowed ≥ 70%" in judgement.reason


def test_tokens_that_the_cursor_does_not_show_fail(path: Path) -> None:
    edit_json(path / "ckpts" / "last.json", tokens=PLANNED + 1024)

    assert "the data cursor 307,200" in consumption(path).reason


def test_cursor_behind_the_steps_fails(path: Path) -> None:
    edit_json(path / "ckpts" / "step-00000300" / "state.json", cursor=10)
    edit_json(path / "ckpts" / "last.json", tokens=640)

    assert "the data cursor stands at 640" in consumption(path).reason


def test_cursor_ahead_by_a_skipped_update_passes(path: Path) -> None:
    edit_json(path / "ckpts" / "step-00000300" / "state.json", cursor=301 * 16)
    edit_json(path / "ckpts" / "last.json", tokens=301 * 1024)

    assert consumption(path).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (range(1, 200), "train.log has 199 lines for 300 steps"),
        ([1, *range(1, 300)], "train.log's steps are not 1 to 300 in order"),
    ],
)
def test_log_that_does_not_match_the_steps_fails(lines, reason: str, path: Path) -> None:
    (path / "train.log").write_text("".join(f"step={step} loss=1.0\n" for step in lines))

    assert reason in consumption(path).reason


def test_malformed_log_line_is_named(path: Path) -> None:
    log = (path / "train.log").read_text().splitlines()
    log[4] = "all is well"
    (path / "train.log").write_text("\n".join(log))

    assert "train.log:5 is not 'step=N loss=<val>'" in consumption(path).reason


def test_traceback_in_stderr_fails(path: Path) -> None:
    (path / "train.stderr").write_text("Traceback (most recent call last):\n  …\nRuntimeError: no\n")

    findings, judgement = judge_stderr(Artifact(path))

    assert judgement.verdict is Verdict.FAIL
    assert findings[0] == "Traceback (most recent call last): — unexplained"


def test_known_warning_is_explained_and_counted_once(path: Path) -> None:
    (path / "train.stderr").write_text("x.py:1: FutureWarning: f is deprecated\n" * 3)

    findings, judgement = judge_stderr(Artifact(path))

    assert judgement.verdict is Verdict.PASS
    assert len(findings) == 1
    assert "(3 times) — benign: announces" in findings[0]


def test_missing_stderr_fails(path: Path) -> None:
    (path / "train.stderr").unlink()

    assert judge_stderr(Artifact(path))[1].verdict is Verdict.FAIL


def test_drift_above_15_percent_fails(path: Path, trained, data: Path) -> None:
    result = judge(path, data, int(trained.params / 1.2))

    assert result.first_failure == "Param count"
    assert "drift +20.0%, allowed ±15%" in result.params.reason


class TestProcess:
    """The judge as its own process."""

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ml_intern_cli.judge", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    def test_verdict_is_a_file_and_the_exit_code_zero_even_when_it_fails(
        self, path: Path, data: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "smoke.json"

        done = self.run(
            "smoke", "--path", path, "--data", data, "--target-params", 5, "--out", out, "--num-threads", 1
        )

        assert done.returncode == 0, done.stderr
        assert not Smoke.model_validate_json(out.read_text()).passed
        assert done.stdout == ""

    def test_unreadable_data_is_exit_2_and_no_verdict(self, path: Path, tmp_path: Path) -> None:
        out = tmp_path / "smoke.json"

        done = self.run("smoke", "--path", path, "--data", tmp_path, "--target-params", 5, "--out", out)

        assert done.returncode == 2
        assert "manifest.json" in done.stderr
        assert not out.exists()

    def test_importing_the_judge_loads_neither_brains_nor_torch(self) -> None:
        code = (
            "import sys, ml_intern_cli.judge.smoke, ml_intern_cli.judge.verify;"
            "heavy = ('ml_intern_cli.brains', 'transformers', 'torch', 'numpy');"
            "print([name for name in sys.modules if name.startswith(heavy)])"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"
