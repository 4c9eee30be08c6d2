"""One server: connected to, asked for its tools, called, and let go, all inside one task of the event loop.

Whatever happens to a server ends this connection and nothing else; ``why_not`` then says what it was.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_intern_cli import __version__
from ml_intern_cli.brains.tools.mcp.http import open_http
from ml_intern_cli.brains.tools.mcp.schema import printable
from ml_intern_cli.brains.tools.mcp.settings import McpServer
from ml_intern_cli.brains.tools.mcp.stdio import StdioServer, surroundings
from ml_intern_cli.brains.tools.tool import ToolFailed
from ml_intern_cli.secrets import scrub

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

_MOST_PAGES = 20
_LONGEST_REASON = 300
_REASON_WITHIN_S = 6.0


class Connection:
    """One server of the user's.

    Args:
        environment: The user's own, of which a program gets what it may have.
    """

    def __init__(self, name: str, server: McpServer, *, environment: Mapping[str, str]) -> None:
        self.name = name
        self.server = server
        self.why_not: str | None = None
        self._secrets = server.secrets(environment)
        self._may_end = asyncio.Event()
        self._program = _program(server, environment, on_end=self._may_end.set)
        self._client: Client | None = None
        self._listed: tuple[Tool, ...] = ()
        self._is_ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect. To be called inside the event loop, as all below."""
        self._task = asyncio.create_task(self._hold(), name=f"mcp {self.name}")

    async def listed(self) -> tuple[Tool, ...]:
        """Its tools, once it is connected; none if it did not come to that."""
        await self._is_ready.wait()
        return self._listed

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call one of its tools.

        Raises:
            ToolFailed: no result came.
        """
        if self._client is None or self._task is None:
            raise ToolFailed(f"the MCP server {self.name} is not there: {self.why_not}")
        call = asyncio.create_task(_request(self._client, tool, arguments))
        try:
            await asyncio.wait(
                (call, self._task), timeout=self.server.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            error = call.exception() if call.done() else None
            if call.done() and error is None:
                return call.result()
            if self._may_end.is_set():  # its program has ended: why is known in a moment
                await asyncio.wait((self._task,), timeout=_REASON_WITHIN_S)
            if self._task.done():
                why_not = self.why_not
            elif call.done():
                why_not = self.clean(_reason(error))
            else:
                why_not = f"gave no answer within {self.server.timeout_s:g} s"
            raise ToolFailed(f"the MCP server {self.name}: {why_not}")
        finally:
            call.cancel()

    async def end(self, *, grace_s: float) -> None:
        """Take leave, or leave."""
        if self._task is None:
            return
        self._may_end.set()
        if not self._is_ready.is_set():
            self._task.cancel()
        await asyncio.wait((self._task,), timeout=grace_s)
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=1)

    def kill(self) -> None:
        """End its program, from any thread. Does nothing where it has ended."""
        if self._program is not None:
            self._program.kill()

    def clean(self, text: str) -> str:
        """Something that a server had a part in, as it may be shown."""
        return printable(self.scrubbed(text), _LONGEST_REASON)

    def scrubbed(self, text: str) -> str:
        """A text without what was given to this server in confidence."""
        return scrub(text, known=self._secrets)

    async def _hold(self) -> None:
        """Be connected until it is over."""
        import anyio
        from mcp import Client
        from mcp.types import Implementation

        start = anyio.CancelScope(deadline=anyio.current_time() + self.server.timeout_s)
        reason = "has ended"
        try:
            with start:
                async with Client(
                    self._transport(),
                    client_info=Implementation(name="ml-intern", version=__version__),
                    cache=None,
                    read_timeout_seconds=self.server.timeout_s,
                ) as client:
                    self._listed = await _list(client)
                    start.deadline = math.inf
                    self._client = client
                    self._is_ready.set()
                    await self._may_end.wait()
            if start.cancelled_caught:
                reason = f"did not start within {self.server.timeout_s:g} s"
        except Exception as error:  # noqa: BLE001, whatever a server and the libraries between come up with
            reason = _reason(error)
        finally:
            self._client = None
            self.why_not = self._told(reason)
            self._is_ready.set()

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        if self._program is not None:
            return self._program.open()
        return open_http(self.server.url or "", headers=self.server.headers, timeout_s=self.server.timeout_s)

    def _told(self, reason: str) -> str:
        if self._program is None:
            return self.clean(reason)
        last_words = self.clean(self._program.last_words[-_LONGEST_REASON:])
        said = f"; its last words: {last_words}" if last_words else ""
        return self.clean(self._program.fault or reason) + said


def _program(
    server: McpServer, environment: Mapping[str, str], *, on_end: Callable[[], None]
) -> StdioServer | None:
    if server.command is None:
        return None
    return StdioServer(
        server.command,
        environment=surroundings(environment, env=server.env, pass_env=server.pass_env),
        # Not where the user is: package runners look there first, and a cloned repository can hold anything.
        folder=Path(environment.get("HOME", "/")),
        on_end=on_end,
    )


async def _list(client: Client) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(tools)


async def _request(client: Client, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
    from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult

    # Not client.call_tool(): that holds the result against a schema of the server's, whose regular
    # expressions can take for ever, and with them this whole process.
    params = CallToolRequestParams(name=tool, arguments=dict(arguments))
    return await client.session.send_request(CallToolRequest(params=params), CallToolResult)


def _reason(error: BaseException | None) -> str:
    """The first cause, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
