"""``python -m benchmarks.defects``: runs what has not been run, then writes and prints the tables."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.defects.case import Case
from benchmarks.defects.harm import spreads
from benchmarks.defects.processes import REPOSITORY, end_all
from benchmarks.defects.reading import finding
from benchmarks.defects.registry import CLEAN, DEFECTS, HAS_TABLES, PROGRAMS, cases
from benchmarks.defects.runner import Workplace, run_case, train_sound
from benchmarks.defects.tables import render

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark. Exit code 1: a case broke, or a fast one was misjudged; 2: bad arguments."""
    arguments = _parser().parse_args(argv)
    names = {program.name for program in PROGRAMS}
    changes = {change.name for change in (*DEFECTS, *CLEAN)} | {str(defect.family) for defect in DEFECTS}
    unknown = (set(arguments.programs) - names) | (set(arguments.changes) - changes - {"clean"})
    if unknown:
        known = f"programs: {', '.join(sorted(names))}\nchanges: {', '.join(sorted(changes))}"
        sys.stderr.write(f"unknown: {', '.join(sorted(unknown))}\n{known}\n")
        return 2
    if not HAS_TABLES:
        sys.stderr.write("without the classifiers and regressors: pip install -e '.[bench]'\n")
    place = Workplace(arguments.out.resolve(), traincheck=arguments.traincheck)
    place.out.mkdir(parents=True, exist_ok=True)
    log = place.out / "results.jsonl"
    wanted = cases(
        programs=arguments.programs,
        changes=arguments.changes,
        half=arguments.half,
        fast=arguments.fast,
        most=arguments.most,
    )
    if arguments.list:
        print("\n".join(case.id for case in wanted))
        return 0
    broken = 0
    if not arguments.table:
        lock = FileLock(place.out / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            sys.stderr.write(
                f"another benchmark works in {place.out}; give this one another with --out DIR\n"
            )
            return 2
        with lock:
            broken = _run(
                wanted,
                place,
                log,
                jobs=arguments.jobs,
                judged=not arguments.no_judge,
                compared=not (arguments.no_baselines or arguments.no_judge),
            )
    ids = {case.id for case in wanted}
    every = list(read_rows(log).values())
    rows = [row for row in every if row["case"] in ids]
    if not rows:
        sys.stderr.write(f"no results in {log}; run: python -m benchmarks.defects\n")
        return 2
    text = render(rows, healthy=spreads(every))
    (place.out / "tables.md").write_text(text, encoding="utf-8")
    print(text)
    sys.stderr.write(f"{place.out / 'tables.md'}\n")
    if arguments.docs:
        put_tables(arguments.docs, text)
    wrong = misjudged(rows) if arguments.fast and not arguments.no_judge else []
    for case in wrong:
        sys.stderr.write(f"misjudged: {case}\n")
    return 1 if broken or wrong else 0


def misjudged(rows: list[dict[str, Any]]) -> list[str]:
    """Defects that nothing objects to, and clean runs that something does."""
    return [row["case"] for row in rows if "smoke" in row and finding(row).is_alarm != row["is_defect"]]


def put_tables(page: Path, text: str) -> None:
    """Puts the tables between the two markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def read_rows(log: Path) -> dict[str, dict[str, Any]]:
    """The latest row of every case; a line that a kill cut short is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            row = json.loads(line)
            rows[row["case"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def _run(wanted: list[Case], place: Workplace, log: Path, *, jobs: int, judged: bool, compared: bool) -> int:
    """Runs the cases side by side, each row on disk as soon as it is there. Returns how many broke."""
    signal.signal(signal.SIGTERM, _interrupt)
    known = {case: row["key"] for case, row in read_rows(log).items()}
    programs = {case.program.name: case.program for case in wanted}
    started, done, broken = time.monotonic(), 0, 0
    with ThreadPoolExecutor(jobs) as pool, log.open("a", encoding="utf-8") as file:
        try:
            list(pool.map(lambda program: train_sound(program, place), programs.values()))
            pending = {
                pool.submit(run_case, case, place, known=known, judged=judged, compared=compared): case
                for case in wanted
            }
            for future in as_completed(pending):
                done += 1
                try:
                    row = future.result()
                except Exception as error:  # noqa: BLE001, one broken case must not end hours of others
                    broken += 1
                    sys.stderr.write(f"{pending[future].id}: broken: {error!r}\n")
                    continue
                if row is None:
                    continue
                file.write(json.dumps(row) + "\n")
                file.flush()
                left_s = (time.monotonic() - started) / done * (len(wanted) - done)
                sys.stderr.write(f"{done}/{len(wanted)} {_line(row)} · {left_s / 60:.0f} min left\n")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return broken


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _line(row: dict[str, Any]) -> str:
    """A row in a few words."""
    found = [
        f"{stage}: {', '.join(failure['name'] for failure in row[stage]['failures'][:4])}"
        for stage in ("smoke", "verify")
        if row.get(stage, {}).get("failures")
    ]
    if not row["train"]["ended"]:
        found.append(f"train: code {row['train']['code']}")
    score = "none" if row["score"] is None else f"{row['score']:.3f}"
    return f"{row['case']} · {'; '.join(found) or 'passed'} · score {score} · {row['seconds']:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defects", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "defects", help="where it works")
    parser.add_argument("--jobs", type=int, default=2, help="cases side by side, one thread each")
    parser.add_argument("--fast", action="store_true", help="the subset for CI: five minutes")
    parser.add_argument("--programs", nargs="+", default=[], metavar="NAME")
    parser.add_argument(
        "--defects", "--changes", dest="changes", nargs="+", default=[], metavar="NAME",
        help="defects, clean variations, families, or the word clean",
    )  # fmt: skip
    parser.add_argument("--most", type=int, metavar="N", help="programs per defect, from the halves in turn")
    parser.add_argument("--half", choices=("calibration", "report"), default="")
    parser.add_argument("--table", action="store_true", help="only render what is there")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the tables into this page too")
    parser.add_argument(
        "--no-baselines", action="store_true", help="leave out what the judge is compared with"
    )
    parser.add_argument(
        "--traincheck", default="", metavar="PYTHON", help="compare with it too, run by this interpreter"
    )
    parser.add_argument("--no-judge", action="store_true", help="only train and score: the harm check")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
        sys.exit(130)
