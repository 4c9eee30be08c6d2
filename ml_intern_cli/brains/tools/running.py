"""Trying code: programs in the path's folder, the judge's smoke, and whether it compiles."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from typing import Any

from pydantic import Field, field_validator, model_validator

from ml_intern_cli.brains.protocol import Ran, Workbench
from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.output import Outputs
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.smoke import Smoke

_MOST_S = 120
_MOST_CODE = 100_000  # bytes; Linux takes no longer argument than 128 KiB


class RunPython(Arguments):
    """A snippet or a file."""

    code: str | None = Field(default=None, description="a program, given as it is")
    file: str | None = Field(default=None, description="a file of the folder, instead of code")
    arguments: tuple[str, ...] = Field(default=(), max_length=20)
    seconds: int = Field(default=60, ge=1, le=_MOST_S, description="after which it is stopped")

    @field_validator("code", "arguments")
    @classmethod
    def _fits_a_command_line(cls, given: Any) -> Any:
        for text in (given,) if isinstance(given, str) else given or ():
            if "\0" in text or len(text.encode(errors="replace")) > _MOST_CODE:
                raise ValueError(
                    f"must have no NUL and at most {_MOST_CODE:,} bytes; write a file and run that"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("holds half a character (a lone surrogate)")
        return given

    @model_validator(mode="after")
    def _one_of_them(self) -> RunPython:
        if (self.code is None) == (self.file is None):
            raise ValueError("give either code or file")
        return self


class Nothing(Arguments):
    """Takes nothing."""


def running_tools(bench: Workbench, outputs: Outputs) -> tuple[Tool, ...]:
    """The tools of a workbench."""
    folder = Folder(bench.folder)

    def run_python(given: RunPython) -> str:
        if given.file is not None:
            folder.read(given.file)  # refuses what is not in the folder
            program: tuple[str, ...] = (given.file,)
        else:
            program = ("-c", given.code or "")
        argv = (sys.executable, "-u", "-m", "ml_intern_cli.frames", *program, *given.arguments)
        ran = bench.run(argv, limit_s=given.seconds)
        return outputs.bounded(f"{_ending(ran)}\n{ran.output}", name="run")

    def smoke(_: Nothing) -> str:
        return outputs.bounded(smoke_text(bench.smoke()), name="smoke")

    def check_code(_: Nothing) -> str:
        names = [line.split("  ")[0] for line in folder.names()]
        problems = [problem for name in names if name.endswith(".py") for problem in _problems(folder, name)]
        return "\n".join(problems) or "every program compiles, and what it imports is installed"

    return (
        tool(
            "run_python",
            "Runs Python in the folder, behind a wall: no network, nothing writable but the folder, at most "
            f"{_MOST_S} s. Its time counts against the path's own training.",
            RunPython,
            run_python,
            read_only=False,
        ),
        tool(
            "smoke",
            "The judge's verdict on the code as it stands: shapes, causality, gradients, size and more.",
            Nothing,
            smoke,
            read_only=False,
        ),
        tool(
            "check_code",
            "Whether every program of the folder compiles, and whether what it imports is installed.",
            Nothing,
            check_code,
            read_only=True,
        ),
    )


def smoke_text(smoke: Smoke) -> str:
    """Every probe in a line, failures first and in words."""
    failed = [one for one in smoke.probes if one.verdict is Verdict.FAIL]
    passed = [one for one in smoke.probes if one.verdict is Verdict.PASS]
    lines = [f"{len(passed)} of {len(smoke.probes)} probes pass, took {smoke.seconds:.1f} s"]
    lines += [
        f"FAIL {one.name}: measured {one.measured}, allowed {one.threshold}. {one.detail}" for one in failed
    ]
    lines += [f"pass {one.name}: {one.measured} (allowed {one.threshold})" for one in passed]
    return "\n".join(lines)


def _ending(ran: Ran) -> str:
    took = f"took {ran.seconds:.1f} s"
    if ran.out_of_time:
        return f"stopped: it was not done after {ran.seconds:.1f} s"
    if ran.exit_code < 0:
        return f"killed by signal {-ran.exit_code}, {took}"
    return f"exit code {ran.exit_code}, {took}"


def _problems(folder: Folder, name: str) -> list[str]:
    try:
        text = folder.read(name)
        tree = ast.parse(text, name)
    except ToolFailed as error:
        return [error.message]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return [f"{name}: does not compile: {error}"]
    imported = {
        (node.lineno, module.partition(".")[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in _modules(node)
    }
    own = {"model", "eval", "train"}
    return [
        f"{name}:{line}: there is no module {module!r} here"
        for line, module in sorted(imported)
        if module not in own and not _is_installed(module)
    ]


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if node.module and not node.level else []


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError) as error:
        raise ToolFailed(f"{module!r} is no name of a module") from error
