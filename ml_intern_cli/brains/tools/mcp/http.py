"""A server at an address: what is sent stays with its host, and what comes back is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

_CONNECT_TIMEOUT_S = 30.0
_MOST_ANSWER_BYTES = 64 << 20


@asynccontextmanager
async def open_http(
    url: str, *, headers: Mapping[str, str], timeout_s: float
) -> AsyncIterator[tuple[Any, Any]]:
    """The two streams that the SDK calls a transport; it follows no redirect to another host."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    client = httpx2.AsyncClient(
        # Plain answers only: a compressed one has no size until it fills the memory.
        headers={**headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(min(_CONNECT_TIMEOUT_S, timeout_s), read=None),
        event_hooks={"response": [_bound]},
    )
    async with client, streamable_http_client(url, http_client=client) as streams:
        yield streams


async def _bound(response: Any) -> None:
    """Let no answer be larger than it may be."""
    import httpx2

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("answers compressed, though asked not to", request=response.request)
    whole = response.stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = _MOST_ANSWER_BYTES
            async for chunk in whole:
                left -= len(chunk)
                if left < 0:
                    raise httpx2.ReadError(f"answers with more than {_MOST_ANSWER_BYTES >> 20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await whole.aclose()

    response.stream = Bounded()
