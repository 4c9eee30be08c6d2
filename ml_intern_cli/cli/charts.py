"""Curves drawn in text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ml_intern_cli.cli.terminal import Glyphs


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one curve, x ascending, with the letter that marks them."""

    mark: str
    points: tuple[tuple[float, float], ...]


def sparkline(values: Sequence[float], *, width: int, glyphs: Glyphs) -> str:
    """One character per bucket of ``values``: high bars for high values."""
    means = _bucket_means(values, width)
    if not means:
        return ""
    low, high = min(means), max(means)
    top = len(glyphs.bars) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(glyphs.bars[round((mean - low) * scale)] for mean in means)


def curve(series: Sequence[Series], *, width: int = 64, height: int = 10) -> list[str]:
    """The series in one frame, y labelled left and x below. Later series are drawn over earlier ones."""
    points = [point for one in series for point in one.points]
    if not points:
        return []
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    rows = [[" "] * width for _ in range(height)]
    for one in series:
        for x, y in one.points:
            column = round((x - x_low) / ((x_high - x_low) or 1) * (width - 1))
            row = round((y_high - y) / ((y_high - y_low) or 1) * (height - 1))
            rows[row][column] = one.mark
    step = (y_high - y_low) / (height - 1)
    labels = [f"{y_high - step * index:8.3f}" for index in range(height)]
    drawn = [f"{label} |{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
    left, right = f"{x_low:,.0f}", f"{x_high:,.0f}"
    return [*drawn, f"{'':8} +{'-' * width}", f"{'':10}{left}{right:>{width - len(left)}}"]


def _bucket_means(values: Sequence[float], width: int) -> list[float]:
    count = min(width, len(values))
    if count == 0:
        return []
    edges = [index * len(values) // count for index in range(count + 1)]
    return list(_means(values, edges))


def _means(values: Sequence[float], edges: Sequence[int]) -> Iterator[float]:
    for start, stop in pairwise(edges):
        bucket = values[start:stop]
        yield sum(bucket) / len(bucket)
