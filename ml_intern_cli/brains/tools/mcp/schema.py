"""What is let in of a server's tools: names, descriptions and schemas that a model's service takes.

A server is not the user: what it says about its tools is bounded, and cannot pass for ml-intern's own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_LONGEST_NAME = 64
_LONGEST_DESCRIPTION = 1000
_LONGEST_SCHEMA = 16_000  # characters, as JSON
_MOST_FAULTS = 8
# Services refuse a request for one tool that they don't take, so these are held to what they all take.
_TOP_LEVEL = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Unfit(Exception):
    """This tool cannot be offered; the message says why."""


def tool_name(server: str, tool: str) -> str:
    """``mcp__SERVER__tool``, as services take names."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp__{server}__{tool}")[:_LONGEST_NAME]


def description(server: str, text: str | None) -> str:
    """What a server says of a tool, with who says it, bounded and without invisible characters."""
    visible = "".join(one for one in text or "" if one.isprintable() or one == "\n").strip()
    return f"[from the MCP server {server}] {visible or '(not described)'}"[:_LONGEST_DESCRIPTION]


def printable(text: str, most: int) -> str:
    """On one line, bounded, and nothing that moves a terminal's cursor."""
    line = "".join(one if one.isprintable() else " " for one in text)
    return line if len(line) <= most else f"{line[:most]}… ({len(line) - most:,} characters more)"


def accepted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as it is passed on.

    Raises:
        Unfit: it does not describe an object, is no JSON Schema, or too large.
    """
    if schema.get("type") != "object":
        raise Unfit("its input schema is not of type object")
    kept = {key: schema[key] for key in _TOP_LEVEL if key in schema}
    properties = kept.setdefault("properties", {})
    if not isinstance(properties, dict):
        raise Unfit("its input schema is no JSON Schema")
    for name in properties:
        if not _PROPERTY_NAME.fullmatch(name):
            raise Unfit(f"services take no argument named {printable(name, 60)}")
    size = len(json.dumps(kept, ensure_ascii=False))
    if size > _LONGEST_SCHEMA:
        raise Unfit(f"its input schema has {size:,} characters, {_LONGEST_SCHEMA:,} are let in")
    _check(kept)
    return kept


def faults(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with a call, a line each; what is not checked here the server checks itself."""
    errors = _checker()(schema).iter_errors(dict(arguments))
    found = []
    for error in errors:
        where = ".".join(map(str, error.absolute_path)) or "the whole"
        found.append(f"{where}: {printable(error.message, 300)}")
        if len(found) == _MOST_FAULTS:
            break
    return found


def _check(schema: Mapping[str, Any]) -> None:
    from jsonschema.exceptions import SchemaError

    try:
        _checker().check_schema(schema)
    except (SchemaError, RecursionError) as error:
        raise Unfit("its input schema is no JSON Schema") from error


def _checker() -> Any:
    """A validator that does no more work than the schema is long.

    A server's regular expressions and references can be made to take for ever, and references to reach the
    network.
    """
    from jsonschema.validators import Draft202012Validator, extend

    def skip(*_: Any) -> Iterator[Any]:
        yield from ()

    skipped: dict[str, Callable[..., Iterator[Any]]] = dict.fromkeys(
        ("pattern", "patternProperties", "$ref", "$dynamicRef", "unevaluatedProperties", "unevaluatedItems"),
        skip,
    )
    additional = Draft202012Validator.VALIDATORS["additionalProperties"]

    def no_others(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if "patternProperties" not in schema:
            yield from additional(validator, value, instance, schema) or ()

    return extend(Draft202012Validator, {**skipped, "additionalProperties": no_others})
