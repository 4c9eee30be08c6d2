from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.data.corpus import TextSource
from ml_intern_cli.data.sources import default_dataset, open_source
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import Blocked, InvalidInput

OFFLINE = HubAccess(offline=True)
TEXTS = [f"Document number {index} says nothing but {index * 7919}." for index in range(40)]


def open_local(spec: str, cwd: Path, column: str | None = None) -> TextSource:
    return open_source(spec, column=column, hub=OFFLINE, seed=0, cwd=cwd)


def splits(source: TextSource) -> dict[Split, list[str]]:
    return {split: list(source.documents(split)) for split in Split}


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_row_of_a_table_is_in_exactly_one_split(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"rows{suffix}", [{"id": index, "text": text} for index, text in enumerate(TEXTS)])
    source = open_local(f"rows{suffix}", tmp_path)
    parts = splits(source)
    assert sorted(text for part in parts.values() for text in part) == sorted(TEXTS)
    assert len(parts[Split.VAL]) == len(parts[Split.HELDOUT]) == 2
    assert source.column == "text"


def test_a_plain_text_is_cut_without_losing_a_word(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {index}.\n" + f"It has a number, {index}.\n" * 20 for index in range(300)]
    (tmp_path / "book.txt").write_text("\n".join(paragraphs), encoding="utf-8")
    source = open_local("book.txt", tmp_path)
    parts = splits(source)
    documents = [text for part in parts.values() for text in part]
    words = "\n".join(paragraphs).split()
    assert sorted(word for text in documents for word in text.split()) == sorted(words)
    assert all(text.startswith("Paragraph") for text in documents)
    assert 2_000 <= max(map(len, documents)) < 4_000
    assert parts[Split.VAL]
    assert parts[Split.HELDOUT]


@pytest.mark.parametrize(
    "text",
    [
        "one line that goes on and on " * 300,
        "line\nby\nline\n" * 500,
        "".join(f"a😀{index}" for index in range(4_000)),
        "\n\n\nabc\n\n\ndef\n\nghi",
    ],
)
def test_text_without_blank_lines_is_cut_all_the_same(tmp_path: Path, text: str) -> None:
    unique = (
        "".join(f"{piece}{index}\n" for index, piece in enumerate(text.split("\n"))) if "\n" in text else text
    )
    (tmp_path / "odd.txt").write_text(f"{unique} the end", encoding="utf-8")
    assert all(splits(open_local("odd.txt", tmp_path)).values())


def test_text_longer_than_a_block_is_cut_into_the_same_words(tmp_path: Path) -> None:
    words = [f"wörd{index}" for index in range(250_000)]
    (tmp_path / "long.txt").write_text(" ".join(words), encoding="utf-8")
    parts = splits(open_local("long.txt", tmp_path))
    assert sorted(word for part in parts.values() for text in part for word in text.split()) == sorted(words)


def test_equal_documents_share_a_split(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.jsonl", [{"text": text} for text in TEXTS * 3])
    parts = splits(open_local("rows.jsonl", tmp_path))
    assert sum(map(len, parts.values())) == 3 * len(TEXTS)
    assert sum(len(set(part)) for part in parts.values()) == len(TEXTS)


def test_many_documents_are_split_by_their_hash(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.jsonl", [{"text": f"{text} {n}"} for text in TEXTS for n in range(50)])
    parts = splits(open_local("rows.jsonl", tmp_path))
    assert sum(map(len, parts.values())) == 2_000
    assert 60 < len(parts[Split.VAL]) < 140
    assert 60 < len(parts[Split.HELDOUT]) < 140


def test_a_directory_is_all_its_readable_files(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    write_table(folder / "a.jsonl", [{"text": text} for text in TEXTS[:20]])
    write_table(folder / "deep" / "b.csv", [{"text": text} for text in TEXTS[20:]])
    (folder / "README.md").write_text("not data", encoding="utf-8")
    parts = splits(open_local("corpus", tmp_path))
    assert sorted(text for part in parts.values() for text in part) == sorted(TEXTS)


def test_the_revision_follows_the_content(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.jsonl", [{"text": text} for text in TEXTS])
    before = open_local("rows.jsonl", tmp_path).revision
    assert open_local("rows.jsonl", tmp_path).revision == before
    write_table(tmp_path / "rows.jsonl", [{"text": text} for text in TEXTS[1:]])
    assert open_local("rows.jsonl", tmp_path).revision != before


def test_the_only_text_column_is_taken(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.jsonl", [{"n": index, "prose": text} for index, text in enumerate(TEXTS)])
    assert open_local("rows.jsonl", tmp_path).column == "prose"


def test_of_several_text_columns_the_user_chooses(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.jsonl", [{"front": text, "back": text[::-1]} for text in TEXTS])
    with pytest.raises(Blocked, match="front, back") as caught:
        open_local("rows.jsonl", tmp_path)
    assert any("--dataset-column NAME" in way for way in caught.value.ways_on)
    assert open_local("rows.jsonl", tmp_path, column="back").column == "back"
    with pytest.raises(InvalidInput, match="no column 'side'; it has front, back"):
        open_local("rows.jsonl", tmp_path, column="side")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n \n", "is empty"),
        ("binary.txt", b"abc\0def", "binary .a zero at byte 3"),
        ("latin.txt", "naïve".encode("latin-1"), "not UTF-8: .* at byte 2"),
        ("cut.txt", "abc é".encode()[:-1], "not UTF-8: .* at byte 4"),
        ("deep.txt", b"a" * ((1 << 20) - 1) + "é".encode()[:1] + b"b", "not UTF-8: .* at byte 1048575"),
        ("latin.csv", "text\nnaïve\n".encode("latin-1"), "not UTF-8: .* at byte 7"),
        ("short.txt", b"x", "1 different document"),
        ("image.png", b"\x89PNG", "unknown kind of file; known are .txt"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "cannot be read as a table"),
        ("broken.parquet", b"PAR1 but no more", "cannot be read as a table"),
        ("null.jsonl", b'{"text": null}\n' * 5, "holds no text"),
        ("header.csv", b"text\n", "no rows|cannot be read"),
    ],
)
def test_unusable_files_are_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        open_local(name, tmp_path)
    assert name in caught.value.message
    assert caught.value.hint


def test_a_directory_without_readable_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InvalidInput, match=r"photos has no \.txt"):
        open_local("photos", tmp_path)


@pytest.mark.parametrize(
    "spec", ["missing.txt", "./missing", "/nowhere/at/all", "data/set.jsonl", "a b", "~/none"]
)
def test_a_missing_file_blocks_and_is_never_replaced(tmp_path: Path, spec: str) -> None:
    with pytest.raises(Blocked, match="does not exist") as caught:
        open_local(spec, tmp_path)
    assert any("--dataset" in way for way in caught.value.ways_on)


def test_an_unknown_builtin_corpus_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="builtin:poems"):
        open_local("builtin:poems", tmp_path)


def test_builtin_stories_share_no_document_between_splits(tmp_path: Path) -> None:
    source = open_local("builtin:stories", tmp_path)
    parts = {split: set(islice(source.documents(split), 100)) for split in Split}
    assert len(set.union(*parts.values())) == 300
    assert all(source.log_prob(text) is not None for text in parts[Split.VAL])


def test_without_a_hub_the_default_is_the_builtin_corpus_with_the_reason(tmp_path: Path) -> None:
    assert default_dataset(OFFLINE) == (
        "builtin:stories",
        "no dataset named; the Hub is switched off (HF_HUB_OFFLINE)",
    )
    assert open_source(None, hub=OFFLINE, seed=3, cwd=tmp_path).id == "builtin:stories"
