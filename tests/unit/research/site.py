"""A web server on loopback whose pages a test writes, and which notes what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]  # by name in lower case


@dataclass(frozen=True)
class Response:
    """What a path answers. ``stream`` writes the body itself, after the headers; ``raw`` writes all of it."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[BaseHTTPRequestHandler], None] | None = None
    raw: Callable[[BaseHTTPRequestHandler], None] | None = None


Route = Response | Callable[[Asked], Response]


def html(text: str) -> Response:
    return Response(text.encode(), headers={"Content-Type": "text/html; charset=utf-8"})


def data(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


def atom(text: str) -> Response:
    return Response(text.encode(), headers={"Content-Type": "application/atom+xml; charset=utf-8"})


def redirect(target: str, status: int = 302) -> Response:
    return Response(status=status, headers={"Location": target})


class Site:
    """``routes`` maps paths to answers; any other path is not found."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[Asked] = []
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that stops listening in the middle is what many tests are about

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        self.server = server
        self.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        self._stack.callback(self.stopped.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> tuple[str, int]:
        """As an allow-list names it."""
        return "127.0.0.1", self.port

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(parts.path, dict(parse_qsl(parts.query)), headers)
        self.asked.append(asked)
        route = self.routes.get(parts.path, Response(b"nothing here", 404))
        response = route(asked) if callable(route) else route
        if response.raw is not None:
            handler.close_connection = True
            with suppress(OSError):  # the client has heard enough
                response.raw(handler)
            return
        handler.send_response(response.status)
        for name, value in response.headers.items():
            handler.send_header(name, value)
        if response.stream is not None:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        else:
            handler.send_header("Content-Length", str(len(response.body)))
        try:
            handler.end_headers()
            if response.stream is not None:
                response.stream(handler)
            else:
                handler.wfile.write(response.body)
        except OSError:  # the client has heard enough
            handler.close_connection = True
