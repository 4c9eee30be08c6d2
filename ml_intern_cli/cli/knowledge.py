"""What it knows how to build: `ml-intern size` and `ml-intern blueprints`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.quantities import format_count, format_params

_GIB = 2**30
# fp32: weights, gradients and AdamW's two moments; activations depend on the batch.
_TRAINING_BYTES_PER_PARAM = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReport:
    """A solved configuration. ``off_percent`` is signed, against what was wanted."""

    architecture: str
    params_wanted: int
    params: int
    active_params: int
    off_percent: float
    vocab_size: int
    training_memory_gib: float
    config: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintEntry:
    """One line of the table of blueprints."""

    name: str
    title: str
    aliases: tuple[str, ...]
    arxiv: tuple[str, ...]
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintCard:
    """One blueprint's page, in Markdown."""

    name: str
    title: str
    card: str


def solve_size(
    architecture: str, params: int, *, vocab_size: int | None = None, seq_len: int | None = None
) -> SizeReport:
    """Solve the blueprint's sizing. Raises InvalidInput: unknown, or out of its range."""
    from ml_intern_cli.brains import blueprints

    blueprint = blueprints.find(architecture)
    sizing = blueprint.solve(params, vocab_size=vocab_size, seq_len=seq_len)
    return SizeReport(
        architecture=blueprint.NAME,
        params_wanted=params,
        params=sizing.params,
        active_params=sizing.active_params,
        off_percent=round(100 * (sizing.params - params) / params, 3),
        vocab_size=sizing.vocab_size,
        training_memory_gib=round(_TRAINING_BYTES_PER_PARAM * sizing.params / _GIB, 3),
        config=dict(sizing.config),
    )


def size_lines(report: SizeReport, terminal: Terminal) -> Iterator[str]:
    """The size, then every field of the configuration."""
    name = terminal.style(report.architecture, "bold")
    yield f"{name} · {format_count(report.params)} parameters ({report.off_percent:+.2f} % of target)"
    active, vocabulary = format_params(report.active_params), format_count(report.vocab_size)
    yield f"active per token {active} · vocabulary {vocabulary}"
    yield f"training needs {report.training_memory_gib:.3g} GiB (fp32, AdamW: 16 bytes each) and activations"
    yield ""
    yield from (f"  {row}" for row in aligned([field, str(value)] for field, value in report.config.items()))


def list_blueprints() -> tuple[BlueprintEntry, ...]:
    """All blueprints, by name."""
    from ml_intern_cli.brains import blueprints

    return tuple(
        BlueprintEntry(
            name=blueprint.NAME,
            title=blueprint.TITLE,
            aliases=tuple(blueprint.ALIASES),
            arxiv=tuple(blueprint.ARXIV_IDS),
            variants=tuple(blueprint.VARIANTS),
        )
        for blueprint in map(blueprints.load, blueprints.names())
    )


def blueprint_lines(entries: tuple[BlueprintEntry, ...], terminal: Terminal) -> Iterator[str]:
    """One line per blueprint."""
    rows = aligned(
        [
            ["blueprint", "architecture", "variants", "papers"],
            *(
                [one.name, one.title, ", ".join(one.variants), ", ".join(f"arXiv {id_}" for id_ in one.arxiv)]
                for one in entries
            ),
        ]
    )
    yield terminal.style(rows[0], "dim")
    yield from rows[1:]
    yield ""
    yield "next: ml-intern blueprints NAME · ml-intern size NAME 100M"


def blueprint_card(name: str) -> BlueprintCard:
    """The card of a blueprint, in any spelling. Raises InvalidInput."""
    from ml_intern_cli.brains import blueprints

    blueprint = blueprints.find(name)
    return BlueprintCard(name=blueprint.NAME, title=blueprint.TITLE, card=blueprints.card(blueprint.NAME))


def card_lines(card: BlueprintCard, terminal: Terminal) -> list[str]:
    """The card as it is written; Markdown reads well in a terminal."""
    del terminal
    return card.card.rstrip("\n").split("\n")
