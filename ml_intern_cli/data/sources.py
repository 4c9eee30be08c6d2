"""From what the user calls a dataset to its documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ml_intern_cli.access import HubAccess, within
from ml_intern_cli.data.corpus import TextSource, split_of
from ml_intern_cli.data.hub import HubSource, unavailable
from ml_intern_cli.data.local import SUFFIXES, LocalSource
from ml_intern_cli.data.stories import generate, grammar, log_prob
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import InvalidInput

__all__ = ["TextSource", "default_dataset", "open_source", "pinned"]

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


def pinned(spec: str, *, cwd: Path) -> str:
    """The same dataset, in words that mean it from any working directory: a path becomes absolute."""
    path = cwd / Path(spec).expanduser()
    is_builtin = spec.startswith("builtin:")
    try:
        return str(path.resolve()) if not is_builtin and path.exists() else spec
    except OSError:  # no name that a file can have
        return spec


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
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint, token=hub.token or False)
    try:
        within(_PROBE_TIMEOUT_S, lambda: api.dataset_info(HUB_DEFAULT, timeout=_PROBE_TIMEOUT_S))
    except TimeoutError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001, what stands at that address may answer anything
        response = getattr(error, "response", None)
        return f"it answered {response.status_code}" if response is not None else type(error).__name__
    return None
