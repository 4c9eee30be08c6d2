"""Documents as plain JSON: for hashing by meaning, for saying what changed, for keeping a person's edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_intern_cli.documents.model import Model
from ml_intern_cli.documents.values import SCALAR

_ABSENT = object()
_LONGEST_SHOWN = 40
_IDS = ("id", "path_id", "name", "number", "url")
"""Fields that tell the records of a list apart, in order of preference."""


def canonical(document: Model, part: str | None) -> dict[str, Any]:
    """What a document, or a named part of it, says.

    Parts are what one stage depends on and another does not:

    - TASK.md ``work``: what is to be built; ``publish``: where it goes.
    - BUDGET.md ``caps``: what bounds the plan; ``time``: how long the run may take; ``retries``.
    - PLAN.md ``target``: the size to reach; ``path:<id>``: what one path is made from.

    Raises:
        KeyError: the document has no such part, or the plan no such path.
    """
    content: dict[str, Any] = document.model_dump(mode="json")
    if part is None:
        return content
    kind, _, path_id = part.partition(":")
    return _PARTS[type(document).__name__, kind](content, path_id)


def differences(old: Any, new: Any) -> list[str]:
    """What changed, one line per value: ``learning_rate 0.003 → 0.001``, ``path b added``."""
    return list(_differences((), old, new))


def merge(base: Any, edited: Any, new: Any) -> Any:
    """``new``, with what a person changed between ``base`` and ``edited``.

    Mappings are merged key by key, lists of records record by record; everything else is one value.
    Where both sides changed the same value, the person's stands.
    """
    if edited == base:
        return new
    if new == base:
        return edited
    if all(isinstance(one, dict) for one in (base, edited, new)):
        return _merge_mappings(base, edited, new)
    id_field = _id_field(base, edited, new)
    if id_field is None:
        return edited
    by_id = ({record[id_field]: record for record in records} for records in (base, edited, new))
    return list(_merge_mappings(*by_id).values())


def _merge_mappings(base: dict[str, Any], edited: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = {
        key: merge(base.get(key, _ABSENT), edited.get(key, _ABSENT), new.get(key, _ABSENT))
        for key in (new | edited)
    }
    return {key: value for key, value in merged.items() if value is not _ABSENT}


def _differences(where: tuple[str, ...], old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    id_field = _id_field(old, new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences((*where, str(key)), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif id_field is not None:
        *outer, plural = where or ("records",)
        by_id = ({record[id_field]: record for record in records} for records in (old, new))
        yield from _differences((*outer, plural.removesuffix("s")), *by_id)
    else:
        yield f"{' '.join(where)} {_change(old, new)}".lstrip()


def _change(old: Any, new: Any) -> str:
    if old is _ABSENT:
        return "added"
    if new is _ABSENT:
        return "removed"
    if any(isinstance(one, (dict, list)) for one in (old, new)):
        return "changed"
    before, after = SCALAR.write(old), SCALAR.write(new)
    return f"{before} → {after}" if max(len(before), len(after)) <= _LONGEST_SHOWN else "changed"


def _id_field(*lists: Any) -> str | None:
    """The field that tells the records of these lists apart; ``None`` when they are no lists of records."""
    if not all(isinstance(one, list) and all(isinstance(record, dict) for record in one) for one in lists):
        return None
    for name in _IDS:
        ids = [[record.get(name) for record in one] for one in lists]
        if all(None not in one and len(set(one)) == len(one) for one in ids):
            return name
    return None


def _only(content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: content[name] for name in names}


def _without(content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _work(content: dict[str, Any], _: str) -> dict[str, Any]:
    assumed = [_only(assumption, ("name", "value")) for assumption in content["assumptions"]]
    return _without(content, ("publish", "mode")) | {"assumptions": assumed}


def _path(content: dict[str, Any], path_id: str) -> dict[str, Any]:
    path: dict[str, Any] = {path["id"]: path for path in content["paths"]}[path_id]
    # Summaries and sources are for the reader; no program is made from them.
    return _without(content, ("summary", "tokens_per_path", "sources", "paths")) | path


_PARTS: dict[tuple[str, str], Callable[[dict[str, Any], str], dict[str, Any]]] = {
    ("Task", "work"): _work,
    ("Task", "publish"): lambda content, _: _only(content, ("publish",)),
    ("Budget", "caps"): lambda content, _: _only(content, ("max_paths", "scale_ceiling", "token_budget")),
    ("Budget", "time"): lambda content, _: _only(content, ("compute_cap",)),
    ("Budget", "retries"): lambda content, _: _only(content, ("max_retries_per_path",)),
    ("Plan", "target"): lambda content, _: _only(content, ("params_target",)),
    ("Plan", "path"): _path,
}
