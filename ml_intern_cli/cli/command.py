"""How a function becomes a command: option groups, panels in the help, examples.

The help is plain text in panels: drawing it with Rich would take longer than everything else that
``ml-intern --help`` does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ml_intern_cli.cli.options import PANELS, SharedOptions
from ml_intern_cli.cli.session import Session, environment
from ml_intern_cli.errors import MlInternError

Body = Callable[..., int]
Row = tuple[str, str]  # what one types, and what it does

_WIDEST_TERM = 26  # a longer one has its explanation on the next line


class Interrupted(MlInternError):
    """The user stopped it; the files of a run hold everything that was complete."""

    exit_code = 130


class Panel(StrEnum):
    """The headings of the commands, in the order the help shows them."""

    CHAIN = "The whole chain"
    STAGES = "One stage at a time"
    RUNS = "Looking at runs"
    KNOWLEDGE = "What is here and what is known"


class PanelledCommand(TyperCommand):
    """A command whose options stand under the headings of their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        panels: dict[str, list[Row]] = {panel: [] for panel in PANELS}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                panels[_panel(parameter)].append(row)
        _write_panels(panels, formatter)


class PanelledGroup(TyperGroup):
    """The program, whose commands stand under the headings of their panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        panels: dict[str, list[Row]] = {panel: [] for panel in Panel}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            row = (name, command.get_short_help_str(limit=90))
            panels[getattr(command, "rich_help_panel", None) or Panel.CHAIN].append(row)
        _write_panels(panels, formatter)


app = typer.Typer(
    name="ml-intern",
    cls=PanelledGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def command(name: str, *, panel: Panel, examples: Sequence[str] = ()) -> Callable[[Body], Body]:
    """Register ``body(session, …) -> exit code`` under ``name``.

    A parameter whose type is an option group becomes that group's options, and every command takes
    the shared ones.
    """

    def register(body: Body) -> Body:
        hints = get_type_hints(body, include_extras=True)
        own = {one.name: one for one in list(inspect.signature(body).parameters.values())[1:]}
        groups = {key: hints[key] for key in own if is_dataclass(hints[key])}
        plain = [one.replace(annotation=hints[key]) for key, one in own.items() if key not in groups]
        options = [option for group in (*groups.values(), SharedOptions) for option in _options(group)]

        def invoke(**values: Any) -> int:
            shared = _collect(SharedOptions, values)
            collected = {key: _collect(group, values) for key, group in groups.items()}
            return _run(body, Session(shared, environment()), **collected, **values)

        parameters = [_keyword_only(one) for one in (*plain, *options)]
        invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        invoke.__annotations__ = {one.name: one.annotation for one in parameters}
        invoke.__doc__ = body.__doc__
        epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples) if examples else None
        app.command(name, cls=PanelledCommand, rich_help_panel=panel, epilog=epilog)(invoke)
        return body

    return register


def _run(body: Body, session: Session, **arguments: Any) -> int:
    try:
        # stdout is the session's alone: what a library prints must not end up among the results.
        with redirect_stdout(sys.stderr):
            return body(session, **arguments)
    except KeyboardInterrupt as error:
        slug = session.reporter.slug
        if not slug:
            raise Interrupted("interrupted") from error
        hint = f"resume with: ml-intern run {slug}"
        raise Interrupted("interrupted; everything that was complete is kept", hint=hint) from error
    finally:
        session.close()


@cache
def _options(group: Any) -> tuple[inspect.Parameter, ...]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return tuple(
        inspect.Parameter(one.name, kind, default=one.default, annotation=hints[one.name])
        for one in fields(group)
    )


def _collect(group: Any, values: dict[str, Any]) -> Any:
    return group(**{field.name: values.pop(field.name) for field in fields(group)})


def _keyword_only(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return PANELS[0]
    return getattr(parameter, "rich_help_panel", None) or PANELS[-1]


def _write_panels(panels: Mapping[str, Sequence[Row]], formatter: Any) -> None:
    terms = [term for rows in panels.values() for term, _ in rows]
    width = max((len(term) for term in terms if len(term) <= _WIDEST_TERM), default=0)
    for panel, rows in panels.items():
        if rows:
            with formatter.section(panel):
                formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)
