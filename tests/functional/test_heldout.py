"""The held-out split of a run is out of its programs' reach, from the first rehearsal to the last step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_intern_cli.executors.walls import Wall, standing_wall
from tests.small_runs import SLUG, edit, ml_intern

# What it opens, where it writes that down, and the training as always.
_PEEK = """
def _peek() -> None:
    seen = {}
    for shard in sorted(Path(RUN, "data").glob("heldout-*.bin")):
        try:
            seen[shard.name] = len(shard.read_bytes())
        except OSError as error:
            seen[shard.name] = type(error).__name__
    (HERE / "peek.json").write_text(json.dumps(seen))


_peek()


if __name__ == "__main__":"""


@pytest.mark.skipif(standing_wall() is not Wall.BUBBLEWRAP, reason="needs bubblewrap")
def test_a_training_that_opens_the_held_out_shards_finds_nothing(untrained: Path) -> None:
    program = untrained / "path-a" / "train.py"
    edit(program, r'^if __name__ == "__main__":', _PEEK.replace("RUN", repr(str(untrained))))
    shards = [file for file in (untrained / "data").glob("heldout-*.bin") if file.stat().st_size]

    answer = ml_intern("run", SLUG, runs_dir=untrained.parent)

    assert answer.code == 4, answer.err  # twelve steps teach too little for any verification
    seen = json.loads((untrained / "path-a" / "peek.json").read_text())
    assert seen.keys() == {file.name for file in shards}
    assert not any(seen.values()) or set(seen.values()) <= {"PermissionError"}
