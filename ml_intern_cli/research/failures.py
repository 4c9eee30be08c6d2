"""How a look-up fails. Each message is one line that says what was asked and why nothing came.

LookupFailed
├── NotReached   nobody answered: offline, no network, too slow, too busy
├── NotAllowed   it was never asked: the address leads into a private network, or gives a secret away
└── Unusable     it answered, with something that is of no use: 404, a PDF, JSON that is none
"""

from __future__ import annotations

from ml_intern_cli.errors import MlInternError


class LookupFailed(MlInternError):
    """A look-up that brought nothing."""


class NotReached(LookupFailed):
    """What was asked did not answer."""

    def __init__(self, what: str, why: str, *, hint: str | None = None) -> None:
        self.what = what
        self.why = why
        super().__init__(f"{what}: {why}", hint=hint or "check the network and run the same command again")


class NotAllowed(LookupFailed):
    """An address that this program does not ask."""


class Unusable(LookupFailed):
    """An answer that cannot be used.

    Args:
        message: What answered, and with what.
        status: Of HTTP, where that was the reason.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        self.status = status
        super().__init__(message, hint=hint)
