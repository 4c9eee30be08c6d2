"""What is counted as spent, whatever stands in the log beside it."""

from __future__ import annotations

import json
from pathlib import Path

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.runs.events import record, spent_s


def test_rows_that_no_program_wrote_neither_count_nor_stop_the_counting(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    record(layout, "spend", path="a", seconds=2.0, what="training")
    with layout.events.open("a") as log:
        for data in (None, [], {"seconds": "x"}, {"seconds": -5}, {"path": ["a"], "seconds": 1}):
            log.write(json.dumps({"event_type": "spend", "data": data}) + "\n")
        log.write('{"event_type": "spend", "data": {"seconds": NaN}}\nno json\n')
    record(layout, "spend", path=None, seconds=3.0, what="calibration")
    assert spent_s(layout) == {"a": 2.0, None: 3.0}
