from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_intern_cli.access import HubAccess
from ml_intern_cli.data import shards
from ml_intern_cli.data.corpus import TextSource
from ml_intern_cli.data.shards import check, load_manifest, read_split, write_shards
from ml_intern_cli.data.sources import open_source
from ml_intern_cli.data.stories import log_prob
from ml_intern_cli.data.tokenizers import fit_tokenizer
from ml_intern_cli.documents.manifest import Manifest, Split, TokenizerInfo
from ml_intern_cli.errors import InvalidInput, StorageFailed

OFFLINE = HubAccess(offline=True)


def quiet(_done: int, _total: int, _what: str) -> None:
    pass


def tokenizer_for(source: TextSource, data_dir: Path, vocab_size: int = 400) -> TokenizerInfo:
    return fit_tokenizer(source, data_dir, vocab_size=vocab_size, hub_id=None, hub=OFFLINE, progress=quiet)


def stories(seed: int = 0) -> TextSource:
    return open_source("builtin:stories", hub=OFFLINE, seed=seed, cwd=Path())


def prepare(data_dir: Path, **changes: int) -> Manifest:
    source = stories()
    sizes = {"train_tokens": 20_000, "eval_tokens": 2_000, **changes}
    return write_shards(source, data_dir, tokenizer=tokenizer_for(source, data_dir), progress=quiet, **sizes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare(data_dir)
    return data_dir


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "data")


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_tokenizer(prepared: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(prepared / "tokenizer"))
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_small_corpus_gives_a_smaller_vocabulary_than_asked(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("aa bb\n\ncc dd\n\nee ff\n\ngg hh\n\n" * 2, encoding="utf-8")
    source = open_source("small.txt", hub=OFFLINE, seed=0, cwd=tmp_path)
    info = tokenizer_for(source, tmp_path / "data", vocab_size=5_000)
    assert 257 <= info.vocab_size < 300


def test_a_vocabulary_below_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="256 bytes"):
        tokenizer_for(stories(), tmp_path, vocab_size=256)


def test_shards_hold_the_documents_with_the_end_of_text_after_each(data: Path) -> None:
    from transformers import AutoTokenizer

    manifest = load_manifest(data)
    tokenizer = AutoTokenizer.from_pretrained(str(data / "tokenizer"))
    for split, info in manifest.splits.items():
        ids = read_split(data, manifest, split)
        assert len(ids) == info.tokens >= (20_000 if split is Split.TRAIN else 2_000)
        assert ids[-1] == manifest.tokenizer.eos_token_id
        documents = tokenizer.decode(ids.tolist()).split(tokenizer.eos_token)
        assert len(documents) == info.documents + 1
        assert info.text_bytes == sum(len(text.encode()) for text in documents)
        assert documents[:-1] == [
            text for text, _ in zip(stories().documents(split), documents[:-1], strict=False)
        ]


def test_the_floor_is_the_entropy_of_the_validation_documents(data: Path) -> None:
    manifest = load_manifest(data)
    val = manifest.splits[Split.VAL]
    texts = [text for text, _ in zip(stories().documents(Split.VAL), range(val.documents), strict=False)]
    assert manifest.loss_floor == pytest.approx(-sum(map(log_prob, texts)) / val.tokens)
    assert 0 < manifest.loss_floor < manifest.unigram_loss
    assert manifest.unigram_loss < math.log(manifest.tokenizer.vocab_size)


def test_the_same_request_is_answered_from_what_is_there(data: Path) -> None:
    first = load_manifest(data)
    written = {path: path.stat().st_mtime_ns for path in data.glob("*.bin")}
    assert prepare(data) == first
    assert {path: path.stat().st_mtime_ns for path in data.glob("*.bin")} == written


def test_another_request_makes_the_data_anew(data: Path) -> None:
    first = load_manifest(data)
    again = prepare(data, train_tokens=5_000)
    assert again.splits[Split.TRAIN].tokens < first.splits[Split.TRAIN].tokens
    assert check(data) == again


def test_data_without_its_manifest_is_made_anew_and_the_same(data: Path) -> None:
    first = load_manifest(data)
    (data / "manifest.json").unlink()
    (data / "train-00000.bin").write_bytes(b"half")
    assert prepare(data) == first
    assert check(data) == first


def test_a_long_split_is_written_in_several_shards(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_manifest(data)
    monkeypatch.setattr(shards, "_SHARD_TOKENS", 6_000)
    parts = prepare(tmp_path)
    assert [shard.name for shard in parts.splits[Split.TRAIN].shards] == [
        f"train-0000{n}.bin" for n in range(4)
    ]
    one = read_split(data, whole, Split.TRAIN)
    many = read_split(tmp_path, parts, Split.TRAIN)
    assert one.tolist() == many.tolist()


def test_text_that_spells_the_end_of_text_token_stays_text(tmp_path: Path) -> None:
    rows = [{"text": f"{index} <|endoftext|> in the middle"} for index in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = open_source("rows.jsonl", hub=OFFLINE, seed=0, cwd=tmp_path)
    info = tokenizer_for(source, tmp_path)
    manifest = write_shards(
        source, tmp_path, tokenizer=info, train_tokens=10_000, eval_tokens=1_000, progress=quiet
    )
    ends = (read_split(tmp_path, manifest, Split.TRAIN) == info.eos_token_id).sum()
    assert ends == manifest.splits[Split.TRAIN].documents == 28
    assert manifest.loss_floor is None


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = stories()
    write_shards(
        source,
        tmp_path,
        tokenizer=tokenizer_for(source, tmp_path),
        train_tokens=20_000,
        eval_tokens=2_000,
        progress=lambda done, total, _what: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (24_000, 24_000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "val-00000.bin").unlink(), r"val-00000\.bin is missing"),
        (lambda data: (data / "train-00000.bin").write_bytes(b"xx"), r"train-00000\.bin is damaged"),
        (
            lambda data: (data / "tokenizer" / "tokenizer.json").write_text("{}"),
            r"tokenizer\.json is damaged",
        ),
        (lambda data: (data / "manifest.json").write_text("{}"), r"manifest\.json is damaged: source"),
        (lambda data: (data / "manifest.json").unlink(), r"manifest\.json cannot be read"),
    ],
)
def test_damage_is_named_with_the_way_out(data: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(data)
    with pytest.raises(InvalidInput, match=message) as caught:
        check(data)
    assert "delete the run's data/" in str(caught.value.hint)


def test_a_full_disk_is_a_storage_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_write_aside", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        prepare(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
