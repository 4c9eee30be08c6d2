"""Corpora on the Hugging Face Hub, streamed at a pinned commit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ml_intern_cli.access import HubAccess, bound_answers, within
from ml_intern_cli.data.columns import Row, text_column
from ml_intern_cli.data.corpus import digest, split_of
from ml_intern_cli.documents.manifest import Split
from ml_intern_cli.errors import Blocked, MlInternError
from ml_intern_cli.secrets import scrub

_TIMEOUT_S = 20.0
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_VALIDATION_ROWS = 20_000
"""Rows of a validation split that are used; bounds what must be remembered to keep them out of training."""


class HubSource:
    """A dataset of the Hub.

    If it has a validation split, ``val`` and ``heldout`` are the halves of it and documents that are in there
    are left out of ``train``; else the hash of a text decides.
    """

    def __init__(self, spec: str, *, column: str | None, hub: HubAccess) -> None:
        """Resolves the revision and the text column.

        Args:
            spec: "org/name", or "org/name:config".
            column: The text column, if the user named one.
            hub: How to reach the Hub.

        Raises:
            Blocked: it cannot be had, or it is not clear which part of it is meant.
        """
        self.id = spec
        repo, _, config = spec.partition(":")
        info = _dataset_info(repo, hub)
        self.revision = str(info.sha)
        self.license = _license(info)
        self.url = f"{hub.address}/datasets/{repo}"
        self._parts = _load(repo, config or None, revision=self.revision, hub=hub)
        self._train = "train"
        if self._train not in self._parts:
            raise unavailable(spec, f"it has no train split; it has {', '.join(self._parts)}")
        self._validation = next((name for name in _VALIDATION_NAMES if name in self._parts), None)
        self.column = text_column(list(islice(self._rows(self._train), 100)), wanted=column, name=spec)
        self._held_digests: frozenset[int] | None = None

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, in the order of the dataset."""
        if self._validation is None:
            yield from (text for text in self._texts(self._train) if split_of(text) is split)
        elif split is Split.TRAIN:
            held = self._held()
            yield from (text for text in self._texts(self._train) if digest(text) not in held)
        else:
            half = 0 if split is Split.VAL else 1
            yield from (text for text in self._validation_texts() if digest(text) % 2 == half)

    def log_prob(self, text: str) -> None:
        """Nobody knows the probability of found text."""

    def _held(self) -> frozenset[int]:
        if self._held_digests is None:
            self._held_digests = frozenset(digest(text) for text in self._validation_texts())
        return self._held_digests

    def _validation_texts(self) -> Iterator[str]:
        return islice(self._texts(str(self._validation)), _VALIDATION_ROWS)

    def _texts(self, part: str) -> Iterator[str]:
        return (str(row[self.column]) for row in self._rows(part) if row.get(self.column))

    def _rows(self, part: str) -> Iterator[Row]:
        try:
            yield from self._parts[part]
        # Streaming raises whatever its many readers do when the connection breaks or a file is malformed.
        except Exception as error:
            raise MlInternError(
                f"reading {self.id} from the Hub failed: {_first_line(error)}",
                hint="run the same command again",
            ) from error


def unavailable(spec: str, why: str) -> Blocked:
    """The blocker for a dataset that the user named and that cannot be had; nothing takes its place."""
    return Blocked(
        f"dataset {spec} cannot be had",
        why=why,
        ways_on=[
            "make it available and run the same command again",
            "run again with --dataset ID or --dataset FILE",
            "run again with --dataset builtin:stories",
        ],
    )


def _dataset_info(repo: str, hub: HubAccess) -> Any:
    if hub.offline:
        raise unavailable(repo, "the Hub is switched off (HF_HUB_OFFLINE)")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    api = HfApi(endpoint=hub.endpoint, token=hub.token or False)
    try:
        return within(2 * _TIMEOUT_S, lambda: api.dataset_info(repo, timeout=_TIMEOUT_S))
    except GatedRepoError as error:
        raise unavailable(repo, "it is gated: ask for access on its page, and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise unavailable(repo, "the Hub has no such public dataset; a private one needs HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise unavailable(repo, "the Hub is switched off (HF_HUB_OFFLINE)") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = ": it does not accept HF_TOKEN" if status == 401 and hub.token else ""
        raise unavailable(repo, f"the Hub answered {status}{hint}") from error
    except HFValidationError as error:
        raise unavailable(repo, "this is neither an existing file nor the id of a dataset") from error
    except Exception as error:  # of transport, or of an answer that no Hub gives
        raise unavailable(repo, f"the Hub is not reachable ({type(error).__name__})") from error


def _license(info: Any) -> str:
    """The licence or licences that the dataset's card names."""
    named = (info.card_data or {}).get("license") or "unknown"
    return ", ".join(named) if isinstance(named, list) else str(named)


def _load(repo: str, config: str | None, *, revision: str, hub: HubAccess) -> dict[str, Any]:
    """The splits of a dataset as streams."""
    import datasets

    bound_answers()
    if hub.endpoint is not None:
        _send_datasets_to(hub.address)
    cache_dir = str(hub.cache_dir) if hub.cache_dir else None
    try:
        parts: Any = datasets.load_dataset(
            repo, config, revision=revision, streaming=True, token=hub.token or False, cache_dir=cache_dir
        )
    except ValueError as error:
        if "config" not in str(error).lower():
            raise unavailable(repo, str(error).splitlines()[0]) from error
        raise Blocked(
            f"dataset {repo} has several configurations",
            why=str(error).splitlines()[0],
            ways_on=[f"run again with --dataset {repo}:CONFIGURATION"],
        ) from error
    except Exception as error:  # a broken connection, card or script raises whatever its reader does
        raise unavailable(repo, _first_line(error)) from error
    return dict(parts)


def _first_line(error: Exception) -> str:
    return next(iter(scrub(str(error)).strip().splitlines()), type(error).__name__)


def _send_datasets_to(address: str) -> None:
    """Points ``datasets`` at another Hub.

    It has no argument for that, only constants that are read from the environment at import.
    """
    import datasets
    from huggingface_hub import constants

    datasets.config.HF_ENDPOINT = address
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # that would tell the public Hub the dataset's name
    constants.ENDPOINT = address
    constants.HUGGINGFACE_CO_URL_TEMPLATE = address + "/{repo_id}/resolve/{revision}/{filename}"
