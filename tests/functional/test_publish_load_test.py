from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml_intern_cli.hub.bundle import build_bundle
from ml_intern_cli.resources import resource
from tests.finished_run import make_finished_run
from tests.loopback_hub import LoopbackHub


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("published") / "a-run"
    run_dir.mkdir()
    documents = make_finished_run(run_dir)
    bundle_dir = run_dir / "bundle"
    build_bundle(
        run_dir=run_dir,
        path_dir=run_dir / "path-a",
        bundle_dir=bundle_dir,
        name="a-name",
        host=None,
        **documents,
    )
    return bundle_dir


@pytest.fixture
def bundle(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def load_test():
    return import_program(resource("templates", "load_test.py"))


def import_program(path: Path):
    spec = importlib.util.spec_from_file_location("load_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_program(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "load_test.py", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "OMP_NUM_THREADS": "2", **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_fresh_process_loads_the_bundle_in_both_ways_and_leaves_it_as_it_was(bundle):
    before = sorted(bundle.iterdir())
    result = run_program(bundle)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("load test passed: ")
    assert lines[-1].endswith(" 40 tokens generated")
    assert "DeepseekV3ForCausalLM from transformers, DeepseekV3 from model.py" in lines
    assert sorted(bundle.iterdir()) == before


def test_an_architecture_that_transformers_does_not_know_is_loaded_by_its_own_code(tmp_path):
    run_dir = tmp_path / "a-run"
    run_dir.mkdir()
    documents = make_finished_run(run_dir)
    config_file = run_dir / "path-a" / "config.json"
    config = json.loads(config_file.read_text())
    for name in ("model_type", "architectures"):
        config.pop(name)
    config_file.write_text(json.dumps(config))
    bundle = run_dir / "bundle"
    build_bundle(
        run_dir=run_dir,
        path_dir=run_dir / "path-a",
        bundle_dir=bundle,
        name="a-name",
        host=None,
        **documents,
    )
    result = run_program(bundle)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "DeepseekV3 from model.py" in result.stdout.splitlines()
    card = (bundle / "README.md").read_text()
    assert 'library_name: "pytorch"' in card
    assert "AutoModelForCausalLM" not in card


def test_it_runs_alone_against_a_repository_on_a_hub(bundle, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(bundle / "load_test.py", alone)
    with LoopbackHub() as hub:
        hub.add("me/model", {path.name: path.read_bytes() for path in bundle.iterdir()})
        result = run_program(alone, "--repo", "me/model", environ=hub.environ)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("load test passed: ")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "model.py"])
def test_a_file_that_was_changed_since_is_noticed(load_test, bundle, name):
    file = bundle / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(load_test.LoadTestError, match=f"{name} is not the file that was published"):
        load_test.check_files(bundle)


def test_a_failure_is_one_last_line_and_exit_code_1(bundle, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["load_test.py"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (bundle / "model.safetensors").write_bytes(b"not weights")
    assert import_program(bundle / "load_test.py").main() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("load test failed: ")


def test_code_that_computes_something_else_than_transformers_fails(load_test, bundle):
    code = (bundle / "model.py").read_text()
    changed = code.replace("LATENT_NORM_EPS = 1e-6", "LATENT_NORM_EPS = 1e-1")
    assert changed != code
    (bundle / "model.py").write_text(changed)
    with pytest.raises(load_test.LoadTestError, match=r"model\.py and transformers differ by"):
        load_test.run(bundle, "The")


def test_weights_that_do_not_fit_the_code_fail(load_test, bundle):
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "model.py").write_text(
        (bundle / "model.py").read_text() + "\n\nclass Other(DeepseekV3):\n    def __init__(self, config):\n"
        "        super().__init__(config)\n        self.extra = nn.Linear(2, 2)\n\n\n"
        "OtherConfig = DeepseekV3Config\n"
    )
    (bundle / "config.json").write_text(json.dumps(config | {"_model_class": "Other"}))
    with pytest.raises(load_test.LoadTestError, match=r"(?s)does not fit model\.py: .*extra"):
        load_test.run(bundle, "The")


def test_a_tokenizer_with_ids_beyond_the_model_fails(load_test, bundle):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    with pytest.raises(load_test.LoadTestError, match="the tokenizer gives id"):
        load_test.check_tokenizer(tokenizer, vocab_size=10)


def test_a_tokenizer_that_loses_text_fails(load_test, bundle):
    from transformers import AutoTokenizer

    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (bundle / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(load_test.LoadTestError, match="does not give back its text"):
        load_test.check_tokenizer(AutoTokenizer.from_pretrained(bundle), vocab_size=1000)


def test_an_empty_prompt_starts_from_the_end_of_text_token(load_test, bundle):
    assert load_test.run(bundle, "").endswith(" tokens generated")
