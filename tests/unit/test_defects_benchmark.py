"""The benchmark of planted defects: its arithmetic, its reading of verdicts, and that every edit fits."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.defects import registry
from benchmarks.defects.__main__ import misjudged
from benchmarks.defects.case import Family, Folder, Half, Unfit, copy_folder, enclosing
from benchmarks.defects.easy_stories import EasyStories
from benchmarks.defects.families.shards import read_ids
from benchmarks.defects.harm import Spread, harm_of, spreads
from benchmarks.defects.language import PROGRAMS, build_stories
from benchmarks.defects.reading import finding, has_right_category, is_named
from benchmarks.defects.runner import Workplace
from benchmarks.defects.statistics import Share
from benchmarks.defects.tables import render
from ml_intern_cli.documents.manifest import Split

LANGUAGE = [program.name for program in PROGRAMS]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("stories")
    build_stories(data)
    return data


# --- what is planted


def test_there_are_sixty_distinct_defects_of_language_models_and_more():
    names = [defect.name for defect in registry.DEFECTS]
    assert len(set(names)) == len(names)
    mine = [defect for defect in registry.DEFECTS if set(defect.programs) & set(LANGUAGE)]
    assert len(mine) >= 60
    assert {defect.family for defect in mine} >= set(Family) - {Family.DISTRIBUTED}


def test_every_defect_says_where_it_is_from_and_what_may_be_named():
    for defect in registry.DEFECTS:
        assert defect.source, defect.name
        assert defect.what, defect.name
        assert defect.component or defect.edits, defect.name


def test_names_of_programs_in_defects_and_variations_exist():
    known = {program.name for program in registry.PROGRAMS}
    for change in (*registry.DEFECTS, *registry.CLEAN):
        assert set(change.programs) <= known, change.name


def test_both_halves_have_each_architecture_and_mixtures():
    for half in Half:
        names = [program.name for program in PROGRAMS if program.half is half]
        assert {name.removesuffix("_moe") for name in names} == {"gpt2", "llama", "mla"}
        assert any(name.endswith("_moe") for name in names)


@pytest.mark.parametrize(
    "name", [name if name == "llama" else pytest.param(name, marks=pytest.mark.slow) for name in LANGUAGE]
)
def test_every_change_of_a_program_fits_and_compiles(name: str, stories: Path, tmp_path: Path):
    program = next(program for program in PROGRAMS if program.name == name)
    healthy = Workplace(tmp_path / "out").healthy(program)
    for case in registry.cases(programs=[name]):
        folder = Folder(tmp_path / "run", name)
        copy_folder(healthy, folder.path)
        if case.change.before and not case.change.edits:
            copy_folder(stories, folder.data)
        case.change.plant(folder)
        edited = {file for file, _, _ in folder.spans}
        for file in edited:
            assert folder.read(file) != (healthy / file).read_text(), case.id
            compile(folder.read(file), file, "exec")
        assert edited or case.change.before or case.change.after or not case.is_defect, case.id


def test_an_edit_that_does_not_fit_says_what_it_looked_for(tmp_path: Path):
    folder = Folder(tmp_path, "gpt2")
    folder.path.mkdir()
    folder.write("model.py", "x = 1\nx = 1\n")
    with pytest.raises(Unfit, match=r"gpt2: model\.py: 'x = 1' is there 2 times, not 1"):
        folder.replace("model.py", "x = 1", "x = 2")


def test_the_span_of_an_edit_is_its_function():
    source = "a = 1\n\n\ndef f():\n    b = 2\n    return b\n"
    assert enclosing(source, 5, 5) == (4, 6)
    assert enclosing(source, 1, 1) == (1, 11)


# --- the data


def test_the_thinned_grammar_still_knows_the_probability_of_its_texts():
    source = EasyStories(seed=0)
    texts = list(islice(source.documents(Split.TRAIN), 20))
    assert len(set(texts)) == 20
    assert all(math.isfinite(source.log_prob(text)) for text in texts)
    assert source.log_prob(texts[0] + " And then?") == -math.inf


def test_leaked_documents_are_counted_by_the_claim(stories: Path, tmp_path: Path):
    defect = next(defect for defect in registry.DEFECTS if defect.name == "heldout-in-training")
    folder = Folder(tmp_path / "run", "gpt2")
    copy_folder(stories, folder.data)
    assert defect.claim
    before = defect.claim(folder, stories)
    assert not before.is_false
    assert defect.before
    defect.before(folder)
    after = defect.claim(folder, stories)
    assert after.is_false
    assert "100% of heldout" in after.measured
    manifest = json.loads((folder.data / "manifest.json").read_text())
    assert manifest["splits"]["train"]["tokens"] == len(read_ids(folder.data, "train"))


# --- reading verdicts


def row(
    name: str = "mask-missing", *, smoke: list[dict] | None = None, verify: list[dict] | None = None
) -> dict:
    found = {
        "case": f"defect/{name}/llama",
        "program": "llama",
        "half": "report",
        "change": name,
        "is_defect": True,
        "spans": [["train.py", 10, 20]],
        "smoke": {"failures": smoke or [], "seconds": 3.0},
        "train": {"ended": True, "code": 0, "seconds": 9.0, "tail": ""},
        "score": 3.0,
    }
    return found | ({"verify": {"failures": verify or [], "seconds": 5.0}} if not smoke else {})


def failed(name: str, category: str, component: str = "") -> dict:
    return {"name": name, "category": category, "component": component, "told": "measured 1, allowed 0"}


def test_the_first_failure_of_the_first_stage_counts():
    both = row(smoke=[failed("causality", "model"), failed("overfit", "training")])
    assert finding(both).name == "causality"
    late = row(verify=[failed("eval-claim", "reporting")])
    assert (finding(late).stage, finding(late).category) == ("verify", "reporting")
    assert not finding(row()).is_alarm


def test_a_training_that_crashes_is_detected_but_named_by_nothing():
    crashed = row() | {"train": {"ended": False, "code": 3, "seconds": 1.0, "tail": ""}}
    assert finding(crashed).stage == "train"
    assert finding(crashed).category == ""


def test_a_category_is_right_when_it_is_the_family_or_a_stated_alternate():
    defect = next(defect for defect in registry.DEFECTS if defect.name == "mask-missing")
    assert has_right_category(row(smoke=[failed("causality", "model")]), defect)
    assert not has_right_category(row(smoke=[failed("causality", "data")]), defect)


@pytest.mark.parametrize(
    ("component", "is_right"),
    [
        ("blocks.1.attention", True),
        ("train.py:12", True),
        ("train.py:8-10", True),
        ("train.py:21", False),
        ("train.py", False),
        ("lm_head, blocks.0.attention", True),
        ("a, b, c, d, blocks.0.attention", False),
        ("", False),
    ],
)
def test_a_component_is_right_when_one_of_its_first_names_is(component: str, is_right: bool):
    assert is_named(component, ("blocks.*.attention",), [["train.py", 10, 20]]) is is_right


# --- harm and figures


def test_a_score_within_the_healthy_spread_is_inert():
    spread = Spread(mean=1.0, deviation=0.02, count=3)
    assert harm_of(row() | {"score": 1.05}, spread) == ""
    assert "held-out score 1.100" in harm_of(row() | {"score": 1.1}, spread)
    assert harm_of(row() | {"score": None}, spread) == "the artifact cannot be used"


def test_a_false_claim_is_harm_at_any_score():
    claim = {"stated": "eval loss 0.7", "measured": "0.8", "is_false": True}
    assert harm_of(row() | {"score": 1.0, "claim": claim}, Spread(1.0, 0.02, 3)) == (
        "stated eval loss 0.7, measured 0.8"
    )


def test_a_spread_needs_three_seeds():
    seeds = [
        {"is_defect": False, "change": f"seed-{n}", "program": "llama", "score": 1.0 + n / 100}
        for n in range(3)
    ]
    assert spreads(seeds[:2]) == {}
    assert spreads(seeds)["llama"].count == 3


def test_wilsons_interval_of_all_and_none():
    assert Share(20, 20).interval == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert Share(0, 150).interval == pytest.approx((0.0, 0.0250), abs=1e-4)
    assert str(Share(0, 0)) == "–"
    assert str(Share(1, 2)) == "50.0% (1/2, 9.5–90.5)"


def test_the_tables_name_misses_and_false_alarms():
    clean = row() | {"case": "clean/seed-11/llama", "change": "seed-11", "is_defect": False, "score": 1.0}
    alarmed = clean | {
        "case": "clean/renamed/llama",
        "change": "renamed",
        "verify": {"failures": [failed("stderr", "training", "train.stderr")], "seconds": 4.0},
    }
    seeds = [clean | {"case": f"clean/seed-{n}/llama", "change": f"seed-{n}"} for n in (11, 12, 13)]
    caught = row("init-tenfold", smoke=[failed("initial-loss", "model", "lm_head")])
    text = render([row(), caught, *seeds, alarmed])
    assert "50.0% (1/2, 9.5–90.5)" in text
    assert "| defect/mask-missing/llama | report |" in text.split("### Misses")[1]
    assert "| clean/renamed/llama | report | verify | stderr |" in text.split("### False alarms")[1]


def test_a_miss_and_a_false_alarm_are_misjudged():
    def row(case: str, *failures: str, is_defect: bool) -> dict[str, Any]:
        found = [{"name": name, "category": "model", "component": ""} for name in failures]
        smoke, train = {"failures": found}, {"ended": True, "code": 0}
        return {"case": case, "is_defect": is_defect, "smoke": smoke, "train": train}

    rows = [
        row("defect/found", "causality", is_defect=True),
        row("defect/missed", is_defect=True),
        row("clean/quiet", is_defect=False),
        row("clean/alarm", "positions", is_defect=False),
    ]
    assert misjudged(rows) == ["defect/missed", "clean/alarm"]


def test_the_subset_for_ci_exists_and_is_of_both_kinds():
    fast = registry.cases(fast=True)
    assert {case.id for case in fast} == set(registry.FAST)
    assert {case.is_defect for case in fast} == {True, False}


def test_programs_are_taken_from_the_halves_in_turn():
    cases = [case for case in registry.cases(most=2) if case.is_defect and len(case.change.programs) > 2]
    by_change: dict[str, set[str]] = {}
    for case in cases:
        if {"gpt2", "llama"} <= set(case.change.programs):
            by_change.setdefault(case.change.name, set()).add(str(case.program.half))
    assert all(halves == {"report", "calibration"} for halves in by_change.values())
