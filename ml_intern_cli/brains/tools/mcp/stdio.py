"""A server that is a program: spoken to over its pipes, and ended with all that it started.

The SDK's own stdio client leaves alone what a server started once the server itself has ended, and keeps as
much of a line as a server cares to print; this one does neither.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

# What programs need of their surroundings, and nothing that can hold a secret.
_ALLOWED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "SSL_CERT_FILE",
)  # fmt: skip
_MARK = "ML_INTERN_MCP"  # by which whatever a server started is found again, whatever it made of itself
_MOST_LINE_BYTES = 16 << 20
_MOST_GARBAGE_LINES = 1000
_KEPT_STDERR_BYTES = 2000
_CHUNK_BYTES = 1 << 16
_LAST_WORDS_WITHIN_S = 0.5
_GRACE_S = 2.0  # to end once its input is closed, as the protocol has it, and again once asked to


def surroundings(
    environment: Mapping[str, str], *, env: Mapping[str, str], pass_env: tuple[str, ...]
) -> dict[str, str]:
    """The environment of a server: allow-listed names, those the user named, and what the user set."""
    names = (*_ALLOWED, *pass_env)
    return {name: environment[name] for name in names if name in environment} | dict(env)


class StdioServer:
    """One program that speaks MCP on its stdin and stdout.

    Args:
        environment: All of its environment.
        folder: Where it is started.
        on_end: Called when it says nothing more.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        environment: Mapping[str, str],
        folder: Path,
        on_end: Callable[[], None],
    ) -> None:
        self._argv = (os.path.expanduser(command[0]), *command[1:])  # noqa: PTH111, a name stays a name
        self._mark = secrets.token_hex(16)
        self._environment = {**environment, _MARK: self._mark}
        self._folder = folder
        self._pid: int | None = None
        self._on_end = on_end
        self._stderr = b""
        self._has_said_all = asyncio.Event()
        self.fault: str | None = None

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr.decode("utf-8", errors="replace").strip()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start it; the two streams are what the SDK calls a transport.

        Raises:
            OSError: it cannot be started.
        """
        import anyio

        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,
            limit=_MOST_LINE_BYTES,
        )
        self._pid = process.pid
        incoming_end, incoming = anyio.create_memory_object_stream[Any](0)
        outgoing, outgoing_end = anyio.create_memory_object_stream[Any](0)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, process, incoming_end)
                tasks.start_soon(_write, process, outgoing_end, incoming_end)
                tasks.start_soon(self._keep_stderr, process)
                try:
                    yield incoming, outgoing
                finally:
                    incoming.close()
                    outgoing.close()
                    with anyio.CancelScope(shield=True):
                        await _end(process)
                        self.kill()
                        with anyio.move_on_after(_LAST_WORDS_WITHIN_S):
                            await self._has_said_all.wait()
                    tasks.cancel_scope.cancel()
        finally:
            self.kill()
            with suppress(PermissionError):
                process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001, else it warns when collected

    def kill(self) -> None:
        """End at once what is left of it and of all that it started. Does nothing the second time."""
        if self._pid is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self._pid = None
        for _ in range(3):  # one of them may be starting another just now
            left = [process for process in psutil.process_iter() if self._started(process)]
            if not left:
                return
            for process in left:
                with suppress(psutil.Error):
                    process.kill()

    def _started(self, process: psutil.Process) -> bool:
        try:
            is_ours: bool = process.environ().get(_MARK) == self._mark
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    async def _listen(
        self, process: asyncio.subprocess.Process, messages: MemoryObjectSendStream[Any]
    ) -> None:
        async with messages:
            self.fault = await _pass_on(process, messages)
        self._on_end()

    async def _keep_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr  # noqa: S101, it was asked for
        while chunk := await process.stderr.read(_CHUNK_BYTES):
            self._stderr = (self._stderr + chunk)[-_KEPT_STDERR_BYTES:]
        self._has_said_all.set()


async def _pass_on(process: asyncio.subprocess.Process, messages: MemoryObjectSendStream[Any]) -> str:
    """Pass on what it says, until it ends or says too much that is nothing. Returns why that is all."""
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp.types.jsonrpc import jsonrpc_message_adapter

    assert process.stdout  # noqa: S101, it was asked for
    num_garbage = 0
    while num_garbage < _MOST_GARBAGE_LINES:
        try:
            line = await process.stdout.readline()
        except ValueError:
            return f"printed a line of more than {_MOST_LINE_BYTES >> 20} MiB"
        if not line:
            return "has ended"
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            num_garbage += 1  # a banner, a progress bar, a forgotten print
            continue
        try:
            await messages.send(SessionMessage(message))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return "has ended"
    return "prints what is not MCP"


async def _write(
    process: asyncio.subprocess.Process,
    messages: MemoryObjectReceiveStream[SessionMessage],
    answers: MemoryObjectSendStream[SessionMessage],
) -> None:
    assert process.stdin  # noqa: S101, it was asked for
    try:
        async with messages:
            async for message in messages:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(f"{text}\n".encode())
                await process.stdin.drain()
    except (ConnectionError, RuntimeError):  # it no longer reads: no answer will come either
        await answers.aclose()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, then ask, as the protocol has it; the caller kills."""
    assert process.stdin  # noqa: S101, it was asked for
    process.stdin.close()
    if await _has_ended(process):
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    await _has_ended(process)


async def _has_ended(process: asyncio.subprocess.Process) -> bool:
    # Not process.wait(): that also waits for the pipes, which whatever the server started may hold open.
    deadline = asyncio.get_running_loop().time() + _GRACE_S
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return process.returncode is not None
