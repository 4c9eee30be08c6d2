"""How the judge and the model host talk: messages on a socket, numbers in shared memory.

A message is four bytes of length and a JSON object. Nothing that comes from the host is unpickled, and no
size that it names is believed beyond what was asked for. Standard library only, as the host needs it.
"""

from __future__ import annotations

import json
import socket
from typing import Any

MOST_BYTES = 16 << 20  # of a message: names and shapes of a hundred thousand tensors


class Ended(Exception):
    """The other side is gone."""


class Garbled(Exception):
    """The other side says what is no message."""


def send(to: socket.socket, message: dict[str, Any]) -> None:
    """Raises OSError."""
    content = json.dumps(message).encode()
    to.sendall(len(content).to_bytes(4, "little") + content)


def receive(source: socket.socket) -> dict[str, Any]:
    """Raises Ended, Garbled, and TimeoutError when the socket has a timeout."""
    length = int.from_bytes(_exactly(source, 4), "little")
    if length > MOST_BYTES:
        raise Garbled(f"a message of {length} bytes")
    try:
        message = json.loads(_exactly(source, length))
    except (ValueError, RecursionError) as error:
        raise Garbled(str(error)) from error
    if not isinstance(message, dict):
        raise Garbled("a message that is no object")
    return message


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        try:
            part = source.recv(min(count, 1 << 20))
        except ConnectionError as error:
            raise Ended(str(error)) from error
        if not part:
            raise Ended("closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
