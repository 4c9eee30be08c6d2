"""The error boundary: here, and only here, exceptions become messages and exit codes."""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ml_intern_cli.cli.app import app
from ml_intern_cli.cli.session import environment
from ml_intern_cli.cli.terminal import Terminal, standard_streams
from ml_intern_cli.errors import InvalidDocument, MlInternError, UnknownRun

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code. Nothing is raised."""
    arguments = sys.argv[1:] if argv is None else argv
    out, err = standard_streams(environment())
    try:
        with _termination_interrupts():
            code = _invoke(arguments)
    except MlInternError as error:
        code = error.exit_code
        _report(error, out if "--json" in arguments else None, err)
    except Exception as error:  # noqa: BLE001, the last resort: a bug must end in a message too
        code = 1
        if "--debug" in arguments:
            sys.excepthook(type(error), error, error.__traceback__)
        _report(_unexpected(error), out if "--json" in arguments else None, err)
    return code


def _invoke(arguments: list[str]) -> int:
    program = typer.main.get_command(app)
    try:
        code = program.main(arguments or ["--help"], prog_name="ml-intern", standalone_mode=False)
    except typer.TyperException as error:  # usage errors
        raise _usage_error(error) from error
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        from ml_intern_cli.runs.files import storage_failed

        raise storage_failed(error, error.filename or "the disk") from error
    except SystemExit as error:  # completion scripts end the process themselves
        code = error.code
    if not arguments:
        return 2
    return code if isinstance(code, int) else 0


def _report(error: MlInternError, out: Terminal | None, err: Terminal) -> None:
    """Say what went wrong: to people on stderr, and as the one JSON object on stdout if ``out`` is given."""
    from ml_intern_cli.secrets import scrub

    err.line(f"{err.style('error:', 'bold', 'red')} {scrub(error.message)}")
    if error.hint:
        err.line(f"  {scrub(error.hint)}")
    if out is not None:
        out.line(json.dumps({"error": _facts(error)}))


def _facts(error: MlInternError) -> dict[str, Any]:
    from ml_intern_cli.secrets import scrub

    facts: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": scrub(error.message),
        "hint": scrub(error.hint) if error.hint else None,
        "exit_code": error.exit_code,
    }
    if isinstance(error, InvalidDocument):
        facts["problems"] = [
            {"source": one.source, "line": one.line, "field": one.field, "message": scrub(one.message)}
            for one in error.problems
        ]
    if isinstance(error, UnknownRun):
        facts["nearest"] = list(error.nearest)
    return facts


class UsageFailed(MlInternError):
    """Arguments or options that the command line does not take."""

    exit_code = 2


def _usage_error(error: typer.TyperException) -> MlInternError:
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "ml-intern"
    message = error.format_message().replace("Value error, ", "")  # how Pydantic, inside Typer, begins some
    return UsageFailed(message, hint=f"see: {command} --help")


def _unexpected(error: Exception) -> MlInternError:
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    return MlInternError(f"unexpected {summary}", hint=_save_traceback(error))


def _save_traceback(error: Exception) -> str:
    import tempfile
    import traceback

    from ml_intern_cli.secrets import scrub

    text = scrub("".join(traceback.format_exception(error)))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ml-intern-", suffix=".traceback", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        return "run the same command with --debug to see where"
    return f"this is a bug in ml-intern; its traceback is in {file.name}"


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does: children are stopped, state is kept, exit code 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
