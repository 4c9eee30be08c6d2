"""Every probe is explained, by the command and in the docs, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.judge.catalogue import CATALOGUE
from ml_intern_cli.judge.explanations import explain, explanations, with_tables

PAGE = Path(__file__).parents[3] / "docs" / "judge.md"


def test_names_are_unique_over_all_kinds_and_every_one_is_explained() -> None:
    names = [one.name for one in explanations()]
    assert len(set(names)) == len(names)
    assert {probe.name for family in CATALOGUE.values() for probe in family} <= set(names)
    for one in explanations():
        assert all((one.meaning, one.threshold, one.threshold_source, one.usual_causes)), one.name


def test_tables_of_the_docs_are_the_catalogue() -> None:
    """Made anew with: python -m ml_intern_cli.judge.explanations docs/judge.md."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page
    for kind in CATALOGUE:
        assert f"<!-- probes: {kind} -->" in page


def test_table_of_no_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no kind of probes is called 'weather'"):
        with_tables("<!-- probes: weather -->\n\n<!-- end -->")


@pytest.mark.parametrize("spelt", ["loss-sanity", "Loss sanity", " LOSS_SANITY "])
def test_name_is_found_in_any_spelling(spelt: str) -> None:
    assert explain(spelt).name == "loss-sanity"


def test_unknown_name_has_the_nearest_in_its_hint() -> None:
    with pytest.raises(InvalidInput, match="no probe is called 'casuality'") as refused:
        explain("casuality")
    assert refused.value.hint
    assert refused.value.hint.startswith("did you mean causality ")
    assert refused.value.hint.endswith("? see them all: ml-intern probes")
