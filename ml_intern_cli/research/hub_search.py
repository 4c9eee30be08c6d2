"""Models and datasets of a Hub: found, and described from their cards and what the Hub knows of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, TypeVar

from ml_intern_cli.access import HubAccess, bound_answers, within
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.attempt import Service
from ml_intern_cli.research.failures import LookupFailed, NotReached, Unusable
from ml_intern_cli.research.fetch import Fetcher
from ml_intern_cli.secrets import scrub

T = TypeVar("T")
HubKind = Literal["models", "datasets"]

_TIMEOUT_S = 20.0
_MAX_CONFIGS = 20
_ID = re.compile(r"(?!\.)[\w.-]{1,96}(?:/(?!\.)[\w.-]{1,96})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A model or dataset. ``None`` is not known.

    Attributes:
        url: The page of it.
        gated: Who wants it must ask for access.
    """

    id: str
    url: str
    revision: str | None
    license: str
    gated: bool
    downloads: int | None
    likes: int | None
    modified: str
    tags: tuple[str, ...]
    num_params: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of one configuration of a dataset. ``None`` is not known."""

    config: str
    name: str
    num_rows: int | None
    num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDescription:
    """All that was found of a repository.

    Attributes:
        card: The text of its README, without the fields at the top; empty where there is none.
        columns: By configuration, the columns and their types.
        rows: The first rows of the first split, as JSON values by column.
        not_known: What could not be found out and why, a line each.
    """

    repo: HubRepo
    card: str
    files: tuple[str, ...]
    splits: tuple[Split, ...] = ()
    columns: dict[str, dict[str, str]]
    rows: tuple[dict[str, Any], ...] = ()
    not_known: tuple[str, ...] = ()


def search_hub(
    fetcher: Fetcher, kind: HubKind, query: str, *, limit: int, hub: HubAccess
) -> tuple[HubRepo, ...]:
    """Models or datasets whose name or card fits, the most downloaded first.

    Raises:
        LookupFailed: the Hub cannot be asked.
    """
    fetcher.guard.check_text(query)

    def call(api: Any) -> list[Any]:
        listed = api.list_models if kind == "models" else api.list_datasets
        return list(islice(listed(search=query, limit=limit, sort="downloads", full=True), limit))

    found = tuple(_repo(one, kind, hub) for one in _ask(fetcher, hub, call, what=f"search for {query!r}"))
    fetcher.record.name(one.url for one in found)
    return found


def describe_model(fetcher: Fetcher, repo_id: str, *, hub: HubAccess) -> HubDescription:
    """What the Hub and the card say of a model.

    Raises:
        InvalidInput: that is no id.
        LookupFailed: the Hub cannot be asked, or has no such model.
    """
    return _describe(fetcher, "models", repo_id, hub=hub)


def describe_dataset(fetcher: Fetcher, repo_id: str, *, hub: HubAccess, viewer: str | None) -> HubDescription:
    """What the Hub and the card say of a dataset, with its splits, columns and first rows.

    The viewer is the address of the service that knows the splits; ``None``: this Hub has none.

    Raises:
        InvalidInput: that is no id.
        LookupFailed: the Hub cannot be asked, or has no such dataset.
    """
    described = _describe(fetcher, "datasets", repo_id, hub=hub)
    if viewer is None:
        return _with(described, not_known="splits and columns: this Hub has no dataset viewer")
    try:
        info = fetcher.get(f"{viewer}/info", params={"dataset": repo_id}).json()
        splits, columns = _layout(info)
        rows: tuple[dict[str, Any], ...] = ()
        if splits:
            params: dict[str, str | int] = {
                "dataset": repo_id,
                "config": splits[0].config,
                "split": splits[0].name,
            }
            first = fetcher.get(f"{viewer}/first-rows", params=params).json()
            rows = tuple(row["row"] for row in first.get("rows", [])[:5])
    except LookupFailed as error:
        return _with(described, not_known=f"splits and columns: {error.message}")
    except (KeyError, TypeError, AttributeError, ValueError):
        return _with(described, not_known="splits and columns: the dataset viewer answered oddly")
    return _with(described, splits=splits, columns=columns, rows=rows)


def _describe(fetcher: Fetcher, kind: HubKind, repo_id: str, *, hub: HubAccess) -> HubDescription:
    if not _ID.fullmatch(repo_id):
        raise InvalidInput(f"{repo_id[:150]!r} is no id of the Hub", hint="write it as owner/name")
    fetcher.guard.check_text(repo_id)

    def call(api: Any) -> Any:
        info = api.model_info if kind == "models" else api.dataset_info
        return info(repo_id, timeout=_TIMEOUT_S)

    info = _ask(fetcher, hub, call, what=repo_id)
    repo = _repo(info, kind, hub)
    fetcher.record.reach(repo.url)
    card, problem = _card(fetcher, repo, hub)
    return HubDescription(
        repo=repo,
        card=card,
        files=tuple(one.rfilename for one in info.siblings or []),
        columns={},
        not_known=(problem,) if problem else (),
    )


def _ask(fetcher: Fetcher, hub: HubAccess, call: Callable[[Any], T], *, what: str) -> T:
    """One call of the library, bounded in time; its errors become ours."""
    host = hub.address.partition("://")[2]
    fetcher.check_online(host)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    api = HfApi(endpoint=hub.address, token=hub.token or False, library_name="ml-intern")

    def bounded() -> T:
        bound_answers()
        return call(api)

    try:
        return within(2 * _TIMEOUT_S, bounded)
    except GatedRepoError as error:
        raise Unusable(f"{host}: {what} is gated: ask for access on its page, and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise Unusable(f"{host}: no public {what}; a private one needs HF_TOKEN", status=404) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in {429, 500, 502, 503, 504}:
            raise _missed(fetcher, host, f"answered {status}") from error
        hint = ": it does not accept HF_TOKEN" if status == 401 and hub.token else ""
        raise Unusable(f"{host}: {what}: answered {status}{hint}", status=status) from error
    except TimeoutError as error:
        raise _missed(fetcher, host, f"no answer within {2 * _TIMEOUT_S:g} s") from error
    except Exception as error:  # of transport, or of an answer that no Hub gives
        reason = scrub(" ".join(str(error).split()), known=(hub.token, *fetcher.guard.secrets))[:200]
        raise _missed(fetcher, host, f"no network ({reason or type(error).__name__})") from error


def _missed(fetcher: Fetcher, host: str, why: str) -> NotReached:
    error = NotReached(host, why)
    fetcher.record.miss(error.message)
    return error


def _repo(info: Any, kind: HubKind, hub: HubAccess) -> HubRepo:
    named = (info.card_data or {}).get("license") if info.card_data else None
    tagged = next((tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")), "unknown")
    weights = getattr(info, "safetensors", None)
    return HubRepo(
        id=str(info.id),
        url=f"{hub.address}/{'datasets/' if kind == 'datasets' else ''}{info.id}",
        revision=info.sha,
        license=", ".join(map(str, named)) if isinstance(named, list) else str(named or tagged),
        gated=bool(info.gated),
        downloads=info.downloads,
        likes=info.likes,
        modified=f"{info.last_modified:%Y-%m-%d}" if info.last_modified else "",
        tags=tuple(map(str, info.tags or ())),
        num_params=weights.total if weights else None,
    )


def _card(fetcher: Fetcher, repo: HubRepo, hub: HubAccess) -> tuple[str, str]:
    """The text of the README at the revision that was described, and why there is none."""
    service = Service(
        base=hub.address,
        key=f"Bearer {hub.token}" if hub.token else None,
        key_name="HF_TOKEN",
        is_own=hub.endpoint is not None,
    )
    try:
        answer = fetcher.get(f"{repo.url}/resolve/{repo.revision or 'main'}/README.md", service=service)
    except LookupFailed as error:
        is_absent = isinstance(error, Unusable) and error.status == 404
        return "", "card: it has none" if is_absent else f"card: {error.message}"
    return re.sub(r"\A---\r?\n.*?\r?\n---\r?\n", "", answer.text(), flags=re.DOTALL).strip(), ""


def _layout(info: dict[str, Any]) -> tuple[tuple[Split, ...], dict[str, dict[str, str]]]:
    """Splits, and columns by configuration, from the answer of ``/info``."""
    configs = dict(islice(info["dataset_info"].items(), _MAX_CONFIGS))
    splits = tuple(
        Split(
            config=str(config),
            name=str(name),
            num_rows=split.get("num_examples"),
            num_bytes=split.get("num_bytes"),
        )
        for config, facts in configs.items()
        for name, split in (facts.get("splits") or {}).items()
    )
    columns = {
        str(config): {str(name): _type(kind) for name, kind in (facts.get("features") or {}).items()}
        for config, facts in configs.items()
    }
    return splits, columns


def _type(feature: Any) -> str:
    if not isinstance(feature, dict):
        return "list" if isinstance(feature, list) else str(feature)
    return str(feature.get("dtype") or feature.get("_type") or "struct")


def _with(described: HubDescription, *, not_known: str = "", **facts: Any) -> HubDescription:
    return replace(described, **facts, not_known=(*described.not_known, *filter(None, [not_known])))
