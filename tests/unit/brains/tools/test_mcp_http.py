"""MCP servers at an address, on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ml_intern_cli.brains.tools.mcp import McpServer, McpServers, http
from ml_intern_cli.brains.tools.tool import ToolFailed

PROGRAM = Path(__file__).parents[3] / "mcp_server.py"
SECRET = {"Authorization": "Bearer header-secret"}


class Answers(BaseHTTPRequestHandler):
    """Answers every request alike, and keeps its headers."""

    status = 200
    extra: tuple[tuple[str, str], ...] = ()
    body = b""
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        for name, value in self.extra:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_DELETE = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[object]:
    """Makes servers that answer as they are told; each with its address and what it saw."""
    servers = []

    def make(status: int, *extra: tuple[str, str], body: bytes = b"") -> tuple[str, list[dict[str, str]]]:
        seen: list[dict[str, str]] = []
        handler = type("Handler", (Answers,), {"status": status, "extra": extra, "body": body, "seen": seen})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/mcp", seen

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The SDK's own server, its address, and where it notes the headers it gets."""
    facts = tmp_path / "facts"
    server = subprocess.Popen([sys.executable, str(PROGRAM), "http", str(facts)])
    try:
        until = time.monotonic() + 60
        while not (facts.exists() and facts.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        yield server, f"http://127.0.0.1:{facts.read_text().splitlines()[0]}/mcp", facts
    finally:
        server.kill()
        server.wait()


def held(url: str, **more: object) -> McpServers:
    server = McpServer.model_validate({"url": url, "headers": SECRET, "timeout_s": 20, **more})
    return McpServers({"far": server}, approve=lambda _: False, environment={"HF_TOKEN": "hf_" + "x" * 34})


def test_a_real_server_is_called_with_its_headers_and_nothing_of_ours(real):
    _, url, facts = real
    with held(url) as servers:
        tools = {tool.name: tool for tool in servers.tools(())}
        assert "42" in tools["mcp__far__add"].call({"a": 2, "b": 40})
        with pytest.raises(ToolFailed, match="was not approved"):
            tools["mcp__far__write"].call({})
    requests = [json.loads(line) for line in facts.read_text().splitlines()[1:]]
    assert requests
    assert all(one["authorization"] == SECRET["Authorization"] for one in requests)
    assert "hf_" not in facts.read_text()


def test_a_server_that_goes_away_makes_its_tools_fail(real):
    server, url, _ = real
    with held(url) as servers:
        tools = {tool.name: tool for tool in servers.tools(())}
        server.kill()
        server.wait()
        for _ in range(2):
            with pytest.raises(ToolFailed, match="the MCP server far"):
                tools["mcp__far__add"].call({"a": 2, "b": 40})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_gets_nothing(status, answering):
    other, seen_there = answering(200)
    url, seen = answering(status, ("Location", other))
    with held(url) as servers:
        assert not servers.tools(())
        assert "not followed" in servers.notes[0]
    assert seen
    assert not seen_there


@pytest.mark.parametrize(
    ("status", "extra", "body"),
    [
        (401, (), b""),
        (500, (("Content-Type", "text/html"),), b"<html>header-secret</html>"),
        (200, (("Content-Type", "text/html"),), b"<html>"),
        (200, (("Content-Type", "application/json"),), b"not json"),
        (200, (("Content-Type", "application/json"), ("Content-Encoding", "gzip")), b"\x1f\x8b"),
        (200, (("Content-Type", "text/event-stream"),), b"data: header-secret\n\n"),
    ],
)
def test_an_address_that_speaks_no_mcp_is_a_note(status, extra, body, answering, capfd):
    url, _ = answering(status, *extra, body=body)
    with held(url) as servers:
        assert not servers.tools(())
        (note,) = servers.notes
        assert note.startswith("the MCP server far is left out: ")
        assert "header-secret" not in note
    assert capfd.readouterr().err == ""


def test_an_answer_that_is_too_large_is_not_taken(answering, monkeypatch):
    monkeypatch.setattr(http, "_MOST_ANSWER_BYTES", 1000)
    url, _ = answering(200, ("Content-Type", "application/json"), body=b" " * 100_000)
    with held(url) as servers:
        assert not servers.tools(())
        assert "answers with more than" in servers.notes[0]


def test_nobody_at_the_address_is_a_note(answering):
    with held("http://127.0.0.1:9/mcp") as servers:
        assert not servers.tools(())
        assert "the MCP server far is left out: " in servers.notes[0]
