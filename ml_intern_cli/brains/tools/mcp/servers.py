"""All of the user's MCP servers, held for as long as a model may call their tools.

The SDK is asynchronous: the connections live on one event loop, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ml_intern_cli.brains.tools.mcp import schema as bounds
from ml_intern_cli.brains.tools.mcp.connection import Connection
from ml_intern_cli.brains.tools.mcp.settings import McpServer
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed
from ml_intern_cli.errors import InvalidInput

if TYPE_CHECKING:
    from mcp import types

T = TypeVar("T")

_MOST_TOOLS = 64  # of one server
_LONGEST_QUESTION = 2000
_BACKSTOP_S = 15.0  # beyond a server's own time, should the loop itself be stuck
_LEAVE_WITHIN_S = 8.0


class McpServers:
    """Starts and reaches the servers on entering, ends what it started on leaving.

    Args:
        servers: By name, as configured; those that are not enabled are left alone.
        approve: Asked before every call that may change something, with ``mcp NAME: tool(arguments)``.
        environment: The user's own; a program gets little of it, and no credential that its ``pass_env``
            does not name.

    Attributes:
        notes: What went wrong with which server, for the user.
    """

    def __init__(
        self,
        servers: Mapping[str, McpServer],
        *,
        approve: Callable[[str], bool],
        environment: Mapping[str, str],
    ) -> None:
        self.notes: list[str] = []
        self._approve = approve
        self._connections = tuple(
            Connection(name, server, environment=environment)
            for name, server in servers.items()
            if server.enabled
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to connect to all of them at once.

        Raises:
            InvalidInput: the SDK is not installed.
        """
        if not self._connections:
            return self
        _require_sdk()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True)
        self._thread.start()
        for connection in self._connections:
            self._loop.call_soon_threadsafe(connection.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the servers, in order if they let us."""
        if self._loop is None or self._thread is None:
            return
        loop, self._loop = self._loop, None
        try:
            leaving = asyncio.run_coroutine_threadsafe(_end_all(self._connections), loop)
            concurrent.futures.wait((leaving,), timeout=_LEAVE_WITHIN_S + _BACKSTOP_S)
        finally:
            for connection in self._connections:
                connection.kill()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=_BACKSTOP_S)
            if not self._thread.is_alive():
                loop.close()

    def tools(self, taken: Collection[str]) -> tuple[Tool, ...]:
        """The tools of all servers that came up; waits until each has or its time is over.

        Args:
            taken: Names that are spoken for. A tool that would have one of them is left out, with a note.
        """
        names = set(taken)
        offered: list[Tool] = []
        for connection in self._connections:
            try:
                listed = self._within(connection, connection.listed())
            except ToolFailed as error:
                self.notes.append(error.message)
                continue
            if connection.why_not is not None:
                self.notes.append(f"the MCP server {connection.name} is left out: {connection.why_not}")
                continue
            for tool in self._fit(connection, listed):
                if tool.name in names:
                    self.notes.append(f"{tool.name} is left out: there is a tool of that name already")
                else:
                    names.add(tool.name)
                    offered.append(tool)
        return tuple(offered)

    def _fit(self, connection: Connection, listed: tuple[types.Tool, ...]) -> list[Tool]:
        """What a server offers, as far as it can be let in."""
        if len(listed) > _MOST_TOOLS:
            self.notes.append(
                f"the MCP server {connection.name} has {len(listed)} tools; {_MOST_TOOLS} are let in"
            )
        unknown = set(connection.server.approve) - {tool.name for tool in listed}
        if unknown:
            self.notes.append(
                f"[mcp.{connection.name}] approves of tools that are not there: {', '.join(sorted(unknown))}"
            )
        fit = []
        for tool in listed[:_MOST_TOOLS]:
            try:
                fit.append(self._tool(connection, tool))
            except bounds.Unfit as error:
                name = bounds.tool_name(connection.name, tool.name)
                self.notes.append(f"{name} is left out: {error}")
        return fit

    def _tool(self, connection: Connection, tool: types.Tool) -> Tool:
        schema = bounds.accepted(tool.input_schema)
        is_read_only = tool.annotations is not None and tool.annotations.read_only_hint is True
        is_free = is_read_only or tool.name in connection.server.approve
        return Tool(
            name=bounds.tool_name(connection.name, tool.name),
            description=bounds.description(connection.name, tool.description),
            schema=schema,
            read_only=is_read_only,
            call=partial(self._call, connection, tool.name, schema, is_free),
        )

    def _call(
        self,
        connection: Connection,
        tool: str,
        schema: Mapping[str, Any],
        is_free: bool,  # noqa: FBT001, bound where the tool is made
        arguments: Mapping[str, Any],
    ) -> str:
        shown = f"{connection.name}: {bounds.printable(tool, 100)}"
        faults = bounds.faults(schema, arguments)
        if faults:
            raise ToolFailed("\n".join((f"mcp {shown} cannot be called like this:", *faults)))
        question = bounds.printable(json.dumps(arguments, ensure_ascii=False), _LONGEST_QUESTION)
        if not is_free and not self._approve(f"mcp {shown}({question})"):
            raise ToolFailed(
                f"mcp {shown} was not approved, so it did not run. The user can allow it for good: "
                f"approve = [{json.dumps(tool)}] under [mcp.{connection.name}] in the config file"
            )
        try:
            result = self._within(connection, connection.call(tool, arguments))
        except ToolFailed:
            self._note_end(connection)
            raise
        text = _fenced(connection.name, connection.scrubbed(_text(result)))
        if result.is_error:
            raise ToolFailed(f"mcp {shown} failed:\n{text}")
        return text

    def _note_end(self, connection: Connection) -> None:
        note = f"the MCP server {connection.name}: {connection.why_not}"
        if connection.why_not is not None and note not in self.notes:
            self.notes.append(note)

    def _within(self, connection: Connection, work: Coroutine[Any, Any, T]) -> T:
        """The result of something done on the loop."""
        if self._loop is None:
            work.close()
            raise ToolFailed(f"the MCP server {connection.name} is not there: it has been ended")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout=connection.server.timeout_s + _BACKSTOP_S)
        except concurrent.futures.TimeoutError as error:
            raise ToolFailed(f"the MCP server {connection.name} does not answer") from error
        finally:
            future.cancel()


def _require_sdk() -> None:
    try:
        from mcp import Client  # noqa: F401, of version 2
    except ImportError as error:
        raise InvalidInput(
            "the config file names MCP servers, and what speaks with them is not installed",
            hint="pip install 'ml-intern-cli[mcp]' · or: enabled = false under each [mcp.NAME]",
        ) from error
    logger = logging.getLogger("mcp")
    if not logger.handlers:  # else its warnings, with a server's words in them, go to the terminal
        logger.addHandler(logging.NullHandler())


async def _end_all(connections: tuple[Connection, ...]) -> None:
    await asyncio.gather(*(connection.end(grace_s=_LEAVE_WITHIN_S) for connection in connections))


def _text(result: types.CallToolResult) -> str:
    """What a tool answered, in words; pictures and the like are only named."""
    parts = [_part(one) for one in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return "\n".join(parts) or "(no output)"


def _part(content: types.ContentBlock) -> str:
    match content.type:
        case "text":
            return content.text
        case "image" | "audio":
            return f"({content.type}, {content.mime_type}: not shown)"
        case "resource_link":
            return f"(resource {content.uri}: not fetched)"
        case _:
            return f"(resource {content.resource.uri}: not shown)"


def _fenced(server: str, text: str) -> str:
    """What a server said, marked as data: what is in it cannot end the mark, whose id it does not know."""
    mark = secrets.token_hex(8)
    return f'<data source="mcp:{server}" id="{mark}">\n{text}\n</data {mark}>'
