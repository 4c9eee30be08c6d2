from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ml_intern_cli.errors import Blocked, MlInternError
from ml_intern_cli.hub.bundle import build_bundle
from ml_intern_cli.resources import resource
from tests.finished_run import make_finished_run

EVERYTHING = {
    *("model.py", "config.json", "model.safetensors", "generation_config.json", "load_test.py", "README.md"),
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "data_manifest.json",
        "train.py",
        "eval.py",
        "train_config.json",
    ),
    *(
        "TASK.md",
        "BUDGET.md",
        "RESEARCH.md",
        "PLAN.md",
        "EXPERIMENTS.md",
        "RESULTS.md",
        "SMOKE.md",
        "VERIFY.md",
    ),
    *("train.log", "eval.log", "gen_samples.log", "metrics.jsonl", "SHA256SUMS"),
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished") / "a-run"
    run_dir.mkdir()
    return run_dir, make_finished_run(run_dir)


@pytest.fixture
def run_dir(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "a-run"))


def build(finished, run_dir: Path, **changes) -> Path:
    bundle_dir = run_dir / ".scratch" / "bundle"
    arguments = finished[1] | {"name": "ml-intern-a-run-20261120-2337", "host": "2 CPU cores"} | changes
    build_bundle(run_dir=run_dir, path_dir=run_dir / "path-a", bundle_dir=bundle_dir, **arguments)
    return bundle_dir


def test_bundle_holds_exactly_what_reproduces_the_model(finished, run_dir):
    bundle = build(finished, run_dir)
    assert {path.name for path in bundle.iterdir()} == EVERYTHING
    assert (bundle / "model.py").read_bytes() == (run_dir / "path-a" / "model.py").read_bytes()
    assert (bundle / "config.json").read_bytes() == (run_dir / "path-a" / "config.json").read_bytes()
    assert (bundle / "load_test.py").read_bytes() == resource("templates", "load_test.py").read_bytes()


def test_weights_are_those_of_the_best_checkpoint(finished, run_dir):
    better = run_dir / "path-a" / "ckpts" / "step-00000010"
    better.mkdir()
    (better / "model.safetensors").write_bytes(b"the best weights")
    (better.parent / "best.json").write_text('{"step": 10, "dir": "step-00000010", "eval_loss": 2.5}')
    bundle = build(finished, run_dir)
    assert (bundle / "model.safetensors").read_bytes() == b"the best weights"
    assert "| best_eval_loss | 2.5000 | eval.log |" in (bundle / "README.md").read_text()


def test_checksums_are_those_that_sha256sum_checks(finished, run_dir):
    bundle = build(finished, run_dir)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=bundle, capture_output=True, check=False).returncode == 0
    assert len((bundle / "SHA256SUMS").read_text().splitlines()) == len(EVERYTHING) - 1


def test_another_tokenizer_than_the_trained_one_is_not_published(finished, run_dir):
    file = run_dir / "data" / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(MlInternError, match="not the tokenizer that the model was trained with"):
        build(finished, run_dir)


def test_a_token_of_the_session_is_refused_whatever_it_looks_like(finished, run_dir):
    log = run_dir / "path-a" / "eval.log"
    log.write_text(log.read_text() + "opaquePrivateHubToken\n")
    with pytest.raises(Blocked, match=r"path-a/eval\.log:2"):
        build(finished, run_dir, secrets=("opaquePrivateHubToken",))


def test_debug_notes_are_published_when_there_are_any(finished, run_dir):
    (run_dir / "path-a" / "DEBUG.md").write_text("# Notes\n")
    assert {path.name for path in build(finished, run_dir).iterdir()} == EVERYTHING | {"DEBUG.md"}


def test_an_interrupted_bundle_is_replaced(finished, run_dir):
    (run_dir / ".scratch" / "bundle").mkdir(parents=True)
    (run_dir / ".scratch" / "bundle" / "half-written").write_text("")
    assert {path.name for path in build(finished, run_dir).iterdir()} == EVERYTHING


def load_card(bundle: Path):
    from huggingface_hub import ModelCard

    return ModelCard.load(bundle / "README.md")


def test_card_is_valid_for_the_hub_and_links_no_dataset_that_is_not_there(finished, run_dir):
    card = load_card(build(finished, run_dir))
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["ml-intern", "pretraining", "deepseek-v3"]
    assert card.data.license == "apache-2.0"
    assert card.data.datasets is None


@pytest.mark.parametrize(
    ("source", "revision", "linked"),
    [
        ("roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", ["roneneldan/TinyStories"]),
        ("data/my.txt", "ab" * 32, None),
    ],
)
def test_card_links_a_dataset_only_when_a_commit_of_the_hub_is_pinned(
    finished, run_dir, source, revision, linked
):
    manifest = finished[1]["manifest"].model_copy(update={"source": source, "revision": revision})
    card = load_card(build(finished, run_dir, manifest=manifest))
    assert card.data.datasets == linked


def test_card_gives_each_number_with_its_file_and_leaves_out_what_was_not_measured(finished, run_dir):
    results = finished[1]["results"]
    row = results.rows[0].model_copy(update={"tokens_per_s": None})
    card = (
        build(finished, run_dir, results=results.model_copy(update={"rows": (row,)})) / "README.md"
    ).read_text()
    assert "| final_eval_loss | 3.1400 | VERIFY.md |" in card
    assert "| init_loss | 4.9000 | train.log |" in card
    assert "| wall_clock_hours | 0.03 | metrics.jsonl |" in card
    assert "tokens_per_s" not in card
    assert "None" not in card.replace("None was kept", "")
    assert "- trained 20 of 25 steps\n" in card


def test_card_quotes_a_prompted_sample_verbatim_in_a_fence_that_holds_it(finished, run_dir):
    card = (build(finished, run_dir) / "README.md").read_text()
    assert "Prompt: `Once upon a time,`" in card
    assert "````text\nthere was ```a``` bird.\nIt sang.\n````\n" in card


def test_template_syntax_in_the_request_stays_text(finished, run_dir):
    task = finished[1]["task"].model_copy(update={"request": "train {{ 7 * 7 }} {% raw %} <b>models</b>"})
    card = (build(finished, run_dir, task=task) / "README.md").read_text()
    assert "> train {{ 7 * 7 }} {% raw %} <b>models</b>\n" in card


def test_front_matter_survives_awkward_names(finished, run_dir):
    plan = finished[1]["plan"].model_copy(update={"architecture": 'a: "b" #c'})
    text = (build(finished, run_dir, plan=plan) / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["tags"][-1] == 'a: "b" #c'


def test_credentials_refuse_the_publication_and_all_places_are_named(finished, run_dir):
    secret = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3b"
    (run_dir / "PLAN.md").write_text('# Plan\n\npassword = "swordfish"\n')
    with (run_dir / "path-a" / "train.log").open("a") as log:
        log.write(f"step=21 loss=1.0 {secret}\n")
    with pytest.raises(Blocked) as blocked:
        build(finished, run_dir)
    assert "PLAN.md:3 (quoted credential)" in blocked.value.why
    assert "path-a/train.log:21 (Hugging Face token)" in blocked.value.why
    assert secret not in str(blocked.value)
    assert "ml-intern publish a-run" in blocked.value.ways_on[0]
    assert not (run_dir / ".scratch" / "bundle").exists()


def test_no_text_names_the_home_or_the_run_directory(finished, run_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(run_dir.parent / "home"))
    (run_dir / "TASK.md").write_text(
        f"dataset: {Path.home()}/texts/my.txt\nhome: {Path.home()}\n{Path.home()}work\n"
    )
    (run_dir / "path-a" / "metrics.jsonl").write_text(
        json.dumps({"file": f"{run_dir}/path-a/train.log"}) + "\n"
    )
    bundle = build(finished, run_dir)
    assert (bundle / "TASK.md").read_text() == f"dataset: ~/texts/my.txt\nhome: ~\n{Path.home()}work\n"
    assert json.loads((bundle / "metrics.jsonl").read_text()) == {"file": "./path-a/train.log"}


@pytest.mark.parametrize(
    "name", ["path-a/train.log", "RESULTS.md", "data/tokenizer/tokenizer.json", "path-a/ckpts/best.json"]
)
def test_a_missing_file_is_named(finished, run_dir, name):
    (run_dir / name).unlink()
    with pytest.raises(MlInternError, match=f"{Path(name).name} is missing") as missing:
        build(finished, run_dir)
    assert missing.value.hint == "see which stage writes it: ml-intern status a-run"


def test_missing_weights_are_named(finished, run_dir):
    shutil.rmtree(run_dir / "path-a" / "ckpts" / "step-00000020")
    with pytest.raises(MlInternError, match=r"step-00000020/model\.safetensors is missing"):
        build(finished, run_dir)


def test_what_was_said_to_language_models_is_published_only_when_asked_for_and_scrubbed(finished, run_dir):
    (run_dir / "session.jsonl").write_text(
        '{"type": "user", "said": "use hf_' + "a1" * 17 + ' and s3cr3tword"}\n'
    )
    assert not (build(finished, run_dir) / "session.jsonl").exists()
    published = (
        build(finished, run_dir, with_session=True, secrets=("s3cr3tword",)) / "session.jsonl"
    ).read_text()
    assert "use" in published
    assert "hf_a1" not in published
    assert "s3cr3tword" not in published


@pytest.mark.parametrize(
    "name", ["train.log", "model.py", "metrics.jsonl", "SMOKE.md", "DEBUG.md", "ckpts/best.json", "ckpts"]
)
def test_nothing_is_published_that_a_link_of_the_path_leads_to(finished, run_dir, name):
    """A program could have put it there, and what it leads to is the user's."""
    place = run_dir / "path-a" / name
    outside = run_dir.parent / "outside"
    if place.exists():
        place.rename(outside)
    else:
        outside.write_text("the user's")
    place.symlink_to(outside)
    with pytest.raises(MlInternError, match="is a link or a pipe"):
        build(finished, run_dir)
    assert not (run_dir / ".scratch" / "bundle").exists()


def test_the_weights_are_no_link_either(finished, run_dir):
    weights = run_dir / "path-a" / "ckpts" / "step-00000020" / "model.safetensors"
    weights.rename(run_dir.parent / "outside")
    weights.symlink_to(run_dir.parent / "outside")
    with pytest.raises(MlInternError, match=r"step-00000020/model\.safetensors is a link"):
        build(finished, run_dir)


def test_a_pipe_does_not_hold_up_the_publication(finished, run_dir):
    (run_dir / "path-a" / "eval.log").unlink()
    os.mkfifo(run_dir / "path-a" / "eval.log")
    with pytest.raises(MlInternError, match=r"eval\.log is no plain file"):
        build(finished, run_dir)
