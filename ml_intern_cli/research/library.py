"""All look-ups under one roof, with the addresses and accounts that they use."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml_intern_cli.access import PUBLIC_HUB, HubAccess
from ml_intern_cli.research import github, hub_search, papers, reading, web
from ml_intern_cli.research.attempt import Service
from ml_intern_cli.research.fetch import Fetcher
from ml_intern_cli.research.guard import Guard, HostPort
from ml_intern_cli.research.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the services are, without slashes at the end. The Hub's is in ``HubAccess``.

    Attributes:
        dataset_viewer: Knows the datasets of the public Hub, and is not told of any other's.
    """

    arxiv: str = "https://arxiv.org"
    arxiv_api: str = "https://export.arxiv.org"
    ar5iv: str = "https://ar5iv.labs.arxiv.org"
    scholar: str = "https://api.semanticscholar.org"
    github: str = "https://api.github.com"
    dataset_viewer: str = "https://datasets-server.huggingface.co"


_PUBLIC = Addresses()


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What can be looked up. Safe to use from several threads.

    Attributes:
        secrets: Values that no address may hold and no text may show.
        offline: Nothing is asked; the same as ``hub.offline``.
        allowed: Hosts and ports that may be private and without TLS.
        record: What answered and what did not.
    """

    hub: HubAccess
    github_token: str | None = field(default=None, repr=False)
    s2_api_key: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    offline: bool = False
    addresses: Addresses = _PUBLIC
    allowed: frozenset[HostPort] = frozenset()
    record: Record = field(default_factory=Record, init=False)
    fetcher: Fetcher = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fetcher = Fetcher(
            guard=Guard(secrets=self.hidden, allowed=self.allowed),
            record=self.record,
            is_offline=self.offline or self.hub.offline,
        )
        object.__setattr__(self, "fetcher", fetcher)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Every value that stays here."""
        own = (self.hub.token, self.github_token, self.s2_api_key)
        return tuple(dict.fromkeys(one for one in (*self.secrets, *own) if one))

    @property
    def reached(self) -> frozenset[str]:
        """Addresses whose content was had."""
        return self.record.reached

    @property
    def missed(self) -> list[str]:
        """What was not reached and why, a line each."""
        return self.record.missed

    def read_page(self, url: str, *, start: int = 0, limit: int = web.PAGE_CHARS) -> web.Page:
        """See ``web.read_page``."""
        return web.read_page(self.fetcher, url, start=start, limit=limit)

    def search_papers(self, query: str, *, limit: int = 10) -> tuple[papers.Paper, ...]:
        """See ``papers.search_papers``."""
        return papers.search_papers(
            self.fetcher, query, limit=limit, scholar=self._scholar, arxiv_api=self.addresses.arxiv_api
        )

    def paper_links(
        self, arxiv_id: str, direction: papers.Direction, *, limit: int = 20
    ) -> tuple[papers.Paper, ...]:
        """See ``papers.paper_links``."""
        return papers.paper_links(self.fetcher, arxiv_id, direction, limit=limit, scholar=self._scholar)

    def read_paper(self, arxiv_id: str) -> reading.PaperText:
        """See ``reading.read_paper``."""
        where = self.addresses
        return reading.read_paper(
            self.fetcher, arxiv_id, arxiv=where.arxiv, ar5iv=where.ar5iv, arxiv_api=where.arxiv_api
        )

    def search_hub(
        self, kind: hub_search.HubKind, query: str, *, limit: int = 10
    ) -> tuple[hub_search.HubRepo, ...]:
        """See ``hub_search.search_hub``."""
        return hub_search.search_hub(self.fetcher, kind, query, limit=limit, hub=self.hub)

    def describe_model(self, repo_id: str) -> hub_search.HubDescription:
        """See ``hub_search.describe_model``."""
        return hub_search.describe_model(self.fetcher, repo_id, hub=self.hub)

    def describe_dataset(self, repo_id: str) -> hub_search.HubDescription:
        """See ``hub_search.describe_dataset``."""
        viewer = self.addresses.dataset_viewer
        is_told = self.hub.address == PUBLIC_HUB or viewer != _PUBLIC.dataset_viewer
        return hub_search.describe_dataset(
            self.fetcher, repo_id, hub=self.hub, viewer=viewer if is_told else None
        )

    def search_repositories(self, query: str, *, limit: int = 10) -> tuple[github.Repository, ...]:
        """See ``github.search_repositories``."""
        return github.search_repositories(self.fetcher, query, limit=limit, github=self._github)

    def search_code(
        self, query: str, *, repo: str | None = None, limit: int = 10
    ) -> tuple[github.CodeHit, ...]:
        """See ``github.search_code``."""
        return github.search_code(self.fetcher, query, repo=repo, limit=limit, github=self._github)

    def read_repo_file(
        self, repo: str, path: str, *, ref: str | None = None
    ) -> github.RepoFile | tuple[github.Entry, ...]:
        """See ``github.read_repo_file``."""
        return github.read_repo_file(self.fetcher, repo, path, ref=ref, github=self._github)

    def list_repo(self, repo: str, folder: str = "", *, ref: str | None = None) -> tuple[github.Entry, ...]:
        """See ``github.list_repo``."""
        return github.list_repo(self.fetcher, repo, folder, ref=ref, github=self._github)

    @property
    def _scholar(self) -> Service:
        return Service(
            base=self.addresses.scholar, header="x-api-key", key=self.s2_api_key, key_name="S2_API_KEY"
        )

    @property
    def _github(self) -> Service:
        key = f"Bearer {self.github_token}" if self.github_token else None
        return Service(base=self.addresses.github, key=key, key_name="GITHUB_TOKEN")
