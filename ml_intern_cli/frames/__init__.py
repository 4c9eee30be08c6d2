"""Why a program failed, with the sizes: the failing line of each of its frames and the tensors in that line.

``explain`` looks at an exception; ``python -m ml_intern_cli.frames train.py`` runs a program as Python
would and adds the explanation to the traceback of what it did not catch. Nothing but the standard library
is imported, and that only once something failed: the programs run by it start as quickly as without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SNIPPET = "<-c>"
"""The file name of code that was given on the command line."""

LONGEST = 4_000  # characters of an explanation

_OUT_OF_MEMORY = (
    "out of memory", "outofmemoryerror", "memoryerror", "can't allocate memory", "cannot allocate memory",
    "unable to allocate",
)  # fmt: skip
_BEGIN = "--- the failing lines, innermost first, and the shapes in them ---"
_END = "--- end of the failing lines ---"


def explain(error: BaseException, *, root: Path, snippet: str = "") -> str:
    """The failing line of each frame below ``root``, innermost first, with the tensors in it.

    No code of the objects in those frames is run: what only a property or ``__getattr__`` would give is
    left out. Of values nothing is shown but numbers, and how many elements of a tensor are not finite.

    Args:
        error: Explained together with its ``__cause__``.
        root: Where the code is that somebody wrote; frames of libraries are left out.
        snippet: The source of frames whose file is ``SNIPPET``.

    Returns:
        At most ``LONGEST`` characters, the first line being the exception itself; where the exception
        cannot be explained, the plain traceback. Never raises.
    """
    try:
        from ml_intern_cli.frames.explanation import build

        return build(error, root=root, snippet=snippet)
    except Exception:  # noqa: BLE001 - whoever asks is handling another error, which must not be lost
        return _plain(error)


def marked(explanation: str) -> str:
    """An explanation between two lines by which it is found in a log again."""
    return f"{_BEGIN}\n{explanation}\n{_END}\n"


def without_explanations(log: str) -> str:
    """A log, or the end of one, without the explanations in it: its last line is again the exception's."""
    kept: list[str] = []
    is_inside = False
    for line in log.splitlines():
        if line == _BEGIN:
            is_inside = True
        elif line == _END:
            if not is_inside:  # the log was cut inside an explanation
                kept.clear()
            is_inside = False
        elif not is_inside:
            kept.append(line)
    return "\n".join(kept)


def explanation_in(log: str) -> str:
    """The explanation with which a log ends, but for a few lines that libraries write on their way out."""
    lines = log.splitlines()
    end = next((index for index in reversed(range(len(lines))) if lines[index] == _END), None)
    if end is None or len(lines) - end > 4:
        return ""
    begin = next((index for index in reversed(range(end)) if lines[index] in {_BEGIN, _END}), -1)
    return "\n".join(lines[begin + 1 : end])


def says_out_of_memory(text: str) -> bool:
    """Whether a message is about memory that could not be had, be it Python's, PyTorch's or NumPy's."""
    return any(words in text.casefold() for words in _OUT_OF_MEMORY)


def _plain(error: BaseException) -> str:
    try:
        import traceback

        return "".join(traceback.format_exception(error)).strip()[-LONGEST:]
    except Exception:  # noqa: BLE001 - for example the recursion limit again
        return type(error).__name__
