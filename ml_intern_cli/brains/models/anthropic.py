"""Claude, or any model behind a server that speaks the Messages API, through Anthropic's own library.

One call is one request: the library's retries are off, so that each attempt is counted and paid for
knowingly. Of what it would pick up from the environment (other addresses, keys, profiles, headers,
traces) nothing is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_intern_cli.brains.models.claude import Traits, thinking_of, traits_of
from ml_intern_cli.brains.models.endpoints import CONNECT_S, SILENCE_S, checked_address, checked_key
from ml_intern_cli.brains.models.faults import fault_of, hint_for, model_error, retry_after_s
from ml_intern_cli.brains.models.message import (
    Block,
    Fault,
    Message,
    ModelError,
    Reply,
    Request,
    Stop,
    Usage,
    read_arguments,
)

if TYPE_CHECKING:
    import anthropic

PUBLIC_ADDRESS = "https://api.anthropic.com"
KEY = "ANTHROPIC_API_KEY"

_STOPS = {stop.value: stop for stop in Stop}
_NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)
_CACHED = {"type": "ephemeral"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicModel:
    """One model of one service that speaks the Messages API. The key never shows in a representation.

    A tool that must be called is forced only on models that take that (``forces_tools``); on the others
    the request says nothing, and the words of the last message have to.

    Attributes:
        name: As the service knows it, such as ``claude-opus-5-5``.
        base_url: ``None``: the public address, whatever the environment says.
        effort: ``low`` … ``max``; ``None``: the model's own default.
        thinking: Let it think where it can; otherwise as little as it can be told to.
    """

    name: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    effort: str | None = None
    thinking: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", checked_address(self.base_url or PUBLIC_ADDRESS))
        object.__setattr__(self, "api_key", checked_key(self.api_key, KEY))

    @property
    def service(self) -> str:
        """``anthropic``."""
        return "anthropic"

    @property
    def context_tokens(self) -> int:
        """As the documentation of the models says; 200,000 for one that it does not know."""
        return self._traits.context_tokens

    @property
    def forces_tools(self) -> bool:
        """Whether ``force_tool`` binds this model, or is only a wish."""
        return self._traits.forced_tools

    def reply(self, request: Request, *, on_text: Callable[[str], None]) -> Reply:
        """Ask once, streaming; ``on_text`` gets the text as it comes. No retries in here.

        Raises:
            ModelError: no whole reply came.
        """
        answer = _Answer()
        with self._faults(answer), self._client() as client:
            stream = client.messages.create(**self._body(request), stream=True)
            with stream:
                if "text/event-stream" not in stream.response.headers.get("content-type", ""):
                    raise self._error(
                        f"what answers at {self.base_url} does not speak the Messages API",
                        fault=Fault.INVALID,
                    )
                for event in stream:
                    if text := answer.take(event.to_dict()):
                        on_text(text)
        if not answer.is_whole:
            raise self._error("the stream ended in the middle of a reply", usage=answer.usage)
        return Reply(
            content=answer.content(),
            stop=answer.stop,
            usage=answer.usage or Usage(),
            model=answer.model or self.name,
            id=answer.id,
        )

    @property
    def _traits(self) -> Traits:
        return traits_of(self.name)

    def _client(self) -> anthropic.Anthropic:
        import anthropic
        import httpx2

        address = self.base_url or PUBLIC_ADDRESS
        # Redirects would take the conversation to a host nobody named. A proxy from the environment is
        # used where the connection through it is encrypted, and only there.
        http_client = (
            anthropic.DefaultHttpxClient(follow_redirects=False)
            if address.startswith("https:")
            else httpx2.Client(follow_redirects=False, trust_env=False)
        )
        client = anthropic.Anthropic(
            api_key=self.api_key,
            base_url=address,
            max_retries=0,
            timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S),
            open_telemetry=False,
            http_client=http_client,
        )
        client._custom_headers = {}  # noqa: SLF001, the library offers no other way past ANTHROPIC_CUSTOM_HEADERS
        return client

    def _body(self, request: Request) -> dict[str, Any]:
        forced = request.force_tool if self.forces_tools else None
        thinking = thinking_of(
            self._traits,
            wanted=self.thinking and forced is None,
            effort=self.effort,
            max_tokens=request.max_tokens,
            messages=request.messages,
        )
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.schema)}
            for tool in request.tools
        ]
        return {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": _with_cache(request.messages),
            **({"system": [_cached({"type": "text", "text": request.system})]} if request.system else {}),
            **({"tools": tools} if tools else {}),
            **({"tool_choice": {"type": "tool", "name": forced}} if forced else {}),
            **({"thinking": thinking} if thinking else {}),
            **({"output_config": {"effort": self.effort}} if self.effort else {}),
        }

    @contextmanager
    def _faults(self, answer: _Answer) -> Iterator[None]:
        """Whatever the library raises becomes a ModelError, with what had been counted by then."""
        import anthropic
        import httpx2

        try:
            yield
        except anthropic.APIStatusError as error:
            raise self._refusal(error, answer.usage) from error
        except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
            raise self._error(f"no answer from {self.base_url} in time", usage=answer.usage) from error
        except (anthropic.APIConnectionError, httpx2.TransportError) as error:
            cause = error.__cause__ or error
            raise self._error(
                f"the connection to {self.base_url} failed ({type(cause).__name__}: {cause})",
                usage=answer.usage,
            ) from error
        except (anthropic.AnthropicError, httpx2.HTTPError, _Broken, *_NO_JSON) as error:
            raise self._error(f"the stream broke ({error})", usage=answer.usage) from error

    def _refusal(self, error: anthropic.APIStatusError, usage: Usage | None) -> ModelError:
        said = error.api_message or error.message
        status = error.status_code
        fault = fault_of(
            status, types=(error.type,), said=said if error.type == "invalid_request_error" else ""
        )
        hint = hint_for(fault, status, model=self.name, key=KEY)
        if fault is Fault.INVALID and (self.thinking or self.effort):
            hint = f"if that is about thinking or effort, turn thinking off or name no effort; {hint}"
        if 300 <= status < 400:
            said = f"{self.base_url} points to another address"
            hint = "name the final address of the service itself"
        label = "" if status == 200 else f"{status}, "
        return self._error(
            f"{label}{said}",
            fault=fault,
            hint=hint,
            retry_after=retry_after_s(error.response.headers),
            usage=usage,
        )

    def _error(
        self,
        said: str,
        *,
        fault: Fault = Fault.TRANSIENT,
        hint: str | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> ModelError:
        return model_error(
            f"{self.name} (Messages API)",
            said,
            fault=fault,
            secret=self.api_key,
            hint=hint or hint_for(fault, None, model=self.name, key=KEY),
            retry_after=retry_after,
            usage=usage,
        )


class _Broken(Exception):
    """Events that cannot follow each other."""


class _Answer:
    """A reply as it grows, event by event (platform.claude.com/docs/en/build-with-claude/streaming)."""

    def __init__(self) -> None:
        self.is_whole = False
        self.model = ""
        self.id = ""
        self._blocks: dict[int, Block] = {}
        self._json: dict[int, str] = {}
        self._counted: dict[str, int] = {}
        self._received = 0  # characters, for what a broken stream has cost
        self._stop_reason: str | None = None

    def take(self, event: Mapping[str, Any]) -> str:
        """One event of the stream; returns the text in it. Kinds that are not known are passed over."""
        try:
            return self._take(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise _Broken(f"a {event.get('type')} event without what belongs in one: {error}") from error

    def content(self) -> tuple[Block, ...]:
        """The blocks as they came. Empty texts are left out: the service does not take them back."""
        blocks = (self._finished(index, block) for index, block in sorted(self._blocks.items()))
        return tuple(block for block in blocks if block["type"] != "text" or block["text"].strip())

    @property
    def stop(self) -> Stop:
        """Why it ended; a reason that is new counts by what the reply holds."""
        calls = any(block["type"] == "tool_use" for block in self._blocks.values())
        return _STOPS.get(self._stop_reason or "", Stop.TOOL_USE if calls else Stop.END)

    @property
    def usage(self) -> Usage | None:
        """As counted so far; the output of a reply that broke off is estimated from what had come of it."""
        if not self._counted:
            return None
        output = self._counted.get("output_tokens", 0)
        return Usage(
            input_tokens=self._counted.get("input_tokens", 0),
            output_tokens=output if self.is_whole else max(output, math.ceil(self._received / 3)),
            cache_read_tokens=self._counted.get("cache_read_input_tokens", 0),
            cache_write_tokens=self._counted.get("cache_creation_input_tokens", 0),
        )

    def _take(self, event: Mapping[str, Any]) -> str:
        match event.get("type"):
            case "message_start":
                message = event["message"]
                self.model, self.id = message.get("model", ""), message.get("id", "")
                self._count(message.get("usage") or {})
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                return self._grow(event["index"], event["delta"])
            case "message_delta":
                self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
                self._count(event.get("usage") or {})
            case "message_stop":
                self.is_whole = True
        return ""

    def _count(self, usage: Mapping[str, Any]) -> None:
        # Totals, not additions; a later event may leave out or null what has not changed.
        self._counted |= {name: count for name, count in usage.items() if isinstance(count, int)}

    def _grow(self, index: int, delta: Mapping[str, Any]) -> str:
        block = self._blocks[index]
        match delta.get("type"):
            case "text_delta":
                block["text"] = block.get("text", "") + delta["text"]
                self._received += len(delta["text"])
                return str(delta["text"])
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + delta["thinking"]
                self._received += len(delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._json[index] = self._json.get(index, "") + delta["partial_json"]
                self._received += len(delta["partial_json"])
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        return ""

    def _finished(self, index: int, block: Block) -> Block:
        written = self._json.get(index, "")
        return {**block, "input": read_arguments(written)} if written else block


def _with_cache(messages: Sequence[Message]) -> list[Message]:
    """All that was said so far is read from the cache by the next call, which only adds to it."""
    *earlier, last = messages
    *blocks, end = last["content"]
    return [*earlier, {**last, "content": [*blocks, _cached(end)]}]


def _cached(block: Block) -> Block:
    # Thinking takes no mark of its own.
    return (
        block if block["type"] in {"thinking", "redacted_thinking"} else {**block, "cache_control": _CACHED}
    )
