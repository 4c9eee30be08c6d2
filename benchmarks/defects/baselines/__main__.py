"""All baselines on one run: ``python -m benchmarks.defects.baselines PATH DATA TARGET PLANNED OUT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.defects.baselines.monitors import loss_monitor, umlaut
from benchmarks.defects.baselines.run_folder import Alarm, Run
from benchmarks.defects.baselines.seed_checks import seed_checks

BASELINES = {"the seed's six checks": seed_checks, "loss monitor": loss_monitor, "UMLAUT's rules": umlaut}


def main() -> None:
    """Writes what each objects to."""
    path, data, target, planned, out = sys.argv[1:]
    run = Run(Path(path), Path(data), int(target), int(planned))
    answer = {}
    for name, baseline in BASELINES.items():
        alarms: list[Alarm] = list(baseline(run))
        answer[name] = {
            "alarms": [alarm.told for alarm in alarms],
            "categories": [alarm.category for alarm in alarms],
        }
    Path(out).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
