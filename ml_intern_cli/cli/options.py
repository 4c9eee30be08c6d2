"""Every option and argument of the command line, declared once.

A dataclass here is an option group: a command that takes one has all its fields as options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args

import typer

from ml_intern_cli import quantities
from ml_intern_cli.brains.names import BRAIN_NAMES, brain_name
from ml_intern_cli.cli import completion
from ml_intern_cli.errors import InvalidInput

if TYPE_CHECKING:
    from ml_intern_cli.runs.options import RunOptions

T = TypeVar("T")

StageName = Literal[
    "restate",
    "clarify",
    "research",
    "plan",
    "implement",
    "smoke",
    "train",
    "verify",
    "diagnose",
    "report",
    "publish",
]
EffortName = Literal["low", "medium", "high", "xhigh", "max"]
WallName = Literal["auto", "bubblewrap", "docker", "none"]
PublishName = Literal["hub", "folder", "none"]

_TASK = "The task"
_BUDGET = "The budget"
_BRAIN = "The brain"
_COURSE = "The course"
_SHARED = "Every command"

PANELS = ("Arguments", _TASK, _BUDGET, _BRAIN, _COURSE, "Options", _SHARED)
"""Headings of arguments and options, in the order the help shows them."""


def _read(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser whose refusals are usage errors that name the option."""

    def parser(text: str) -> T:
        try:
            return parse(text)
        except InvalidInput as error:
            raise typer.BadParameter(
                f"{error.message}; {error.hint}" if error.hint else error.message
            ) from error

    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """What every command takes."""

    runs_dir: Annotated[
        Path | None,
        typer.Option(
            "--runs-dir",
            metavar="DIR",
            help="Where runs are. [default: ~/ml-intern-runs; env: ML_INTERN_RUNS_DIR]",
            rich_help_panel=_SHARED,
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object on stdout, nothing else there.", rich_help_panel=_SHARED
        ),
    ] = False
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No progress: results and errors only.", rich_help_panel=_SHARED),
    ] = False
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an unexpected error.", rich_help_panel=_SHARED),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WallOptions:
    """What stands around the programs of a path."""

    wall: Annotated[
        WallName | None,
        typer.Option(
            metavar="NAME",
            help=f"Around the programs: {', '.join(get_args(WallName))}. [default: auto]",
            rich_help_panel=_COURSE,
        ),
    ] = None
    docker_image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="What --wall docker runs them in.", rich_help_panel=_COURSE),
    ] = None
    allow_unsandboxed: Annotated[
        bool,
        typer.Option(
            "--allow-unsandboxed",
            help="Run code that is not shipped even where no wall stands.",
            rich_help_panel=_COURSE,
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceOptions:
    """Whether somebody is there to be asked."""

    headless: Annotated[
        bool,
        typer.Option(
            "--headless",
            "-p",
            help="Ask nothing; take defaults and write them down.",
            rich_help_panel=_COURSE,
        ),
    ] = False
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Take the default of every question.", rich_help_panel=_COURSE),
    ] = False

    def to_run_options(
        self,
        *,
        is_headless: bool,
        until: str | None = None,
        parallel: int | None = None,
        walls: WallOptions | None = None,
    ) -> RunOptions:
        """As the runs understand them; without a terminal on stdin a run is headless."""
        from ml_intern_cli.runs.options import RunOptions

        given = asdict(self) | {"headless": self.headless or is_headless}
        return RunOptions(**given, **(asdict(walls) if walls else {}), until=until, parallel=parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingOptions(PresenceOptions):
    """Who thinks, and at what price."""

    brain: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            parser=_read(brain_name),
            help=f"Who thinks: {', '.join(BRAIN_NAMES)}, or replay:FILE with a recorded session.jsonl. "
            "auto takes what has a key, else blueprint.",
            rich_help_panel=_BRAIN,
        ),
    ] = "auto"
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The language model that plans and writes.", rich_help_panel=_BRAIN
        ),
    ] = None
    cheap_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The one for research and summaries.", rich_help_panel=_BRAIN),
    ] = None
    effort: Annotated[
        EffortName | None,
        typer.Option(
            metavar="LEVEL",
            help=f"How hard it thinks: {', '.join(get_args(EffortName))}. [default: the model's]",
            rich_help_panel=_BRAIN,
        ),
    ] = None
    falls_back: Annotated[
        bool,
        typer.Option(
            "--fall-back",
            help="Go on with the blueprint brain when the model's service fails.",
            rich_help_panel=_BRAIN,
        ),
    ] = False
    max_usd: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Money for language models over the whole run, in dollars. [default: 5]",
            rich_help_panel=_BRAIN,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingOptions(ThinkingOptions):
    """What shapes a run; each wins over the sentence."""

    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FILE", help="A Hub id, a file, a folder or builtin:stories.", rich_help_panel=_TASK
        ),
    ] = None
    dataset_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column that holds the text.", rich_help_panel=_TASK),
    ] = None
    params: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_read(quantities.parse_params),
            help="Number of parameters, such as 100M.",
            rich_help_panel=_TASK,
        ),
    ] = None
    seq_len: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=_read(quantities.parse_seq_len),
            help="Sequence length, such as 256 or 1k.",
            rich_help_panel=_TASK,
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Seed of everything random.", rich_help_panel=_TASK)
    ] = None
    time_budget_s: Annotated[
        float | None,
        typer.Option(
            "--time-budget",
            metavar="TIME",
            parser=_read(quantities.parse_duration),
            help="Compute for the whole run, such as 20m or 1h30m.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    token_budget: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=_read(quantities.parse_tokens),
            help="Training tokens for the whole run, such as 5M.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    max_paths: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=26, help="Candidate solutions.", rich_help_panel=_BUDGET),
    ] = None
    max_retries: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Repairs per failed path.", rich_help_panel=_BUDGET)
    ] = None
    publish: Annotated[
        PublishName | None,
        typer.Option(
            metavar="PLACE",
            help="Where the verified model goes: hub, folder or none.",
            rich_help_panel=_COURSE,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingOptions(ShapingOptions):
    """What is said when a run is started."""

    slug: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of a new run.", rich_help_panel=_COURSE)
    ] = None
    new: Annotated[
        bool,
        typer.Option("--new", help="Start afresh, even if this task has a run.", rich_help_panel=_COURSE),
    ] = False


TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", show_default=False, help="One sentence: what to build, at what size.")
]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK|SLUG",
        show_default=False,
        help="A sentence starts a run; a slug, or the path of a run, goes on with it.",
        autocompletion=completion.slugs,
    ),
]
SlugArgument = Annotated[
    str,
    typer.Argument(
        metavar="SLUG",
        show_default=False,
        help="A run's name (see ml-intern list) or its path.",
        autocompletion=completion.slugs,
    ),
]
UntilOption = Annotated[
    StageName | None,
    typer.Option(
        metavar="STAGE", help=f"Stop after one of: {', '.join(get_args(StageName))}.", rich_help_panel=_COURSE
    ),
]
ParallelOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=64,
        help="Paths side by side, if memory carries them; kept with the run. [default: one per GPU, else 1]",
        rich_help_panel=_COURSE,
    ),
]
PathOption = Annotated[
    str | None,
    typer.Option("--path", metavar="ID", help="Only this path. [default: all]", rich_help_panel=_COURSE),
]
PublishOption = Annotated[
    PublishName | None,
    typer.Option(
        "--publish",
        metavar="PLACE",
        help="hub, folder or none. [default: as TASK.md says]",
        rich_help_panel=_COURSE,
    ),
]
SessionOption = Annotated[
    bool,
    typer.Option(
        "--with-session",
        help="Publish session.jsonl too, scrubbed: all that was said to language models.",
        rich_help_panel=_COURSE,
    ),
]
ArchitectureArgument = Annotated[
    str,
    typer.Argument(
        metavar="ARCH",
        show_default=False,
        help="An architecture (see ml-intern blueprints), in any spelling.",
        autocompletion=completion.blueprints,
    ),
]
BlueprintArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="One of them, for its card.",
        autocompletion=completion.blueprints,
    ),
]
ProbeArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", show_default=False, help="One of them, for its whole story."),
]
ParamsArgument = Annotated[
    int,
    typer.Argument(
        metavar="PARAMS",
        show_default=False,
        parser=_read(quantities.parse_params),
        help="The wanted number of parameters, such as 100M.",
    ),
]
VocabularyOption = Annotated[
    int | None,
    typer.Option(
        "--vocab-size", metavar="N", min=2, help="Size of the vocabulary. [default: the blueprint's]"
    ),
]
SequenceOption = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        metavar="TOKENS",
        parser=_read(quantities.parse_seq_len),
        help="Sequence length. [default: the blueprint's]",
        rich_help_panel="Options",
    ),
]
