"""Every document says back what it was told, whatever a string in it holds."""

from __future__ import annotations

import json
from contextlib import suppress
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from ml_intern_cli.documents.canonical import canonical, differences, merge
from ml_intern_cli.documents.model import Model
from ml_intern_cli.documents.registry import DOCUMENTS, parse, render
from ml_intern_cli.errors import InvalidDocument

FRAGMENTS = (
    *("\n", "\n\n", "\r", "\t", " ", "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "\u00a0"),
    *("\\", "\\|", "|", "`", "```", "~~~", '"', "'", "“", ":", "=", "#", "—", "a", "Z", "é", "😀"),
    *("# ", "## Data", "### x", "# Plan", "- ", "* ", "+ ", "1. ", "> ", "---", "===", "|-|-|"),
    *("<!--", "-->", "<div>", "<https://x>", "[x]: y", "{document}", "%s", "none", "null", "yes"),
    *(
        "1,000",
        "1e5",
        "clean",
        "VERDICT: pass",
        "OUTPUT:",
        "PROMPT: ",
        "final_train_loss = 1",
        "--- spent ---",
    ),
)
TEXTS = st.text(max_size=12) | st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
FLOATS = st.floats(-1e300, 1e300) | st.sampled_from([0.0, 1e-300, 1e-5, 0.1, 1e300])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
# Drawing a whole plan takes a while on a busy machine.
few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def values(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:  # noqa: PLR0911, a case each
    """Values of a field, from its annotation and its constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is JsonValue:
        return JSON
    if origin is Annotated:
        return values(arguments[0], (*constraints(arguments[1:]), *metadata))
    if origin in (Union, UnionType):
        return st.one_of(*(values(one, metadata) for one in arguments))
    if origin is tuple:
        least = bound(metadata, "min_length") or 0
        return st.lists(values(arguments[0]), min_size=least, max_size=2, unique_by=identity)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=4)
    if annotation is NoneType:
        return st.none()
    if issubclass(annotation, Model):
        fields = annotation.model_fields.items()
        return st.fixed_dictionaries(
            {name: values(info.annotation, tuple(info.metadata)) for name, info in fields}
        )
    return scalars(annotation, metadata)


def scalars(kind: type, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    pattern = bound(metadata, "pattern")
    at_least, above, below = (bound(metadata, name) for name in ("ge", "gt", "lt"))
    if kind is bool:
        return st.booleans()
    if kind is str:
        texts = TEXTS if pattern is None else st.from_regex(pattern.replace("$", r"\Z"))
        return texts.filter(bool) if bound(metadata, "min_length") else texts
    if kind is int:
        lowest = at_least if above is None else above + 1
        return st.integers(-(10**15) if lowest is None else lowest, bound(metadata, "le") or 10**15)
    if kind is float and (above is not None or below is not None):
        return st.floats(1e-300, 0.99 if below else 1e300)
    if kind is float:
        return FLOATS if at_least is None else FLOATS.map(abs)
    return st.sampled_from(list(kind))


def constraints(marks: tuple[Any, ...]) -> list[Any]:
    return [one for mark in marks for one in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def bound(metadata: tuple[Any, ...], name: str) -> Any:
    return next((getattr(mark, name) for mark in metadata if getattr(mark, name, None) is not None), None)


def identity(record: Any) -> Any:
    """What no two records of a list may share."""
    named = [record[key] for key in ("id", "path_id", "number") if isinstance(record, dict) and key in record]
    return named[0] if named else id(record)


def documents(model: type[Model]) -> st.SearchStrategy[Model]:
    """Valid documents of one kind."""
    return values(model).map(model.model_validate)


@pytest.mark.parametrize("name", DOCUMENTS)
@few
@given(data=st.data())
def test_a_document_reads_back_as_it_was_written(name, data):
    document = data.draw(documents(DOCUMENTS[name].model))
    text = render(document)
    assert parse(text, source=name) == document
    assert render(parse(text, source=name)) == text


@pytest.mark.parametrize("name", DOCUMENTS)
@few
@given(data=st.data())
def test_line_endings_and_a_byte_order_mark_change_nothing(name, data):
    document = data.draw(documents(DOCUMENTS[name].model))
    assert parse("\ufeff" + render(document).replace("\n", "\r\n"), source=name) == document


@pytest.mark.parametrize("name", DOCUMENTS)
@few
@given(text=TEXTS | st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_any_text_is_parsed_or_refused_with_problems(name, text):
    with suppress(InvalidDocument):
        parse(text, source=name)


@pytest.mark.parametrize("name", DOCUMENTS)
@few
@given(data=st.data())
def test_the_canonical_form_is_json_and_differs_exactly_when_the_document_does(name, data):
    one, other = (data.draw(documents(DOCUMENTS[name].model)) for _ in range(2))
    assert json.loads(json.dumps(canonical(one, None))) == canonical(one, None)
    assert bool(differences(canonical(one, None), canonical(other, None))) == (one != other)


@given(base=JSON, edited=JSON, new=JSON)
def test_merging_takes_the_only_side_that_changed(base, edited, new):
    assert merge(base, base, new) == new
    assert merge(base, edited, base) == edited
    assert merge(base, new, new) == new
