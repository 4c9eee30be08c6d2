"""From what the user calls a dataset to its documents."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ml_intern_cli.access import HubAccess
from ml_intern_cli.data.corpus import TextSource, split_of
from ml_intern_cli.data.hub import HubSource, unavailable
from ml_intern_cli.data.local import SUFFIXES, LocalSource
from ml_intern_cli.data.stories import generate, grammar, log_prob
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import InvalidInput

__all__ = ["TextSource", "default_dataset", "open_source"]

BUILTIN_STORIES = "builtin:stories"
HUB_DEFAULT = "roneneldan/TinyStories"
_PROBE_TIMEOUT_S = 3.0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


class StorySource:
    """builtin:stories; endless.

    Equal texts share a split, because the hash of the text decides it. That conditions each split on a fact
    about the hash that no model can use, so the grammar's probabilities hold in all of them.
    """

    id = BUILTIN_STORIES
    license = "Apache-2.0"
    url = None
    column = None

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.revision = f"grammar {grammar().version}, seed {seed}"

    def documents(self, split: Split) -> Iterator[str]:
        """The stories of a split, in order of their index."""
        stories = (generate(self._seed, index).text for index in count())
        return (text for text in stories if split_of(text) is split)

    def log_prob(self, text: str) -> float:
        """The exact log-probability of a story in nats."""
        return log_prob(text)


def open_source(
    spec: str | None, *, column: str | None = None, hub: HubAccess, seed: int, cwd: Path
) -> TextSource:
    """The corpus that the user named.

    Args:
        spec: "builtin:stories", a file or directory, or a Hub id "org/name" or "org/name:config". ``None``
            takes :func:`default_dataset`.
        column: The text column of a table, where the user named it.
        hub: How to reach the Hub.
        seed: Of the built-in corpus.
        cwd: What relative paths are relative to.

    Raises:
        InvalidInput: the files cannot be used.
        Blocked: it cannot be had. Nothing is ever put in its place.
    """
    if spec is None:
        spec, _ = default_dataset(hub)
    if spec == BUILTIN_STORIES:
        return StorySource(seed)
    if spec.startswith("builtin:"):
        raise InvalidInput(
            f"no built-in corpus {spec!r}", hint=f"the one there is: --dataset {BUILTIN_STORIES}"
        )
    path = cwd / Path(spec).expanduser()
    if path.exists():
        return LocalSource(path, column=column)
    if spec.startswith((".", "/", "~")) or spec.lower().endswith(SUFFIXES) or not _HUB_ID.fullmatch(spec):
        raise unavailable(spec, f"{path} does not exist")
    return HubSource(spec, column=column, hub=hub)


def default_dataset(hub: HubAccess) -> tuple[str, str]:
    """What to train on when no dataset was named, and why: TinyStories when the Hub answers at once."""
    if hub.offline:
        return BUILTIN_STORIES, "no dataset named; the Hub is switched off (HF_HUB_OFFLINE)"
    failure = _probe_hub(hub)
    if failure is None:
        return HUB_DEFAULT, "no dataset named; the Hub answers"
    return BUILTIN_STORIES, f"no dataset named; the Hub is not reachable ({failure})"


def _probe_hub(hub: HubAccess) -> str | None:
    """Why the Hub's default dataset cannot be had, or None. Never waits longer than the timeout."""
    import httpx2
    from huggingface_hub import HfApi

    outcome: list[str | None] = []

    def ask() -> None:
        try:
            HfApi(endpoint=hub.endpoint, token=hub.token or False).dataset_info(
                HUB_DEFAULT, timeout=_PROBE_TIMEOUT_S
            )
            outcome.append(None)
        except (httpx2.HTTPError, OSError) as error:
            response = getattr(error, "response", None)
            outcome.append(
                f"it answered {response.status_code}" if response is not None else type(error).__name__
            )

    # The client's own timeout does not cover name resolution, which may hang for minutes.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_TIMEOUT_S)
    return outcome[0] if outcome else f"no answer within {_PROBE_TIMEOUT_S:.0f} s"
