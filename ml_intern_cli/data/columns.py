"""Which column of a table holds the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_intern_cli.errors import Blocked, InvalidInput

_USUAL_NAMES = ("text", "content", "story", "document", "article", "body", "sentence")
Row = Mapping[str, Any]


def text_column(rows: Sequence[Row], *, wanted: str | None, name: str) -> str:
    """The column that holds the text, judged by the first rows of a table.

    Args:
        rows: A sample; the first row names the columns.
        wanted: The column that the user named.
        name: How messages call the dataset.

    Raises:
        InvalidInput: the table is empty, or lacks the wanted column.
        Blocked: several columns could be meant, or none.
    """
    if not rows:
        raise InvalidInput(f"{name} has no rows", hint="name another one with --dataset ID|FILE")
    columns = list(rows[0])
    listed = ", ".join(columns)
    if wanted is not None:
        if wanted not in columns:
            raise InvalidInput(
                f"{name} has no column {wanted!r}; it has {listed}",
                hint="name one with --dataset-column NAME",
            )
        return wanted
    texts = [column for column in columns if any(isinstance(row.get(column), str) for row in rows)]
    for usual in _USUAL_NAMES:
        if usual in texts:
            return usual
    if len(texts) == 1:
        return texts[0]
    empty_but_usual = [column for column in columns if column in _USUAL_NAMES]
    if not texts and empty_but_usual:
        raise InvalidInput(
            f"column {empty_but_usual[0]!r} of {name} holds no text",
            hint="name another column with --dataset-column NAME, or another dataset with --dataset",
        )
    raise Blocked(
        f"the text column of {name} is not clear",
        why=f"its columns are {listed}; " + ("more than one holds text" if texts else "none holds text"),
        ways_on=["run again with --dataset-column NAME", "run again with --dataset ID|FILE"],
    )
