"""events.jsonl: what happened, one row per event, appended as it happens."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.runs.files import append_line, read_rows


def record(layout: RunLayout, event_type: str, **data: Any) -> None:
    """Append one row ``{timestamp, event_type, data}``."""
    row = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event_type": event_type,
        "data": data,
    }
    append_line(layout.events, json.dumps(row, ensure_ascii=False))


def spent_s(layout: RunLayout) -> dict[str | None, float]:
    """Seconds of compute by path; ``None`` holds what belongs to no path."""
    totals: dict[str | None, float] = {}
    for row in read_rows(layout.events):
        data = row.get("data")
        if row.get("event_type") != "spend" or not isinstance(data, dict):
            continue
        path_id, seconds = data.get("path"), data.get("seconds")
        # What somebody else wrote there neither counts nor stops the counting.
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            continue
        if path_id is None or isinstance(path_id, str):
            totals[path_id] = totals.get(path_id, 0.0) + seconds
    return totals
