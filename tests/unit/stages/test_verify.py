"""What the verification is told of the time before: receipts and events, whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.stages.verify import known_from_outside

SHA256 = "0123456789abcdef" * 4


def told(root: Path, inputs: Any) -> list[str]:
    (root / ".receipts").mkdir(exist_ok=True)
    (root / ".receipts" / "train.a.json").write_text(json.dumps({"inputs": inputs}))
    return known_from_outside(RunLayout(root), "a")


def test_hashes_from_before_training_go_to_the_judge_by_the_names_that_it_knows(tmp_path: Path) -> None:
    inputs = {name: {"sha256": SHA256} for name in ("data/manifest.json", "path-a/eval.py")}

    assert told(tmp_path, inputs) == [
        "--sha256", f"data/manifest.json={SHA256}", "--sha256", f"eval.py={SHA256}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "inputs", [None, [], "x", {"path-a/eval.py": 5}, {"path-a/eval.py": {"sha256": 5}},
               {"path-a/eval.py": {"sha256": "x"}}, {"path-a/eval.py": {}}],
)  # fmt: skip
def test_a_spoilt_receipt_is_as_good_as_none(tmp_path: Path, inputs: Any) -> None:
    assert told(tmp_path, inputs) == []


def test_what_leads_out_of_the_run_has_no_hash_of_its_content(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "path-a").mkdir(parents=True)
    (tmp_path / "elsewhere.py").write_text("")
    (root / "path-a" / "eval.py").symlink_to(tmp_path / "elsewhere.py")

    assert told(root, {"path-a/eval.py": {"sha256": SHA256}}) == []


def test_seconds_of_training_are_those_that_were_counted(tmp_path: Path) -> None:
    rows = [
        {"event_type": "spend", "data": {"path": path, "what": what, "seconds": seconds}}
        for path, what, seconds in (
            ("a", "training", 40), ("a", "smoke", 9), ("b", "training", 7), ("a", "training", 2.5),
        )
    ]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    assert told(tmp_path, {}) == ["--train-s", "42.5"]
