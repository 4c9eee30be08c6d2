"""The results as Markdown: the figures that count first, every miss by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.defects.case import Family, Half
from benchmarks.defects.harm import Spread, harm_of, spreads
from benchmarks.defects.reading import finding, has_right_category, names_right_component
from benchmarks.defects.registry import DEFECTS, PROGRAMS
from benchmarks.defects.statistics import Share

Row = Mapping[str, Any]
_DEFECTS = {defect.name: defect for defect in DEFECTS}
_BEFORE_TRAINING = (Family.MODEL, Family.TRAINING)  # what smoke is there for


def render(rows: Sequence[Row], *, healthy: Mapping[str, Spread] | None = None) -> str:
    """All tables of these rows. Rows of changes that no longer exist are left out.

    Args:
        rows: Of results.jsonl.
        healthy: Program → scores of healthy seeds, where they are not among the rows.
    """
    healthy = spreads(rows) if healthy is None else healthy
    known = {program.name for program in PROGRAMS}
    planted = [
        row for row in rows if row["is_defect"] and row["change"] in _DEFECTS and row["program"] in known
    ]
    clean = [row for row in rows if not row["is_defect"] and row["program"] in known]
    harms = {row["case"]: harm_of(row, healthy.get(row["program"])) for row in planted}
    real = [row for row in planted if harms[row["case"]]]
    inert = [row for row in planted if not harms[row["case"]]]
    judged = [row for row in real if "smoke" in row]
    judged_clean = [row for row in clean if "smoke" in row]
    sections = [
        _counts(planted, real, inert, clean),
        _by_half(judged, judged_clean),
        _by_family(judged),
        _by_program(judged, judged_clean),
        _seconds([*judged, *judged_clean]),
        _baselines(judged, judged_clean),
        _alarms(judged_clean),
        _misses(judged, harms),
        _wrong_names(judged),
        _inert(inert),
        _alternates(),
        _harms(planted, harms),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _counts(planted: list[Row], real: list[Row], inert: list[Row], clean: list[Row]) -> str:
    distinct = {row["change"] for row in real}
    ported = {_DEFECTS[name].traincheck for name in distinct} - {""}
    return (
        f"{len(distinct)} distinct defects in {len(real)} cases ({len(inert)} of {len(planted)} cases inert, "
        f"left out), {len(clean)} clean runs, "
        f"{len({row['program'] for row in [*planted, *clean]})} programs; "
        f"{len(ported)} of TrainCheck's errors are ported."
    )


def _by_half(rows: list[Row], clean: list[Row]) -> str:
    lines = []
    for half in (Half.REPORT, Half.CALIBRATION):
        mine = [row for row in rows if row["half"] == half]
        healthy = [row for row in clean if row["half"] == half]
        early = [row for row in mine if _DEFECTS[row["change"]].family in _BEFORE_TRAINING]
        lines.append(
            [
                f"**{half}**" if half is Half.REPORT else str(half),
                *_figures(mine),
                str(Share.of(finding(row).stage == "smoke" for row in early)),
                str(Share.of(finding(row).is_alarm for row in healthy)),
            ]
        )
    head = [
        "half",
        "detected",
        "right category",
        "right component",
        "in smoke (model, training)",
        "false alarms",
    ]
    return "### Halves\n\n" + _table(head, lines)


def _figures(rows: Iterable[Row]) -> list[str]:
    cases = list(rows)
    return [
        str(Share.of(finding(row).is_alarm for row in cases)),
        str(Share.of(has_right_category(row, _DEFECTS[row["change"]]) for row in cases)),
        str(Share.of(names_right_component(row, _DEFECTS[row["change"]]) for row in cases)),
    ]


def _by_family(rows: list[Row]) -> str:
    lines = []
    for half in (Half.REPORT, Half.CALIBRATION):
        for family in Family:
            mine = [row for row in rows if _DEFECTS[row["change"]].family is family and row["half"] == half]
            if mine:
                smoke = Share.of(finding(row).stage == "smoke" for row in mine)
                defects = len({row["change"] for row in mine})
                lines.append([str(half), str(family), str(defects), *_figures(mine), str(smoke)])
    head = ["half", "family", "defects", "detected", "right category", "right component", "in smoke"]
    return "### Families\n\n" + _table(head, lines)


def _by_program(rows: list[Row], clean: list[Row]) -> str:
    lines = []
    for program in PROGRAMS:
        mine = [row for row in rows if row["program"] == program.name]
        healthy = [row for row in clean if row["program"] == program.name]
        if mine or healthy:
            alarms = Share.of(finding(row).is_alarm for row in healthy)
            lines.append([program.name, str(program.half), program.what, *_figures(mine), str(alarms)])
    head = ["program", "half", "what", "detected", "right category", "right component", "false alarms"]
    return "### Programs\n\n" + _table(head, lines)


def _seconds(rows: list[Row]) -> str:
    lines = []
    for stage in ("smoke", "verify"):
        values = sorted(row[stage]["seconds"] for row in rows if stage in row)
        if values:
            at_90 = values[int(0.9 * (len(values) - 1))]
            lines.append(
                [stage, f"{mean(values):.1f}", f"{at_90:.1f}", f"{values[-1]:.1f}", str(len(values))]
            )
    trained = sorted(row["train"]["seconds"] for row in rows if row["train"]["ended"])
    if trained:
        at_90 = trained[int(0.9 * (len(trained) - 1))]
        lines.append(
            ["(training)", f"{mean(trained):.1f}", f"{at_90:.1f}", f"{trained[-1]:.1f}", str(len(trained))]
        )
    head = ["seconds, one thread", "mean", "90 %", "most", "runs"]
    return "### Seconds\n\n" + _table(head, lines) if lines else ""


def _baselines(rows: list[Row], clean: list[Row]) -> str:
    names = sorted({name for row in [*rows, *clean] for name in row.get("baselines", {})})
    if not names:
        return ""
    lines = []
    for half in (Half.REPORT, Half.CALIBRATION):
        mine = [row for row in rows if row["half"] == half]
        healthy = [row for row in clean if row["half"] == half]
        lines.append([str(half), "the judge", *_figures(mine)[:2],
                      str(Share.of(finding(row).is_alarm for row in healthy))])  # fmt: skip
        for name in names:
            told = [row for row in mine if name in row.get("baselines", {})]
            quiet = [row for row in healthy if name in row.get("baselines", {})]
            found = Share.of(bool(row["baselines"][name]["alarms"]) for row in told)
            right = Share.of(_is_right(row, name) for row in told)
            wrong = Share.of(bool(row["baselines"][name]["alarms"]) for row in quiet)
            lines.append([str(half), name, str(found), str(right), str(wrong)])
    head = ["half", "who", "detected", "right category", "false alarms"]
    return "### Against others, on the same cases\n\n" + _table(head, lines)


def _is_right(row: Row, name: str) -> bool:
    categories = row["baselines"][name]["categories"]
    defect = _DEFECTS[row["change"]]
    return bool(categories) and categories[0] in {str(defect.family), *map(str, defect.also)}


def _alarms(clean: list[Row]) -> str:
    lines = [
        [row["case"], str(row["half"]), finding(row).stage, finding(row).name, _told(row)]
        for row in clean
        if finding(row).is_alarm
    ]
    head = ["clean run", "half", "stage", "probe", "told"]
    return "### False alarms\n\n" + (_table(head, lines) if lines else "None.")


def _misses(rows: list[Row], harms: Mapping[str, str]) -> str:
    lines = [
        [row["case"], str(row["half"]), _DEFECTS[row["change"]].what, harms[row["case"]]]
        for row in rows
        if not finding(row).is_alarm
    ]
    head = ["missed", "half", "what is wrong", "what it does"]
    return "### Misses\n\n" + (_table(head, lines) if lines else "None.")


def _wrong_names(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        defect, found = _DEFECTS[row["change"]], finding(row)
        right = has_right_category(row, defect), names_right_component(row, defect)
        if found.is_alarm and not all(right):
            said = f"{found.name} ({found.category or '–'}): {found.component or '–'}"
            wanted = f"{defect.family}: {', '.join(defect.component) or 'the lines'}"
            lines.append([row["case"], "category" if not right[0] else "component", said, wanted])
    head = ["detected, not named", "wrong", "said", "right"]
    return "### Detected, wrongly named\n\n" + (_table(head, lines) if lines else "None.")


def _alternates() -> str:
    lines = [
        [defect.name, str(defect.family), ", ".join(map(str, defect.also))]
        for defect in DEFECTS
        if defect.also
    ]
    head = ["defect", "family", "as right"]
    return "### Defects that live in two families\n\n" + _table(head, lines)


def _inert(rows: list[Row]) -> str:
    by_defect: dict[str, list[Row]] = {}
    for row in rows:
        by_defect.setdefault(row["change"], []).append(row)
    lines = [
        [name, _DEFECTS[name].what, ", ".join(f"{row['program']} {_score(row)}" for row in group)]
        for name, group in sorted(by_defect.items())
    ]
    head = ["inert", "what", "held-out score"]
    return "### Inert: neither a worse score nor a false claim\n\n" + (
        _table(head, lines) if lines else "None."
    )


def _harms(rows: list[Row], harms: Mapping[str, str]) -> str:
    lines = []
    for name in sorted({row["change"] for row in rows}):
        mine = [row for row in rows if row["change"] == name]
        real = [row for row in mine if harms[row["case"]]]
        found = Counter(finding(row).name for row in real if "smoke" in row)
        defect = _DEFECTS[name]
        lines.append(
            [
                name,
                str(defect.family),
                defect.what,
                f"{len(real)} of {len(mine)}",
                harms[real[0]["case"]] if real else "–",
                ", ".join(f"{probe or 'nothing'} {count}" for probe, count in found.most_common()),
                defect.source,
            ]
        )
    head = ["defect", "family", "what", "harm in", "for example", "first failure", "source"]
    return "### Every defect\n\n" + _table(head, lines) if lines else ""


def _told(row: Row) -> str:
    for stage in ("smoke", "verify"):
        failures = row.get(stage, {}).get("failures", [])
        if failures:
            return f"{failures[0]['component']} {failures[0]['told']}".strip()[:300]
    return str(row["train"]["tail"])[-200:]


def _score(row: Row) -> str:
    return "none" if row["score"] is None else f"{row['score']:.3f}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    def cells(values: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(value.split()).replace("|", r"\|") for value in values) + " |"

    return "\n".join([cells(head), f"|{'---|' * len(head)}", *map(cells, lines)])
