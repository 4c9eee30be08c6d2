"""``python -m ml_intern_cli.frames PROGRAM [args…]`` or ``-c CODE [args…]``: as plain Python, but explained.

The program is ``__main__`` with the ``sys.argv``, ``sys.path`` and exit code that it would have without;
of what it does not catch, the traceback is followed by an explanation.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ml_intern_cli.frames import SNIPPET, explain, marked

if TYPE_CHECKING:
    from types import CodeType, TracebackType

_CANNOT_OPEN = 2  # as of Python itself
_USAGE = "usage: python -m ml_intern_cli.frames PROGRAM [args…] | -c CODE [args…]\n"


def main() -> None:
    """Runs what the arguments name."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0] == "-c" and len(arguments) == 1):
        sys.stderr.write(_USAGE)
        sys.exit(_CANNOT_OPEN)
    if arguments[0] == "-c":
        _, snippet, *rest = arguments
        _run(snippet, SNIPPET, argv=["-c", *rest], folder="")
        return
    program = os.path.abspath(arguments[0])  # noqa: PTH100 - pathlib takes longer to import than all else here
    try:
        with open(program, "rb") as file:  # noqa: PTH123 - as above
            source = file.read()
    except OSError as error:
        sys.stderr.write(
            f"{sys.executable}: can't open file {program!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        sys.exit(_CANNOT_OPEN)
    _run(source, program, argv=arguments, folder=os.path.dirname(os.path.realpath(program)))  # noqa: PTH120


def _run(source: str | bytes, filename: str, *, argv: list[str], folder: str) -> None:
    """Executes the source as ``__main__``."""
    sys.argv = argv
    if not sys.flags.safe_path:
        sys.path[0] = folder  # `python -m` has put the working directory there
    variables = _new_main(None if filename == SNIPPET else filename)
    try:
        code: CodeType = compile(source, filename, "exec", dont_inherit=True)
        exec(code, variables)  # noqa: S102 - that is what this module is for
    except SystemExit:
        raise
    except BaseException as error:
        # Python itself prints it, on its way out: so threads, exit handlers and the exit code are as ever.
        _print_with_explanation(
            error.__traceback__.tb_next if error.__traceback__ else None,
            root=folder or os.getcwd(),  # noqa: PTH109 - as above
            snippet=source if isinstance(source, str) else "",
        )
        raise


def _new_main(filename: str | None) -> dict[str, Any]:
    """The variables of a new ``__main__``, which stays: pickle, spawned processes and torch look there."""
    from importlib.machinery import BuiltinImporter, SourceFileLoader

    main_module = type(sys)("__main__")
    variables = vars(main_module)
    variables.update(__builtins__=__builtins__, __annotations__={}, __loader__=BuiltinImporter)
    if filename is not None:
        variables.update(
            __file__=filename, __cached__=None, __loader__=SourceFileLoader("__main__", filename)
        )
    sys.modules["__main__"] = main_module
    return variables


def _print_with_explanation(own: TracebackType | None, *, root: str, snippet: str) -> None:
    """Has the exception that is on its way printed from the program's first frame on, and explained."""
    shown_by = sys.excepthook  # the program may have one of its own

    def show(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        shown_by(kind, error.with_traceback(own), own)
        if isinstance(error, KeyboardInterrupt):
            return
        from pathlib import Path

        explanation = explain(error, root=Path(root), snippet=snippet)
        if "\n" in explanation:  # else it says no more than the traceback
            try:
                sys.stderr.write(marked(explanation))
                sys.stderr.flush()
            except (AttributeError, OSError, ValueError):  # closed, or none
                return

    sys.excepthook = show


if __name__ == "__main__":
    main()
