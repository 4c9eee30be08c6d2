"""From the word of ``--brain`` to a brain; each is imported only when it is chosen."""

from __future__ import annotations

from ml_intern_cli.brains.protocol import Brain
from ml_intern_cli.errors import InvalidInput


def choose_brain(name: str) -> Brain:
    """The brain of that name; ``auto`` takes the best there is.

    Raises:
        InvalidInput: this version has no such brain.
    """
    if name in {"auto", "blueprint"}:
        from ml_intern_cli.brains.blueprint import BlueprintBrain

        return BlueprintBrain()
    raise InvalidInput(
        f"this version has no {name} brain",
        hint="use --brain blueprint, which needs no key; see: ml-intern blueprints",
    )
