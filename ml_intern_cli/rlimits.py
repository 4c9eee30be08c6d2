"""Resource limits of a process, never above those that it was started with: setrlimit(2)."""

from __future__ import annotations

import resource


def lower(what: int, most: int) -> None:
    """Set both limits of ``resource.RLIMIT_…`` to ``most``, or to the hard limit where that is lower."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY and (most == resource.RLIM_INFINITY or most > hard):
        most = hard
    resource.setrlimit(what, (most, most))
