"""Publishing a bundle, into a folder or to a Hub. It counts only after its load test has passed.

On a Hub: who am I → create the repository → upload → download that commit into an empty cache →
compare with what was sent → load test. A killed publication goes on in the repository that it made.
"""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml_intern_cli.access import HubAccess
from ml_intern_cli.errors import MlInternError, StorageFailed
from ml_intern_cli.hub.bundle import WEIGHTS
from ml_intern_cli.hub.client import HubSession, open_session

MAX_SUFFIX = 50  # of "-2", "-3", …; more taken names mean that something else is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Where a bundle went.

    Attributes:
        name: Its final name, with the suffix that a taken name needed.
        location: The address of its page, or the folder.
        revision: The Hub's commit; ``None`` for a folder.
        load_test: What the load test printed last.
    """

    name: str
    location: str
    revision: str | None
    load_test: str


def publish_folder(
    bundle_dir: Path, *, parent: Path, name: str, run_load_test: Callable[[Path], str]
) -> Publication:
    """Test the bundle where it was built, and move it to ``parent/name`` when it passed.

    A publication of that name with the same weights is this one, left by an attempt that was killed
    before it was noted, and is replaced; any other is kept, and the name gets a suffix.

    Raises:
        StorageFailed: it cannot be moved there.
        MlInternError: from ``run_load_test``, when the test fails.
    """
    line = run_load_test(bundle_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for free_name in _names(name):
            destination = parent / free_name
            if destination.exists():
                if not _has_same_weights(bundle_dir, destination):
                    continue
                shutil.rmtree(destination)
            bundle_dir.rename(destination)
            return Publication(name=free_name, location=str(destination), revision=None, load_test=line)
    except OSError as error:
        raise StorageFailed(
            f"{parent} cannot be written: {error.strerror}", hint="make room there"
        ) from error
    raise MlInternError(f"{parent} holds {MAX_SUFFIX} publications named {name}", hint="remove some of them")


def _has_same_weights(bundle_dir: Path, published: Path) -> bool:
    weights = published / WEIGHTS
    return weights.is_file() and filecmp.cmp(bundle_dir / WEIGHTS, weights, shallow=False)


def publish_hub(
    bundle_dir: Path,
    *,
    slug: str,
    name: str,
    hub: HubAccess,
    scratch_dir: Path,
    run_load_test: Callable[[Path], str],
    repo_id: str | None = None,
    on_created: Callable[[str], None],
    report: Callable[[str], None],
) -> Publication:
    """Upload the bundle to a repository of its own, and test what comes back.

    Args:
        bundle_dir: Uploaded as it is.
        slug: Of the run, for the commands in messages.
        name: Of the repository, unless it is taken.
        hub: Where, and as whom.
        scratch_dir: Has room for one download.
        run_load_test: Tests a folder in a process of its own and returns its last line.
        repo_id: The repository that an interrupted publication made.
        on_created: Told the repository before anything is uploaded to it.
        report: Told what is being done.

    Raises:
        Blocked: no token, one that is not accepted, or no network allowed.
        StorageFailed: the download does not fit on the disk.
        MlInternError: the Hub failed, or what came back is not what was sent or does not work.
    """
    with open_session(hub, slug=slug) as session:
        report(f"asking {hub.address} whose token it is")
        repo_id = _repository(session, name, made_before=repo_id, on_created=on_created)
        url = f"{hub.address}/{repo_id}"
        report(f"uploading to {url}")
        revision = _upload(session, bundle_dir, repo_id, url=url)
        with tempfile.TemporaryDirectory(dir=scratch_dir, prefix="download-") as cache_dir:
            report(f"downloading {url} again")
            downloaded = _download(session, repo_id, revision, cache_dir=Path(cache_dir), url=url)
            _compare(bundle_dir, downloaded, url=url)
            report("load test of the download")
            line = run_load_test(downloaded)
    return Publication(name=repo_id.split("/")[1], location=url, revision=revision, load_test=line)


def _repository(
    session: HubSession, name: str, *, made_before: str | None, on_created: Callable[[str], None]
) -> str:
    """The id of a repository for this publication: the one made before, or a new one."""
    account = session.ask("ask the Hub who HF_TOKEN belongs to", session.api.whoami)["name"]
    namespace = session.hub.user or account
    # A repository under another account or name, or one that was deleted since, is not gone on with.
    if (
        made_before is not None
        and made_before in _names(f"{namespace}/{name}")
        and session.ask(f"look for {made_before}", partial(session.api.repo_exists, made_before))
    ):
        return made_before
    for repo_id in _names(f"{namespace}/{name}"):
        is_new = session.ask(f"create {repo_id}", partial(_create, session, repo_id))
        # One that is there and empty was made by an attempt whose answer was lost.
        if is_new or session.ask(f"look into {repo_id}", partial(_is_empty, session, repo_id)):
            on_created(repo_id)
            return repo_id
    raise MlInternError(
        f"{session.hub.address} holds {MAX_SUFFIX} repositories named {namespace}/{name}",
        hint="remove some of them",
    )


def _create(session: HubSession, repo_id: str) -> bool:
    """Whether the repository could be created; False when the name is taken."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        session.api.create_repo(repo_id, repo_type="model", exist_ok=False)
    except HfHubHTTPError as error:
        if error.response.status_code == 409:
            return False
        raise
    return True


def _is_empty(session: HubSession, repo_id: str) -> bool:
    """Whether a repository holds nothing but what the Hub itself puts there."""
    return set(session.api.list_repo_files(repo_id)) <= {".gitattributes"}


def _upload(session: HubSession, bundle_dir: Path, repo_id: str, *, url: str) -> str:
    """Upload all files and return the commit. A second attempt sends only what is still missing."""
    commit = session.ask(
        f"upload to {url}, which may hold a part of it",
        lambda: session.api.upload_folder(
            repo_id=repo_id, folder_path=bundle_dir, commit_message="Publish a verified run of ml-intern"
        ),
        attempts=2,
    )
    return str(commit.oid)


def _download(session: HubSession, repo_id: str, revision: str, *, cache_dir: Path, url: str) -> Path:
    folder = session.ask(
        f"download {url}",
        lambda: session.api.snapshot_download(repo_id, revision=revision, cache_dir=cache_dir),
    )
    return Path(folder)


def _compare(bundle_dir: Path, downloaded: Path, *, url: str) -> None:
    """Raises MlInternError unless every file came back byte by byte."""
    names = sorted(path.name for path in bundle_dir.iterdir())
    _, different, missing = filecmp.cmpfiles(bundle_dir, downloaded, names, shallow=False)
    if different or missing:
        raise MlInternError(
            f"{url} gives back other files than were sent: {', '.join(different + missing)}",
            hint="delete that repository and publish again",
        )


def _names(wanted: str) -> Iterator[str]:
    """The name itself, then with the suffixes ``-2``, ``-3`` and so on."""
    yield wanted
    for number in range(2, MAX_SUFFIX + 1):
        yield f"{wanted}-{number}"
