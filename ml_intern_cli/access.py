"""What the program may reach on a Hub, and as whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """One Hub, and the account on it. The token never shows in a representation.

    Attributes:
        endpoint: Address of the Hub; ``None`` is the public one.
        user: Namespace to publish under, a user or an organisation; ``None`` is the token's own.
        cache_dir: Where downloads are kept; ``None`` is the library's default.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    offline: bool = False
    cache_dir: Path | None = None

    @property
    def address(self) -> str:
        """Where pages of this Hub stand, without a trailing slash."""
        return (self.endpoint or PUBLIC_HUB).rstrip("/")
