"""The ways a field stands in Markdown: as a bullet, a text, a list, a table or JSON.

Each part both reads and writes, so that the two cannot drift apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ml_intern_cli.documents.draft import Draft, Place
from ml_intern_cli.documents.markdown import Block, Kind, Section, Table, outline
from ml_intern_cli.documents.model import Model
from ml_intern_cli.documents.values import TEXT, FieldType, field_types, is_one_line, quote

NOTHING = "none"
_BULLET = re.compile(r"([^:=]+)[:=](?:\*\*|__)?(.*)", re.DOTALL)
_WIDEST_PADDED_CELL = 64


class Part(Protocol):
    """Some fields of a document, as one kind of Markdown."""

    @property
    def names(self) -> tuple[str, ...]:
        """The fields."""

    def read(self, section: Section, draft: Draft) -> None:
        """Put what the section says into the draft."""

    def write(self, document: Model) -> str:
        """The Markdown."""


@dataclass(frozen=True)
class Bullets:
    """``- name: value``, one line per field."""

    model: type[Model]
    names: tuple[str, ...]

    def read(self, section: Section, draft: Draft, *, at: Place = ()) -> None:
        """Put each value at its field's place below ``at``."""
        types = field_types(self.model)
        for block in bullets(section):
            name, value = split_bullet(block.text)
            if value is None:
                draft.problem(block.line, None, f"expected '- name: value', not {block.text!r}")
            elif name not in self.names:
                draft.unknown(block.line, name, self.names)
            else:
                draft.put((*at, name), types[name].read(value), block.line)

    def write(self, document: Model) -> str:
        """The bullets, in the order of ``names``."""
        types = field_types(self.model)
        values = ((name, types[name].write(getattr(document, name))) for name in self.names)
        return "\n".join(f"- {name}: {value}".rstrip() for name, value in values)


@dataclass(frozen=True)
class OneField:
    """A part that holds one field."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The field."""
        return (self.name,)


@dataclass(frozen=True)
class Text(OneField):
    """A text of any length: the body of its section."""

    def read(self, section: Section, draft: Draft) -> None:
        """Put the body."""
        draft.put(self.names, read_text(section), section.line)

    def write(self, document: Model) -> str:
        """The text; fenced or quoted where Markdown would change it."""
        return write_text(getattr(document, self.name))


@dataclass(frozen=True)
class Items(OneField):
    """A list of texts, one bullet each."""

    def read(self, section: Section, draft: Draft) -> None:
        """Put each bullet's text."""
        draft.put(self.names, [], section.line)
        for block in bullets(section):
            draft.append(self.names, TEXT.read(block.text), block.line)

    def write(self, document: Model) -> str:
        """The bullets."""
        return (
            "\n".join(f"- {_write_item(text)}".rstrip() for text in getattr(document, self.name)) or NOTHING
        )


@dataclass(frozen=True)
class Json(OneField):
    """A mapping as a fenced JSON object."""

    def read(self, section: Section, draft: Draft) -> None:
        """Put the object of the section's fence."""
        for fence in (block for block in section.blocks if block.kind is Kind.FENCE):
            try:
                value = json.loads(
                    fence.text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
                )
            except json.JSONDecodeError as error:
                draft.problem(fence.line + error.lineno - 1, self.name, f"is not JSON: {error.msg}")
            except ValueError as error:
                draft.problem(fence.line, self.name, str(error))
            else:
                draft.put(self.names, value, fence.line)

    def write(self, document: Model) -> str:
        """The object, one line per key."""
        value = document.model_dump(mode="json", include={self.name})[self.name]
        return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


@dataclass(frozen=True)
class Records(OneField):
    """A table, one row per record and one column per field of it."""

    record: type[Model]
    key: str | None = None  # the column in which no two rows may be the same
    labels: dict[str, str] = field(default_factory=dict)  # headings that are not the field's name
    always: bool = False  # the header stands there even when there are no records

    def read(self, section: Section, draft: Draft) -> None:
        """Put each row as a record."""
        draft.put(self.names, [], section.line)
        if self.always and not section.tables:
            draft.problem(None, self.name, "the table is missing")
        types = field_types(self.record)
        lines: dict[object, int] = {}
        for line, cells in table_rows(section, draft, types):
            record = {name: types[name].read(cell) for name, cell in cells.items()}
            key = record.get(self.key) if self.key else line
            if lines.setdefault(key, line) != line:
                draft.problem(line, self.key, f"{key} appears twice, first in line {lines[key]}")
                continue
            draft.append(self.names, record, line)

    def write(self, document: Model) -> str:
        """The table, its columns aligned."""
        records = getattr(document, self.name)
        if not records and not self.always:
            return NOTHING
        types = field_types(self.record)
        rows = [[write_cell(types[name], getattr(record, name)) for name in types] for record in records]
        return write_table([self.labels.get(name, name) for name in types], rows)


def bullets(section: Section) -> list[Block]:
    """The list items of a section, nested ones included."""
    return [block for block in section.blocks if block.kind is Kind.ITEM]


def split_bullet(text: str) -> tuple[str, str | None]:
    """A field's name and its text, ``None`` where there is no colon: ``**Seq len:** 256`` → seq_len, 256."""
    match = _BULLET.fullmatch(text)
    return (field_name(match[1]), match[2]) if match else (text, None)


def field_name(label: str) -> str:
    """The name that a label stands for: ``**Final loss** (nats)`` → final_loss."""
    words = re.sub(r"\(.*?\)", "", label).strip().strip("*_` ").casefold()
    return re.sub(r"[\s-]+", "_", words)


def is_plain_item(text: str) -> bool:
    """Whether a bullet with this text is read as just that, and not as a heading, rule or list in a list."""
    blocks = outline(f"- {text}")[0].blocks
    return is_one_line(text) and [(block.kind, block.text) for block in blocks] == [(Kind.ITEM, text)]


def read_text(section: Section) -> str:
    """The body of a section: its one fence's content, or its source."""
    blocks = section.blocks
    if len(blocks) == 1 and blocks[0].kind is Kind.FENCE and section.raw.startswith(("```", "~~~")):
        return blocks[0].text
    return str(TEXT.read(section.raw)) if section.raw.startswith('"') else section.raw


def write_text(text: str) -> str:
    """The first of plain, fenced and quoted that reads back as this text."""
    sections = outline(f"## Text\n\n{text}\n\n## End")
    reads_back = len(sections) == 3 and read_text(sections[1]) == text
    if reads_back and _is_clean(text):
        return text
    return fenced(text) if fits_fence(text) else quote(text)


def fits_fence(text: str) -> bool:
    """Whether a fence holds this text unchanged."""
    return _is_clean(text) and [block.text for block in outline(fenced(text))[0].blocks] == [text]


def fenced(text: str) -> str:
    """The text in a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def table_rows(section: Section, draft: Draft, known: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a section's table, each with its line and its cells by column."""
    if not section.tables:
        return []
    table, *others = section.tables
    for other in others:
        draft.problem(other.header.line, None, "a second table; only one is read here")
    columns = _columns(table, draft, list(known))
    rows = []
    for row in table.rows:
        if len(row.cells) > len(columns):
            count = f"{len(row.cells)} cells where the header has {len(columns)}"
            draft.problem(row.line, None, f"{count}; a pipe inside a cell is written \\|")
            continue
        cells = [*row.cells, *[""] * (len(columns) - len(row.cells))]
        rows.append((row.line, {name: cell for name, cell in zip(columns, cells, strict=True) if name}))
    return rows


def write_cell(field_type: FieldType, value: object) -> str:
    """The text of one cell; empty for ``None``."""
    return "" if value is None else field_type.write(value).replace("|", "\\|")


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned as far as short cells go."""
    widths = [len(label) for label in header]
    for row in rows:
        for index, cell in enumerate(row):
            if len(cell) <= _WIDEST_PADDED_CELL:
                widths[index] = max(widths[index], len(cell))
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, *rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _is_clean(text: str) -> bool:
    return is_one_line(text.replace("\n", " ").replace("\t", " "))


def _write_item(text: str) -> str:
    written = TEXT.write(text)
    return written if is_plain_item(written) else quote(text)


def _columns(table: Table, draft: Draft, known: list[str]) -> list[str | None]:
    """The field of each column; ``None`` for those that are not known or come twice."""
    by_name = {field_name(one): one for one in known}
    columns: list[str | None] = []
    for label in table.header.cells:
        column = label if label in known else by_name.get(field_name(label))
        if column is None:
            draft.unknown(table.header.line, label, known)
        elif column in columns:
            draft.problem(table.header.line, column, "two columns of this name")
        columns.append(None if column in columns else column)
    return columns


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(key for key in mapping if [name for name, _ in pairs].count(key) > 1)
        raise ValueError(f"{twice} appears twice")
    return mapping


def _refuse_constant(text: str) -> None:
    raise ValueError(f"numbers must be finite, not {text}")
