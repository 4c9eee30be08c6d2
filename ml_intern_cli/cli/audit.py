"""`ml-intern audit`: the judge alone, on a model that this program need not have made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_intern_cli import quantities
from ml_intern_cli.cli import options as opt
from ml_intern_cli.cli.command import Panel, command
from ml_intern_cli.cli.session import Session
from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.quantities import format_count, format_duration

if TYPE_CHECKING:
    from ml_intern_cli.documents.audit import Audit
    from ml_intern_cli.documents.probe import ProbeResult

_CLAIMS = ("eval_loss", "perplexity")
NOTHING_TO_MEASURE = "-"
"""What is allowed, where the probe has nothing to measure: no claim, no training text, no cache."""
_ASKED = "Options"
_WIDEST_MEASURED = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """What is asked about a directory."""

    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            rich_help_panel=_ASKED,
            help="UTF-8 text that the model was not trained on.",
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", rich_help_panel=_ASKED, help="A path's data. [default: its run's data/]"
        ),
    ] = None
    train_text: Annotated[
        Path | None,
        typer.Option(
            "--train-text",
            metavar="FILE",
            rich_help_panel=_ASKED,
            help="Text that it was trained on, to compare with.",
        ),
    ] = None
    claim: Annotated[
        list[str] | None,
        typer.Option(
            "--claim",
            metavar="NAME=VALUE",
            rich_help_panel=_ASKED,
            help="eval_loss=… or perplexity=…, to be recomputed; repeatable.",
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            min=8,
            rich_help_panel=_ASKED,
            help="Tokens per window. [default: config.json's, up to 512]",
        ),
    ] = None
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit",
            metavar="TIME",
            rich_help_panel=_ASKED,
            help="Stop the judge after that, such as 20m.",
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            rich_help_panel=_ASKED,
            help="Run code that lies in the checkpoint, behind the wall.",
        ),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", rich_help_panel=_ASKED, help="Write the verdict there too, as AUDIT.md."
        ),
    ] = None


@command(
    "audit",
    panel=Panel.KNOWLEDGE,
    examples=(
        "ml-intern audit models/tiny --text held-out.txt",
        "ml-intern audit models/tiny --text held-out.txt --claim perplexity=12.4 --out AUDIT.md",
        "ml-intern audit ~/ml-intern-runs/implement-deepseek-v3-at-1m/path-a",
    ),
)
def audit(
    session: Session,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="A transformers checkpoint, or path-a/.")
    ],
    asked: AuditOptions,
    walls: opt.WallOptions,
) -> int:
    """Judge a model that was made elsewhere: a checkpoint and a text, or a path of a run."""
    from ml_intern_cli.executors.sandbox import make_executor
    from ml_intern_cli.runs.auditing import AuditRequest
    from ml_intern_cli.runs.auditing import audit as judge

    sandbox = session.settings.sandbox.with_choice(wall=walls.wall, docker_image=walls.docker_image)
    request = AuditRequest(
        directory=directory.expanduser(),
        text=asked.text,
        data=asked.data,
        train_text=asked.train_text,
        claims=_read_claims(asked.claim or []),
        context=asked.context,
        limit_s=None if asked.time_limit is None else quantities.parse_duration(asked.time_limit),
        trust_remote_code=asked.trust_remote_code,
        allow_unsandboxed=walls.allow_unsandboxed or sandbox.allow_unsandboxed,
    )
    require_writable(asked.out)
    found = judge(request, make_executor(sandbox), session.reporter)
    if asked.out is not None:
        write_verdict(found, asked.out)
    session.show(found, audit_lines)
    return 0 if found.passed else 4


def _read_claims(texts: list[str]) -> dict[str, float]:
    """``eval_loss=1.2`` → 1.2 by name. Raises InvalidInput."""
    claims: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in _CLAIMS or not 0 < value < float("inf"):
            raise InvalidInput(
                f"{text!r} is no claim that can be checked",
                hint="--claim eval_loss=1.41 or --claim perplexity=4.1",
            )
        claims[name] = value
    return claims


def require_writable(file: Path | None) -> None:
    """Raises InvalidInput before anything is judged whose verdict could not be written."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise InvalidInput(
            f"{file} cannot be written", hint="give a file in a folder that is there: --out AUDIT.md"
        )


def write_verdict(found: Audit, file: Path) -> None:
    """AUDIT.md."""
    from ml_intern_cli.documents.registry import render
    from ml_intern_cli.runs.files import write_atomic

    write_atomic(file, render(found))


def audit_lines(found: Audit, terminal: Terminal) -> Iterator[str]:
    """What was judged, a line per probe, and the next command."""
    size = f" · {format_count(found.params)} parameters" if found.params else ""
    yield f"{terminal.style(found.architecture, 'bold')}{size} · {found.subject}"
    yield _loss_line(found)
    yield ""
    rows = aligned([_glyph(one, terminal), one.name, _measured(one.measured)] for one in found.probes)
    for row, probe in zip(rows, found.probes, strict=True):
        yield f" {terminal.style(row, 'red') if probe.failed else row}"
        if probe.failed:
            told, _, causes = probe.finding.partition(". usual causes: ")
            yield f"      {told}"
            if causes:
                yield terminal.style(f"      usual causes: {causes}", "dim")
    yield ""
    unasked = sum(one.threshold == NOTHING_TO_MEASURE for one in found.probes)
    asked = len(found.probes) - unasked
    more = f", {unasked} had nothing to measure" if unasked else ""
    yield f"{asked - len(found.failed)} of {asked} probes{more} · {format_duration(found.seconds)}"
    if found.failed:
        yield _next(found)


def _glyph(probe: ProbeResult, terminal: Terminal) -> str:
    if probe.threshold == NOTHING_TO_MEASURE:
        return terminal.glyphs.todo
    return terminal.glyphs.failed if probe.failed else terminal.glyphs.done


def _next(found: Audit) -> str:
    """The command that explains the first failure."""
    from ml_intern_cli.documents.audit import AuditKind

    if found.kind is AuditKind.PATH:
        return f"next: fix what failed and run: ml-intern audit {found.subject}"
    return f"next: ml-intern probes {found.failed[0].name}"


def _loss_line(found: Audit) -> str:
    import math

    if found.loss is None:
        return found.text
    above = "" if found.unigram_loss is None else f", token frequencies alone {found.unigram_loss:.3f}"
    perplexity = f"perplexity {math.exp(min(found.loss, 700)):.4g}"
    scored = f" · {found.scored}" if found.scored else ""
    return f"{found.text}{scored} · loss {found.loss:.4f} nats per token ({perplexity}){above}"


def _measured(text: str) -> str:
    return text if len(text) <= _WIDEST_MEASURED else f"{text[: _WIDEST_MEASURED - 1]}…"
