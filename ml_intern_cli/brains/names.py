"""What ``--brain`` takes."""

from __future__ import annotations

from ml_intern_cli.errors import InvalidInput

BRAIN_NAMES = ("auto", "blueprint", "anthropic", "openai")
REPLAY = "replay:"  # and the file


def brain_name(text: str) -> str:
    """A name of a brain. Raises InvalidInput."""
    if text in BRAIN_NAMES or (text.startswith(REPLAY) and text != REPLAY):
        return text
    raise InvalidInput(
        f"there is no brain named {text!r}",
        hint=f"one of: {', '.join(BRAIN_NAMES)}, {REPLAY}FILE (a recorded session.jsonl)",
    )
