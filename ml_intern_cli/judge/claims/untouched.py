"""The data are as they were made; programs and settings are those that were trained with."""

from __future__ import annotations

from ml_intern_cli.documents.layout import CONFIG, EVAL_PY, MANIFEST, MODEL_PY, TRAIN_CONFIG, TRAIN_PY
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.corpus import file_sha256
from ml_intern_cli.judge.probe import Category, Measurement, Probe

_OF_SHA256 = 64  # hexadecimal digits


def _data_untouched(bench: ClaimBench) -> Measurement:
    corpus, allowed = bench.corpus, "manifest, tokenizer and shards as they were made"
    known = bench.before.get(MANIFEST)
    if known is not None and file_sha256(corpus.directory / "manifest.json") != known:
        return _changed(MANIFEST, "is not the one that training was planned with", allowed)
    recorded = corpus.manifest.tokenizer.sha256
    tokenizer = corpus.directory / "tokenizer" / "tokenizer.json"
    if len(recorded) == _OF_SHA256 and file_sha256(tokenizer) != recorded:
        return _changed("data/tokenizer/tokenizer.json", "is not what the manifest recorded", allowed)
    for name in corpus.damaged_files(*Split):
        return _changed(f"data/{name}", "is not what the manifest recorded", allowed)
    count = sum(len(corpus.manifest.splits[split].shards) for split in Split)
    told = "manifest known from before" if known else "by the manifest's own word"
    return Measurement(passed=True, measured=f"{count} shards unchanged, {told}", allowed=allowed)


def _programs_untouched(bench: ClaimBench) -> Measurement:
    return _as_trained(bench, (MODEL_PY, TRAIN_PY, EVAL_PY, TRAIN_CONFIG), "the programs that trained")


def _config_untouched(bench: ClaimBench) -> Measurement:
    return _as_trained(bench, (CONFIG,), "the configuration that was trained")


def _as_trained(bench: ClaimBench, names: tuple[str, ...], allowed: str) -> Measurement:
    known = [name for name in names if name in bench.before]
    for name in known:
        file = bench.artifact.directory / name
        if not file.is_file():
            return _changed(name, "was there when training began, and is gone", allowed)
        if file_sha256(file) != bench.before[name]:
            return _changed(name, "is not the one that training began with", allowed)
    measured = f"{', '.join(known)} unchanged" if known else "no hash from before is known"
    return Measurement(passed=True, measured=measured, allowed=allowed)


def _changed(component: str, told: str, allowed: str) -> Measurement:
    return Measurement(
        passed=False, measured="changed", allowed=allowed, component=component, detail=f"{component} {told}"
    )


DATA_UNTOUCHED = Probe(
    name="data-untouched",
    category=Category.REPORTING,
    meaning="manifest, tokenizer and shards are those that were there before training",
    threshold="every SHA-256 equal",
    threshold_source="hashes taken when the data were made, before any of the author's programs ran",
    usual_causes=("a shard was overwritten", "data/ was edited between two stages"),
    run=_data_untouched,
)

PROGRAMS_UNTOUCHED = Probe(
    name="programs-untouched",
    category=Category.REPORTING,
    meaning="model.py, train.py, eval.py and train_config.json are those that training began with",
    threshold="every SHA-256 equal",
    threshold_source="hashes that the run took before it started train.py, in the receipt of the stage",
    usual_causes=("a program rewrote itself or another while it ran", "a file was edited after training"),
    run=_programs_untouched,
)

CONFIG_UNTOUCHED = Probe(
    name="config-untouched",
    category=Category.ARTIFACT,
    meaning="config.json is the one that the weights were trained with",
    threshold="the SHA-256 equal",
    threshold_source="the hash that the run took before it started train.py, in the receipt of the stage",
    usual_causes=("config.json was written anew from defaults", "a conversion dropped or renamed a setting"),
    run=_config_untouched,
)
