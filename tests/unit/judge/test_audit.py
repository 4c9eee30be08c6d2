"""The audit's probes on real checkpoints: sound ones pass all, each planted defect fails its probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.documents.audit import Audit
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.audit import PROBES
from ml_intern_cli.judge.audit.audit import audit
from ml_intern_cli.judge.audit.bench import AuditBench, Question
from ml_intern_cli.judge.audit.files import Files
from ml_intern_cli.judge.catalogue import CATALOGUE
from ml_intern_cli.judge.probe import run_probe
from tests import checkpoints
from tests.planted import DEFECTS, copy_of

BY_NAME = {probe.name: probe for probe in PROBES}
Sound = Callable[[str], Path]


@pytest.fixture(scope="session")
def texts() -> checkpoints.Texts:
    return checkpoints.texts()


@pytest.fixture(scope="session")
def sound(texts: checkpoints.Texts, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A trained checkpoint by its kind, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def made(kind: str) -> Path:
        directory = folder / kind
        return directory if directory.exists() else checkpoints.make(directory, kind, texts)

    return made


@pytest.fixture
def asked(
    texts: checkpoints.Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Question]:
    """A question with the held-out stories."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "scratch").mkdir()

    def question(**changes: Any) -> Question:
        values = {
            "text": texts.heldout,
            "train_text": None,
            "claims": {},
            "context": None,
            "trust_remote_code": False,
            "scratch": tmp_path / "scratch",
        }
        return Question(**(values | changes))

    return question


def _audit(directory: Path, question: Question) -> Audit:
    return audit(directory, question, text_name="held-out.txt", progress=lambda _: None)


def _probed(name: str, directory: Path, question: Question) -> Any:
    bench = AuditBench(Files(directory), question)
    return run_probe(BY_NAME[name], bench, describe=bench.describe)


USUAL = {
    "a tensor filled at random",
    "a file cut off",
    "a tokenizer of another model",
    "layers swapped",
    "another rotary base",
    "labels shifted twice",
    "an invented claim",
    "a leak over time",
}
"""Of the planted defects, those for every run of the tests: a kind each. The slow ones are all."""
KINDS = [
    "llama",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tied", "gpt2", "mixtral", "qwen")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_checkpoint_passes_every_probe(kind, sound, asked, texts):
    found = _audit(sound(kind), asked(train_text=texts.train))
    assert [(one.name, one.component, one.detail) for one in found.failed] == []
    assert len(found.probes) == len(PROBES)
    assert found.params > 100_000
    assert found.loss < 1.2 < found.unigram_loss
    assert found.writings[0].output


@pytest.mark.parametrize(
    "what",
    [what if what in USUAL else pytest.param(what, marks=pytest.mark.slow) for what in DEFECTS],
)
def test_a_planted_defect_fails_its_probe_and_the_component_is_named(what, sound, asked, texts, tmp_path):
    defect = DEFECTS[what]
    directory = copy_of(sound(defect.base), tmp_path / "checkpoint")
    defect.plant(directory, texts)
    has_code = (directory / "modeling_own.py").exists()
    result = _probed(defect.probe, directory, asked(trust_remote_code=has_code, **defect.question))
    assert (result.verdict, result.component) == ("fail", defect.component), result
    assert result.detail


def test_a_sharded_checkpoint_is_whole(sound, asked, tmp_path):
    from transformers import AutoModelForCausalLM

    directory = copy_of(sound("llama"), tmp_path / "sharded")
    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="300KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    for name in ("checkpoint-files", "weights-fit", "weights-finite", "text-loss"):
        assert _probed(name, directory, asked()).verdict == "pass"


def test_true_claims_pass_at_either_stride_and_in_either_unit(sound, asked):
    bench = AuditBench(Files(sound("llama")), asked())
    loss = bench.losses(bench.text.windows(bench.context, limit=10_000)).mean
    for claims in ({"eval_loss": loss}, {"perplexity": 2.718281828**loss}, {"eval_loss": loss - 0.03}):
        assert _probed("audit-claim", sound("llama"), asked(claims=claims)).verdict == "pass"
    result = _probed("audit-claim", sound("llama"), asked(claims={"eval_loss": loss + 0.05}))
    assert (result.verdict, result.component) == ("fail", "the claimed eval_loss")


def test_a_text_that_stands_in_the_training_text_is_found_by_its_passage(sound, asked, texts):
    leaked = texts.train + "\n" + "\n".join(texts.heldout.split("\n")[40:60])
    result = _probed("text-overlap", sound("llama"), asked(train_text=leaked))
    assert (result.verdict, result.component) == ("fail", "passage 41 of the text")
    assert _probed("text-overlap", sound("llama"), asked(train_text=texts.train)).verdict == "pass"


def test_easy_text_with_truly_low_loss_is_not_taken_for_learned_by_heart(sound, asked, texts):
    from ml_intern_cli.judge.audit.text import TokenText

    tokenizer = checkpoints.tokenizer_of(texts.train)
    easy = TokenText.of("\n".join(f"Tom had {n % 7} dogs." for n in range(400)), tokenizer, vocab_size=479)
    hard = TokenText.of(texts.heldout, tokenizer, vocab_size=479)
    assert easy.least_loss < 0.5 * hard.least_loss
    assert hard.least_loss < hard.unigram_loss < hard.uniform_loss


def test_a_text_that_is_too_short_is_refused_before_anything_is_judged(sound, asked):
    with pytest.raises(InvalidInput, match="too short"):
        _audit(sound("llama"), asked(text="Once upon a time."))


def test_code_of_the_checkpoint_does_not_run_unasked(sound, asked, texts, tmp_path):
    directory = copy_of(sound("llama"), tmp_path / "checkpoint")
    DEFECTS["a leak over time"].plant(directory, texts)
    (directory / "modeling_own.py").write_text("raise SystemExit('it ran')")
    assert _probed("weights-fit", directory, asked()).verdict == "pass"  # as the plain architecture
    result = _probed("weights-fit", directory, asked(trust_remote_code=True))
    assert result.verdict == "fail"
    assert "it ran" in result.detail


def test_headers_that_lie_are_found_without_reading_a_tensor(sound, tmp_path):
    file = tmp_path / "model.safetensors"
    for header, said in (
        (b"\xff" * 8, "header would have"),
        (_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, 4), "does not take 4 bytes"),
        (_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8), "begin at 4"),
        (_header({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}, 4), "malformed"),
        (_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 9), "9 bytes of tensors"),
        (_header([], 0), "no object"),
    ):
        file.write_bytes(header)
        (fault,) = Files(tmp_path).faults
        assert said in fault.text
        assert fault.component == "model.safetensors"


def _header(described: Any, size: int) -> bytes:
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text + b"\x00" * size


def test_names_of_probes_are_unique_over_all_kinds():
    names = [probe.name for probes in CATALOGUE.values() for probe in probes]
    assert len(names) == len(set(names))
