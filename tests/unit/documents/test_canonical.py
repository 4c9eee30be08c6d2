"""What stages depend on, what changed, and whose value stands."""

from __future__ import annotations

import pytest

from ml_intern_cli.documents.canonical import canonical, differences, merge
from ml_intern_cli.documents.model import PublishTarget
from tests.examples import BUDGET, EXAMPLES, PLAN, TASK


def changed(document, **fields):
    return type(document).model_validate(document.model_dump() | fields)


def with_path(path_id, **fields):
    paths = [changed(path, **fields) if path.id == path_id else path for path in PLAN.paths]
    return changed(PLAN, paths=[path.model_dump() for path in paths])


def test_a_part_leaves_out_what_its_readers_do_not_depend_on():
    assert canonical(changed(BUDGET, gpu_min_used=9.0, compute_cap=9.0), "caps") == canonical(BUDGET, "caps")
    assert canonical(changed(TASK, publish=PublishTarget.HUB), "work") == canonical(TASK, "work")
    assert canonical(with_path("b", learning_rate=0.5), "path:a") == canonical(PLAN, "path:a")
    assert canonical(changed(PLAN, summary="shorter", tokens_per_path=1), "path:a") == canonical(
        PLAN, "path:a"
    )


def test_a_part_holds_what_its_readers_depend_on():
    assert canonical(changed(BUDGET, max_paths=9), "caps") != canonical(BUDGET, "caps")
    assert canonical(changed(BUDGET, compute_cap=9.0), "time") != canonical(BUDGET, "time")
    assert canonical(changed(BUDGET, max_retries_per_path=9), "retries") != canonical(BUDGET, "retries")
    assert canonical(changed(TASK, params=5), "work") != canonical(TASK, "work")
    assert canonical(changed(TASK, publish=PublishTarget.HUB), "publish") != canonical(TASK, "publish")
    assert canonical(with_path("a", learning_rate=0.5), "path:a") != canonical(PLAN, "path:a")
    assert canonical(changed(PLAN, seq_len=64), "path:a") != canonical(PLAN, "path:a")
    assert canonical(changed(PLAN, params_target=64), "target") != canonical(PLAN, "target")


@pytest.mark.parametrize("part", ["no-such-part", "path:z"])
def test_a_part_that_is_not_there_is_an_error(part):
    with pytest.raises(KeyError):
        canonical(PLAN, part)


def test_an_edit_is_said_in_one_line():
    edited = with_path("a", learning_rate=0.001)
    assert differences(canonical(PLAN, "path:a"), canonical(edited, "path:a")) == [
        "learning_rate 0.003 → 0.001"
    ]
    assert differences(canonical(PLAN, None), canonical(edited, None)) == [
        "path a learning_rate 0.003 → 0.001"
    ]


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"x": None}, {"x": 1}, ["x — → 1"]),
        ({"x": True}, {"x": False}, ["x yes → no"]),
        ({"x": 1}, {"y": 1}, ["x removed", "y added"]),
        ({"x": "a" * 50}, {"x": "b"}, ["x changed"]),
        ({"x": [1]}, {"x": [2]}, ["x changed"]),
        ({"paths": [{"id": "a"}]}, {"paths": [{"id": "a"}, {"id": "b"}]}, ["path b added"]),
        (
            {"config": {"rope": {"theta": 1.0}}},
            {"config": {"rope": {"theta": 2.0}}},
            ["config rope theta 1.0 → 2.0"],
        ),
    ],
)
def test_each_kind_of_change_has_its_words(old, new, lines):
    assert differences(old, new) == lines


def test_what_a_person_changed_survives_a_new_version():
    edited = with_path("a", learning_rate=0.001)
    new = changed(with_path("a", steps=700, learning_rate=0.002), summary="new")
    merged = type(PLAN).model_validate(
        merge(canonical(PLAN, None), canonical(edited, None), canonical(new, None))
    )
    assert (merged.path("a").learning_rate, merged.path("a").steps, merged.summary) == (0.001, 700, "new")
    assert merged.path("b") == PLAN.path("b")


@pytest.mark.parametrize(
    ("base", "edited", "new", "merged"),
    [
        ("abc", "abd", "bc", "bd"),  # the person's record is added after the new ones
        ("abc", "bc", "abc", "bc"),  # what a person removed stays removed
        ("ab", "ab", "abc", "abc"),
        ("ab", "abx", "ab", "abx"),
    ],
)
def test_records_are_merged_by_their_ids(base, edited, new, merged):
    records = [[{"id": one} for one in ids] for ids in (base, edited, new)]
    assert merge(*records) == [{"id": one} for one in merged]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_untouched_document_takes_everything_new(name):
    content = canonical(EXAMPLES[name], None)
    assert merge(content, content, {"x": 1}) == {"x": 1}
    assert differences(content, content) == []
