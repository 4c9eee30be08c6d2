"""A Hugging Face Hub on this machine, for the real `huggingface_hub` client.

Two servers, as in the world: the Hub, which knows accounts, repositories and commits, and a storage
host for large files, which the client is redirected to and must never show its token. Content is
kept in memory. What is spoken: whoami, create, YAML validation, preupload, LFS batch and upload,
commit, repository information, tree, paths-info, resolve, search; for models and datasets. Xet is
not: inside the context the client is told to do without it, and `environ` tells child processes.

    with LoopbackHub() as hub:
        hub.fail("PUT /lfs/", status=503)
        HfApi(endpoint=hub.url, token=hub.token).upload_folder(...)
        assert hub.files("me/name")["README.md"] == b"..."
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".parquet", ".arrow")  # kept on the storage host, as the Hub's defaults do


@dataclass(frozen=True)
class File:
    """Content at one path of a repository."""

    content: bytes
    is_large: bool

    @property
    def blob_id(self) -> str:
        """Git's name for the content."""
        return hashlib.sha1(
            b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False
        ).hexdigest()

    @property
    def sha256(self) -> str:
        """The content's name on the storage host."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    """Commits, oldest first; each is a whole tree."""

    repo_id: str
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The newest commit."""
        return next(reversed(self.commits))

    def commit(self, files: dict[str, File]) -> str:
        """Add a commit; returns its id."""
        content = sorted((path, file.sha256) for path, file in files.items())
        seed = f"{self.repo_id} {len(self.commits)} {content}"
        oid = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = files
        return oid

    def tree(self, revision: str) -> dict[str, File] | None:
        """The files at a commit or at main."""
        return self.commits.get(self.head if revision == "main" else revision)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match."""

    pattern: re.Pattern[str]
    times: int
    status: int | None  # None: the connection is dropped
    delay_s: float
    headers: dict[str, str] | None = None
    after: bool = False  # the request is served, and only its answer is lost


@dataclass(frozen=True)
class Request:
    """One request as it arrived. ``host`` is "hub" or "storage"."""

    host: str
    method: str
    path: str
    authorization: str | None


class LoopbackHub:
    """The Hub. ``token`` is ``account``'s, which may write to its own namespace and to ``organizations``."""

    def __init__(self, *, account: str = "me", organizations: tuple[str, ...] = ("an-org",)) -> None:
        self.account = account
        self.organizations = organizations
        self.token = "hf_" + "LoopbackLoopbackLoopback0000000000"
        self.repositories: dict[tuple[str, str], Repository] = {}  # by ("models" | "datasets", repo_id)
        self.storage: dict[str, bytes] = {}  # by sha256
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        from huggingface_hub import close_session, constants

        self._stack = ExitStack()
        self.url = self._serve(_HubHandler)
        self.storage_url = self._serve(_StorageHandler)
        self._stack.enter_context(mock.patch.object(constants, "HF_HUB_DISABLE_XET", new=True))
        self._stack.callback(close_session)  # or a kept connection would be used against the next server
        self._stack.callback(self.stopped.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, handler: type[_Handler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}"

    @property
    def environ(self) -> dict[str, str]:
        """For a child process that uses the Hub itself."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1"}

    def fail(
        self,
        pattern: str,
        *,
        status: int | None = None,
        times: int = 1,
        delay_s: float = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Let requests whose ``METHOD /path`` matches fail: with a status, or by dropping the connection."""
        self.faults.append(Fault(re.compile(pattern), times, status, delay_s, headers))

    def lose_answer(self, pattern: str) -> None:
        """Serve the next matching request, and drop the connection before its answer is sent."""
        self.faults.append(Fault(re.compile(pattern), 1, None, 0, after=True))

    def delay(self, pattern: str, *, delay_s: float, times: int = 1) -> None:
        """Answer matching requests late."""
        self.faults.append(Fault(re.compile(pattern), times, 0, delay_s))

    def add(self, repo_id: str, files: dict[str, bytes], *, kind: str = "models") -> str:
        """Put a repository there, or a commit on top of it; returns the commit."""
        repository = self.repositories.setdefault((kind, repo_id), Repository(repo_id))
        tree = {path: File(content, path.endswith(LARGE)) for path, content in files.items()}
        self.storage |= {file.sha256: file.content for file in tree.values() if file.is_large}
        return repository.commit(tree)

    def files(self, repo_id: str, *, kind: str = "models") -> dict[str, bytes]:
        """Content of the newest commit."""
        repository = self.repositories[kind, repo_id]
        return {path: file.content for path, file in repository.commits[repository.head].items()}

    def count(self, pattern: str) -> int:
        """How many requests so far match ``METHOD /path``."""
        return sum(bool(re.search(pattern, f"{request.method} {request.path}")) for request in self.requests)

    def fault_for(self, request: str) -> Fault | None:
        """The fault that is due for a request, counted down."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.pattern.search(request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """Reads the body, notes the request, injects faults; ``routes`` answers the rest."""

    hub: ClassVar[LoopbackHub]
    host: ClassVar[str]
    routes: ClassVar[tuple[tuple[str, str], ...]]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def handle_method(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._read_chunks()
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        authorization = self.headers.get("Authorization")
        with self.hub.lock:
            self.hub.requests.append(Request(self.host, self.command, path, authorization))
        fault = self.hub.fault_for(f"{self.command} {path}")
        if fault is not None:
            self.hub.stopped.wait(fault.delay_s)
            if fault.status is None:
                self.close_connection = True
                if not fault.after:
                    return
                self.wfile = io.BytesIO()
            if fault.status:
                self.answer({"error": "a scripted fault"}, status=fault.status, headers=fault.headers)
                return
        if authorization not in {None, f"Bearer {self.hub.token}"}:
            self.refuse(401, "Invalid credentials in Authorization header")
            return
        for route, name in self.routes:
            if match := re.fullmatch(route, f"{self.command} {path}"):
                getattr(self, name)(**match.groupdict())
                return
        self.refuse(404, f"no such route: {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_method  # noqa: N815

    def _read_chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are, anything else as JSON."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, header in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        """Send an error as the Hub does: in headers, which a HEAD request can carry too."""
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer({"error": message}, status=status, headers=headers)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class _StorageHandler(_Handler):
    """Large files by hash. A token in a request here has left the host it belongs to."""

    host = "storage"
    routes = (
        (r"PUT /lfs/(?P<oid>\w+)", "put"),
        (r"(GET|HEAD) /lfs/(?P<oid>\w+)", "get"),
    )

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.refuse(400, "the content is not what was announced")
            return
        self.hub.storage[oid] = self.body
        self.answer(b"")

    def get(self, oid: str) -> None:
        content = self.hub.storage[oid]
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            span = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            self.answer(content[start : end + 1], status=206, headers=span)
            return
        self.answer(content)


class _HubHandler(_Handler):
    """Accounts, repositories, commits."""

    host = "hub"
    _API = r"/api/(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
    _PAGE = r"/(?:(?P<kind>datasets)/)?(?P<repo_id>[^/]+/[^/]+)"
    routes = (
        (r"GET /api/whoami-v2", "whoami"),
        (r"POST /api/validate-yaml", "validate_yaml"),
        (r"POST /api/repos/create", "create"),
        (rf"POST {_API}/preupload/(?P<revision>[^/]+)", "preupload"),
        (rf"POST {_PAGE}\.git/info/lfs/objects/batch", "lfs_batch"),
        (rf"POST {_API}/commit/(?P<revision>[^/]+)", "commit"),
        (rf"POST {_API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        (rf"GET {_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
        (rf"GET {_API}(?:/revision/(?P<revision>[^/]+))?", "info"),
        (r"GET /api/(?P<kind>models|datasets)", "search"),
        (rf"(GET|HEAD) {_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def whoami(self) -> None:
        if self._may_write(self.hub.account):
            orgs = [{"name": name, "type": "org"} for name in self.hub.organizations]
            self.answer(
                {"type": "user", "name": self.hub.account, "orgs": orgs, "auth": {"type": "access_token"}}
            )

    def validate_yaml(self) -> None:
        _, front_matter, _ = json.loads(self.body)["content"].split("---\n", 2)
        try:
            metadata = yaml.safe_load(front_matter)
        except yaml.YAMLError as error:
            self.answer({"errors": [{"message": str(error)}], "warnings": []}, status=400)
            return
        unknown = [] if metadata.get("license") else [{"message": "no license"}]
        self.answer({"errors": [], "warnings": unknown})

    def create(self) -> None:
        wanted = json.loads(self.body)
        namespace = wanted.get("organization") or self.hub.account
        if not self._may_write(namespace):
            return
        repo_id, kind = f"{namespace}/{wanted['name']}", f"{wanted.get('type', 'model')}s"
        with self.hub.lock:
            is_taken = (kind, repo_id) in self.hub.repositories
            if not is_taken:
                self.hub.repositories[kind, repo_id] = repository = Repository(repo_id)
                repository.commit({".gitattributes": File(b"*.safetensors filter=lfs\n", is_large=False)})
        if is_taken:
            self.refuse(409, "You already created this model repo")
        else:
            self.answer({"url": f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"})

    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        if not (
            self._may_write(repo_id.split("/", 1)[0]) and (repository := self._repository(kind, repo_id))
        ):
            return
        known = repository.tree(revision) or {}
        modes = []
        for entry in json.loads(self.body)["files"]:
            path, old = entry["path"], known.get(entry["path"])
            mode = "lfs" if path.endswith(LARGE) else "regular"
            oid = None if old is None else old.sha256 if old.is_large else old.blob_id
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": modes})

    def lfs_batch(self, repo_id: str, kind: str | None) -> None:
        if not self._may_write(repo_id.split("/", 1)[0]):
            return
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(self.body)["objects"]:
            found = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.storage:
                found["actions"] = {"upload": {"href": f"{self.hub.storage_url}/lfs/{wanted['oid']}"}}
            objects.append(found)
        self.answer({"transfer": "basic", "objects": objects})

    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        if not (
            self._may_write(repo_id.split("/", 1)[0]) and (repository := self._repository(kind, repo_id))
        ):
            return
        files = dict(repository.tree(revision) or {})
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), is_large=False)
                case "lfsFile" if value["oid"] in self.hub.storage:
                    files[value["path"]] = File(self.hub.storage[value["oid"]], is_large=True)
                case "deletedFile":
                    del files[value["path"]]
                case "header":
                    pass
                case key:
                    self.refuse(400, f"cannot do {key}")
                    return
        oid = repository.commit(files)
        self.answer(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
        )

    def info(self, kind: str, repo_id: str, revision: str | None) -> None:
        if repository := self._repository(kind, repo_id):
            revision = repository.head if revision in {None, "main"} else revision
            tree = repository.tree(revision)
            if tree is None:
                self.refuse(404, "Invalid rev id", "RevisionNotFound")
                return
            siblings = [{"rfilename": path} for path in tree]
            self.answer({"id": repo_id, "sha": revision, "private": False, "tags": [], "siblings": siblings})

    def tree(self, kind: str, repo_id: str, revision: str, folder: str | None) -> None:
        files = self._tree(kind, repo_id, revision)
        if files is None:
            return
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in files.items() if path.startswith(prefix)}
        if prefix and not inside:
            self.refuse(404, f"{folder} does not exist", "EntryNotFound")
            return
        entries = []
        folders = set()
        for path, file in sorted(inside.items()):
            name, *deeper = path.removeprefix(prefix).split("/")
            if deeper and "true" not in self.query.get("recursive", ["false"])[0].lower():
                folders.add(prefix + name)
            else:
                entries.append(_entry(path, file))
        self.answer(
            [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
            + entries
        )

    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        files = self._tree(kind, repo_id, revision)
        if files is not None:
            wanted = parse_qs(self.body.decode()).get("paths", [])
            found = [_entry(path, files[path]) for path in wanted if path in files]
            found += [
                {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
                for path in wanted
                if any(known.startswith(f"{path}/") for known in files)
            ]
            self.answer(found)

    def search(self, kind: str) -> None:
        wanted = self.query.get("search", [""])[0].lower()
        found = [
            repo_id for known, repo_id in self.hub.repositories if known == kind and wanted in repo_id.lower()
        ]
        self.answer([{"id": repo_id, "tags": [], "downloads": 0, "likes": 0} for repo_id in found])

    def resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(kind or "models", repo_id)
        files = repository and self._tree(kind or "models", repo_id, revision)
        if not repository or files is None:
            return
        if path not in files:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        file = files[path]
        headers = {"X-Repo-Commit": repository.head if revision == "main" else revision}
        if file.is_large:
            headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.sha256}"'}
            headers |= {"Location": f"{self.hub.storage_url}/lfs/{file.sha256}", "ETag": f'"{file.sha256}"'}
            self.answer(b"", status=302, headers=headers)
        else:
            self.answer(file.content, headers=headers | {"ETag": f'"{file.blob_id}"'})

    def _may_write(self, namespace: str) -> bool:
        """Refuses, and says so, when the request has no token or one for another namespace."""
        if not self.headers.get("Authorization"):
            self.refuse(401, "Invalid username or password.")
            return False
        if namespace not in {self.hub.account, *self.hub.organizations}:
            self.refuse(403, f"You don't have the rights to write to {namespace}")
            return False
        return True

    def _repository(self, kind: str, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None:
            self.refuse(404, "Repository not found", "RepoNotFound")
        return repository

    def _tree(self, kind: str, repo_id: str, revision: str) -> dict[str, File] | None:
        repository = self._repository(kind, repo_id)
        if repository is None:
            return None
        files = repository.tree(revision)
        if files is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return files


def _entry(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
    if file.is_large:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
    return entry
