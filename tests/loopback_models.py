"""Language models on this machine, for the real clients: the Messages API and chat completions.

What is said is scripted, once for both forms. Requests are checked as the services check them, and
answered with their errors; what comes back is streamed in their events, in several pieces.

    with LoopbackModels([Call("read", {"path": "a.py"}), Say("done")]) as server:
        AnthropicModel(name="claude-opus-5", api_key=server.key, base_url=server.anthropic_url)
        OpenAIModel(name="gpt-5", api_key=server.key, base_url=server.openai_url)
        assert server.requests[-1].incoming.last_results == ("…",)

A script is a list of acts, taken in order by each conversation (told apart by its system prompt and
first message), or a function of what came in. In place of an act there may be a list: faults first,
then what the turn comes to. Prompts count a token per four characters of their messages' JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

Block = dict[str, Any]
Event = tuple[str, dict[str, Any]]  # its name, and its data; "" where a form has no names


@dataclass(frozen=True)
class Say:
    """A text, and the end of the turn."""

    text: str


@dataclass(frozen=True)
class Call:
    """One tool, after a text if there is one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Calls:
    """Several tools in one reply."""

    calls: tuple[Call, ...]


@dataclass(frozen=True)
class BadArguments:
    """A tool whose arguments are not what JSON is."""

    name: str
    raw_json: str


@dataclass(frozen=True)
class Think:
    """Thinking before what comes of it; chat completions show it as ``reasoning``."""

    text: str
    then: Act
    redacted: bool = False


@dataclass(frozen=True)
class Refuse:
    """The model declines."""

    text: str


@dataclass(frozen=True)
class CutShort:
    """A text that ends at ``max_tokens``."""

    text: str


@dataclass(frozen=True)
class Overflow:
    """The conversation is too long for the model."""


@dataclass(frozen=True)
class Status:
    """An error of the service."""

    code: int
    retry_after: float | str | None = None
    error_type: str | None = None
    message: str = "a scripted fault"


@dataclass(frozen=True)
class Drop:
    """The beginning of a stream; then the connection closes, or (``cleanly``) the stream just ends."""

    act: Act
    after_events: int = 0
    cleanly: bool = False


@dataclass(frozen=True)
class Stall:
    """The beginning of a stream, then silence, then a closed connection."""

    seconds: float


@dataclass(frozen=True)
class ErrorEvent:
    """An error in the middle of a stream that had begun well."""

    error_type: str = "overloaded_error"
    after_events: int = 4
    act: Act = Say("this will not be finished")


@dataclass(frozen=True)
class Redirect:
    """The service is said to be elsewhere."""

    url: str


@dataclass(frozen=True)
class Page:
    """Something that answers, and is no language model."""

    html: str = "<html><body>Welcome</body></html>"


Act = (
    Say
    | Call
    | Calls
    | BadArguments
    | Think
    | Refuse
    | CutShort
    | Overflow
    | Status
    | Drop
    | Stall
    | ErrorEvent
    | Redirect
    | Page
)


@dataclass(frozen=True)
class Incoming:
    """A request in the form of the Messages API, whichever form it came in."""

    wire: str  # "messages" or "chat"
    model: str
    system: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[str, ...]
    forced: str | None
    max_tokens: int | None

    @property
    def turns(self) -> int:
        """How often the model has spoken so far."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @property
    def text(self) -> str:
        """What the last message says in words."""
        return _words(self.messages[-1]["content"])

    @property
    def first_text(self) -> str:
        """What the first message says in words."""
        return _words(self.messages[0]["content"])

    @property
    def last_results(self) -> tuple[str, ...]:
        """What the tools answered last."""
        return tuple(
            _result_text(block) for block in self.messages[-1]["content"] if block["type"] == "tool_result"
        )

    @property
    def called(self) -> tuple[str, ...]:
        """The names of all tools called so far, in order."""
        return tuple(
            block["name"]
            for message in self.messages
            for block in message["content"]
            if block["type"] == "tool_use"
        )


@dataclass(frozen=True)
class Tokens:
    """What a request counted; the prompt is ``fresh + read + written``."""

    fresh: int
    read: int
    written: int
    output: int


@dataclass
class Recorded:
    """One request as it arrived, header names in lower case, and what was made of it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    incoming: Incoming | None = None
    act: Act | None = None
    tokens: Tokens | None = None


Script = Callable[[Incoming], "Act | Sequence[Act]"] | Sequence["Act | Sequence[Act]"]


class LoopbackModels:
    """The services. ``key`` is the only one that opens them; ``None`` asks for none."""

    def __init__(
        self,
        script: Script = (),
        *,
        key: str | None = "loopback-key-0123456789",
        models: tuple[str, ...] | None = None,
        counts_tokens: bool = True,
    ) -> None:
        self.script = script
        self.key = key
        self.models = models
        self.counts_tokens = counts_tokens  # chat completions only: some servers do not
        self.requests: list[Recorded] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.cached: set[str] = set()
        self._taken: Counter[object] = Counter()

    def __enter__(self) -> Self:
        from huggingface_hub import close_session

        self._stack = ExitStack()
        handler = type("_Handler", (_Handler,), {"models": self})
        server = _Server(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.anthropic_url = f"http://127.0.0.1:{server.server_address[1]}"
        self.openai_url = f"{self.anthropic_url}/v1"
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        self._stack.callback(close_session)  # or a kept connection would be used against the next server
        self._stack.callback(self.stopped.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def act_for(self, incoming: Incoming) -> Act:
        """What the script has for a request. A list that is used up is a mistake of the test's."""
        conversation = (incoming.system, incoming.first_text)
        if callable(self.script):
            due = self.script(incoming)
            return due if isinstance(due, Act) else self._next((*conversation, incoming.turns), due)
        flat = [act for due in self.script for act in ([due] if isinstance(due, Act) else due)]
        return self._next(conversation, flat)

    def _next(self, key: object, acts: Sequence[Act]) -> Act:
        with self.lock:
            index = self._taken[key]
            self._taken[key] += 1
        return acts[index] if index < len(acts) else Status(418, message="the script is used up")

    def count(self, incoming: Incoming, blocks: Sequence[Block], *, marked: bool) -> Tokens:
        """Tokens of a reply; a prompt whose beginning was marked before is read from the cache that far."""
        beginnings = [_prompt(incoming.messages[:end]) for end in range(1, len(incoming.messages) + 1)]
        whole = beginnings[-1]
        with self.lock:
            known = [text for text in beginnings if incoming.system + text in self.cached]
            if marked:
                self.cached.add(incoming.system + whole)
        prompt, read = len(whole) // 4, len(known[-1]) // 4 if known else 0
        written = prompt - read if marked and incoming.wire == "messages" else 0
        return Tokens(prompt - read - written, read, written, len(json.dumps(blocks)) // 4 + 1)


class Refused(Exception):
    """A request that the service does not take."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        retry_after: float | str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.code = message, status, kind, code
        self.retry_after = retry_after


class _Server(ThreadingHTTPServer):
    """A client that hangs up early is no error."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads, checks, acts; the two forms differ in ``_FORMS``."""

    models: ClassVar[LoopbackModels]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        if self.path.rstrip("/") != "/v1/models":
            self._send(404, {"error": {"message": f"no such route: {self.path}", "type": "not_found_error"}})
            return
        names = self.models.models or ("loopback",)
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        form = _FORMS.get(self.path.split("?", maxsplit=1)[0])
        if form is None:
            self._send(404, {"error": {"message": f"no such route: {self.path}", "type": "not_found_error"}})
            return
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        recorded = Recorded(self.path, headers, body)
        with self.models.lock:
            self.models.requests.append(recorded)
        try:
            self._check_key(headers, form)
            recorded.incoming = form.read(body, headers)
            self._check_model(recorded.incoming)
            recorded.act = self.models.act_for(recorded.incoming)
            self._perform(recorded, form)
        except Refused as refused:
            wait = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
            self._send(refused.status, form.error(refused), wait)

    def _check_key(self, headers: Mapping[str, str], form: type[_Messages | _Chat]) -> None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if form is _Messages:
            given = given or headers.get("x-api-key", "")
        if self.models.key not in {None, given}:
            # As OpenAI does, the answer quotes the key; whoever shows it must not.
            raise Refused(
                f"invalid key {given!r}", status=401, kind="authentication_error", code="invalid_api_key"
            )

    def _check_model(self, incoming: Incoming) -> None:
        if self.models.models is not None and incoming.model not in self.models.models:
            raise Refused(
                f"model: {incoming.model}", status=404, kind="not_found_error", code="model_not_found"
            )

    def _perform(self, recorded: Recorded, form: type[_Messages | _Chat]) -> None:
        assert recorded.incoming is not None
        act: Act = recorded.act or Say("")
        match act:
            case Status(code, retry_after, error_type, message):
                kind = error_type or _KINDS.get(code, "api_error")
                raise Refused(message, status=code, kind=kind, retry_after=retry_after)
            case Overflow():
                raise form.overflow
            case Redirect(url):
                self._send(307, {}, {"Location": url})
                return
            case Page(html):
                self._send(200, html, {"Content-Type": "text/html"})
                return
        end: Drop | Stall | ErrorEvent | None = None
        if isinstance(act, Drop | ErrorEvent):
            end, act = act, act.act
        elif isinstance(act, Stall):
            end, act = act, Say("…")
        blocks, stop = _said(act)
        marked = "cache_control" in json.dumps(recorded.body.get("messages")) or form is _Chat
        recorded.tokens = self.models.count(recorded.incoming, blocks, marked=marked)
        if not recorded.body.get("stream"):
            self._send(200, form.whole(recorded, blocks, stop))
            return
        events = list(form.events(recorded, blocks, stop, counts=self.models.counts_tokens))
        self._stream(events, end, form)

    def _stream(
        self, events: list[Event], end: Drop | Stall | ErrorEvent | None, form: type[_Messages | _Chat]
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        match end:
            case None:
                self._chunks(events)
            case Drop(after_events=count, cleanly=cleanly):
                self._chunks(events[:count])
                if not cleanly:
                    self.close_connection = True
                    return
            case Stall(seconds):
                self._chunks(events[:1])
                self.models.stopped.wait(seconds)
                self.close_connection = True
                return
            case ErrorEvent(error_type, count):
                name = "error" if form is _Messages else ""
                self._chunks([*events[:count], (name, form.error(Refused("in the stream", kind=error_type)))])
        if end is None and form.last:
            self._write(form.last)
        self._write(b"")

    def _chunks(self, events: Sequence[Event]) -> None:
        for name, data in events:
            named = f"event: {name}\n" if name else ""
            self._write(f"{named}data: {json.dumps(data)}\n\n".encode())

    def _write(self, content: bytes) -> None:
        """One chunk; an empty one ends the answer."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def _send(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        named = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        for name, header in named.items():
            self.send_header(name, header)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _said(act: Act) -> tuple[list[Block], str]:  # noqa: PLR0911, one for each kind
    """The blocks of a reply and why it ended."""
    match act:
        case Say(text):
            return [{"type": "text", "text": text}], "end_turn"
        case CutShort(text):
            return [{"type": "text", "text": text}], "max_tokens"
        case Refuse(text):
            return [{"type": "text", "text": text}] if text else [], "refusal"
        case Call():
            return _said(Calls((act,)))
        case Calls(calls):
            blocks: list[Block] = []
            for call in calls:
                blocks += [{"type": "text", "text": call.text}] if call.text else []
                blocks.append(_tool_use(call.name, json.dumps(dict(call.arguments)), len(blocks)))
            return blocks, "tool_use"
        case BadArguments(name, raw_json):
            return [_tool_use(name, raw_json, 0)], "tool_use"
        case Think(text, then, redacted):
            thought: Block = (
                {"type": "redacted_thinking", "data": _signature(text)}
                if redacted
                else {"type": "thinking", "thinking": text, "signature": _signature(text)}
            )
            blocks, stop = _said(then)
            return [thought, *blocks], stop
    raise TypeError(f"{act} says nothing")


_ids = iter(range(1, 10**9))


def _tool_use(name: str, raw_json: str, index: int) -> Block:
    return {"type": "tool_use", "id": f"toolu_{next(_ids):06}{index}", "name": name, "raw": raw_json}


def _signature(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest() * 3).decode()


def _pieces(text: str, size: int = 7) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _words(blocks: Sequence[Block]) -> str:
    return "\n\n".join(block["text"] for block in blocks if block["type"] == "text")


def _result_text(block: Block) -> str:
    content = block.get("content") or ""
    return content if isinstance(content, str) else _words(content)


def _prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([_unmarked(message) for message in messages])


def _unmarked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unmarked(item) for key, item in value.items() if key != "cache_control"}
    return [_unmarked(item) for item in value] if isinstance(value, list | tuple) else value


def _require(condition: object, message: str) -> None:
    if not condition:
        raise Refused(message)


class _Messages:
    """``POST /v1/messages``."""

    overflow = Refused("prompt is too long: 210000 tokens > 200000 maximum")
    last = b""

    @staticmethod
    def error(refused: Refused) -> dict[str, Any]:
        return {"type": "error", "error": {"type": refused.kind, "message": refused.message}}

    @staticmethod
    def read(body: dict[str, Any], headers: Mapping[str, str]) -> Incoming:
        _require(headers.get("anthropic-version"), "anthropic-version: header is required")
        for key in body:
            _require(key in _MESSAGES_KEYS, f"{key}: Extra inputs are not permitted")
        _require(isinstance(body.get("model"), str), "model: Field required")
        limit = body.get("max_tokens")
        _require(isinstance(limit, int) and limit > 0, "max_tokens: Field required")
        messages = [_normal(message) for message in body.get("messages") or []]
        _check_conversation(messages)
        system = body.get("system") or []
        system = [{"type": "text", "text": system}] if isinstance(system, str) else system
        _require(all(block["text"] for block in system), "system: text content blocks must be non-empty")
        marks = json.dumps(body).count('"cache_control"')
        _require(marks <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}.")
        tools = _tool_names(body.get("tools") or [], "input_schema")
        choice = body.get("tool_choice") or {"type": "auto"}
        _check_choice(body, choice, tools)
        return Incoming(
            wire="messages",
            model=body["model"],
            system=_words(system),
            messages=tuple(messages),
            tools=tools,
            forced=choice.get("name"),
            max_tokens=limit,
        )

    @staticmethod
    def whole(recorded: Recorded, blocks: Sequence[Block], stop: str) -> dict[str, Any]:
        return {
            **_Messages._envelope(recorded),
            "content": [
                {
                    **{key: value for key, value in block.items() if key != "raw"},
                    "input": json.loads(block["raw"]),
                }
                if "raw" in block
                else block
                for block in blocks
            ],
            "stop_reason": stop,
            "usage": _Messages._usage(recorded),
        }

    @staticmethod
    def events(recorded: Recorded, blocks: Sequence[Block], stop: str, *, counts: bool) -> Iterator[Event]:
        begun = {**_Messages._envelope(recorded), "usage": {**_Messages._usage(recorded), "output_tokens": 1}}
        yield "message_start", {"type": "message_start", "message": begun}
        for index, block in enumerate(blocks):
            start, deltas = _Messages._parts(block)
            yield (
                "content_block_start",
                {
                    "type": "content_block_start",
                    "index": index,
                    "content_block": start,
                },
            )
            if index == 0:
                yield "ping", {"type": "ping"}
            for delta in deltas:
                yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
            yield "content_block_stop", {"type": "content_block_stop", "index": index}
        yield (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop, "stop_sequence": None},
                "usage": {"output_tokens": _Messages._usage(recorded)["output_tokens"]},
            },
        )
        yield "message_stop", {"type": "message_stop"}

    @staticmethod
    def _parts(block: Block) -> tuple[Block, list[Block]]:
        match block["type"]:
            case "text":
                texts = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
                return {"type": "text", "text": ""}, texts
            case "thinking":
                thoughts: list[Block] = [
                    {"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])
                ]
                signed = {"type": "signature_delta", "signature": block["signature"]}
                return {"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signed]
            case "tool_use":
                pieces = ["", *_pieces(block["raw"])]  # the service begins with an empty one
                started = {"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}
                return started, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        return block, []

    @staticmethod
    def _envelope(recorded: Recorded) -> dict[str, Any]:
        return {
            "id": f"msg_{next(_ids):06}",
            "type": "message",
            "role": "assistant",
            "model": recorded.body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    @staticmethod
    def _usage(recorded: Recorded) -> dict[str, int]:
        tokens = recorded.tokens
        assert tokens is not None
        return {
            "input_tokens": tokens.fresh,
            "cache_creation_input_tokens": tokens.written,
            "cache_read_input_tokens": tokens.read,
            "output_tokens": tokens.output,
        }


_MESSAGES_KEYS = {
    "model", "messages", "max_tokens", "system", "tools", "tool_choice", "thinking", "output_config",
    "stream", "temperature", "metadata", "stop_sequences", "cache_control", "service_tier",
}  # fmt: skip

_UNFORCEABLE = re.compile(r"claude-(opus|sonnet)-5-5|claude-(fable|mythos)-5-[12]")
_ALWAYS_THINKING = re.compile(r"claude-opus-5-5|claude-(fable|mythos)-5.*")


def _normal(message: Any) -> dict[str, Any]:
    _require(isinstance(message, dict), "messages: Input should be a valid list of objects")
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    _require(isinstance(blocks, list), "messages: content: Field required")
    return {"role": message.get("role"), "content": blocks}


def _check_conversation(messages: Sequence[dict[str, Any]]) -> None:
    _require(messages, "messages: at least one message is required")
    _require(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        _require(message["role"] in {"user", "assistant"}, f"{place}.role: must be user or assistant")
        _require(message["content"], f"{place}: all messages must have non-empty content")
        for block in message["content"]:
            _check_block(block, message["role"], place)
        called = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        following = messages[index + 1]["content"] if index + 1 < len(messages) else []
        answers = [block["tool_use_id"] for block in following if block["type"] == "tool_result"]
        _require(
            set(called)
            <= {block["tool_use_id"] for block in following[: len(called)] if "tool_use_id" in block},
            f"{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {called}",
        )
        _require(
            set(answers) <= set(called),
            f"messages.{index + 1}: unexpected `tool_use_id` found in `tool_result` blocks: {answers}",
        )
    first = [block["type"] for block in messages[0]["content"]]
    _require("tool_result" not in first, "messages.0: unexpected `tool_use_id` found in `tool_result` blocks")


def _check_block(block: Block, role: str, place: str) -> None:
    kind = block.get("type")
    allowed = {"text", "tool_result"} if role == "user" else {
        "text", "tool_use", "thinking", "redacted_thinking"
    }  # fmt: skip
    _require(kind in allowed, f"{place}: {kind!r} blocks are not allowed in {role} messages")
    if kind == "text":
        _require(
            block.get("text", "").strip(), f"{place}: text content blocks must contain non-whitespace text"
        )
    if kind == "tool_use":
        _require(isinstance(block.get("input"), dict), f"{place}.tool_use.input: Input should be an object")
    if kind == "thinking":
        _require(
            block.get("signature") == _signature(block.get("thinking", "")),
            f"{place}: Invalid `signature` in `thinking` block",
        )
    if kind in {"thinking", "redacted_thinking"}:
        _require(
            "cache_control" not in block, f"{place}.{kind}.cache_control: Extra inputs are not permitted"
        )


def _tool_names(tools: Sequence[dict[str, Any]], schema: str) -> tuple[str, ...]:
    names = tuple(tool.get("name", "") for tool in tools)
    for name, tool in zip(names, tools, strict=True):
        _require(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"tools: {name!r} is no name for a tool")
        _require(
            (tool.get(schema) or {}).get("type") == "object", f"tools.{name}.{schema}: must be an object"
        )
    _require(len(set(names)) == len(names), "tools: Tool names must be unique.")
    return names


def _check_choice(body: Mapping[str, Any], choice: Mapping[str, Any], tools: Sequence[str]) -> None:
    model, thinking = body["model"], (body.get("thinking") or {}).get("type")
    _require(choice.get("type") in {"auto", "any", "tool", "none"}, "tool_choice: unknown type")
    forces = choice["type"] in {"any", "tool"}
    _require(not forces or tools, "tool_choice: may only be specified while providing tools")
    if choice["type"] == "tool":
        _require(choice.get("name") in tools, f"tool_choice: Tool '{choice.get('name')}' not found in tools")
    _require(
        not (forces and _UNFORCEABLE.fullmatch(model)),
        'tool_choice: type "tool" and "any" are not supported for this model.',
    )
    _require(
        not (forces and thinking in {"enabled", "adaptive"}),
        "Thinking may not be enabled when tool_choice forces tool use.",
    )
    _require(
        not (thinking == "disabled" and _ALWAYS_THINKING.fullmatch(model)),
        '"thinking.type.disabled" is not supported for this model.',
    )
    if thinking == "enabled":
        budget = body["thinking"].get("budget_tokens", 0)
        _require(
            1024 <= budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`."
        )


class _Chat:
    """``POST /v1/chat/completions``."""

    overflow = Refused(
        "This model's maximum context length is 128000 tokens.", code="context_length_exceeded"
    )
    last = b"data: [DONE]\n\n"

    @staticmethod
    def error(refused: Refused) -> dict[str, Any]:
        # The service calls most of its errors invalid_request_error, and tells them apart by code.
        kind = (
            "server_error" if refused.kind in {"overloaded_error", "api_error"} else "invalid_request_error"
        )
        kind = "tokens" if refused.kind == "rate_limit_error" else kind
        kind = refused.kind if refused.kind == "insufficient_quota" else kind
        return {"error": {"message": refused.message, "type": kind, "param": None, "code": refused.code}}

    @staticmethod
    def read(body: dict[str, Any], headers: Mapping[str, str]) -> Incoming:
        _require(isinstance(body.get("model"), str), "you must provide a model parameter")
        chat = body.get("messages") or []
        _require(chat, "[] is too short - 'messages'")
        _require(body.get("stream") or "stream_options" not in body, "stream_options needs stream")
        functions = [tool.get("function") or {} for tool in body.get("tools") or []]
        tools = _tool_names(functions, "parameters")
        choice = body.get("tool_choice")
        forced = choice["function"]["name"] if isinstance(choice, dict) else None
        _require(forced is None or forced in tools, f"Tool choice: function {forced!r} is not in tools")
        return Incoming(
            wire="chat",
            model=body["model"],
            system="\n\n".join(one["content"] for one in chat if one.get("role") == "system"),
            messages=tuple(_from_chat(chat)),
            tools=tools,
            forced=forced,
            max_tokens=body.get("max_tokens") or body.get("max_completion_tokens"),
        )

    @staticmethod
    def whole(recorded: Recorded, blocks: Sequence[Block], stop: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": _words(blocks) or None, "tool_calls": _calls(blocks)}
        choice = {"index": 0, "message": message, "finish_reason": _FINISH[stop]}
        return {**_Chat._envelope(recorded), "choices": [choice], "usage": _Chat._usage(recorded)}

    @staticmethod
    def events(recorded: Recorded, blocks: Sequence[Block], stop: str, *, counts: bool) -> Iterator[Event]:
        envelope = {**_Chat._envelope(recorded), "object": "chat.completion.chunk"}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
            return "", {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        yield chunk({"role": "assistant", "content": ""})
        for block in blocks:
            if block["type"] == "thinking":
                for piece in _pieces(block["thinking"]):
                    yield chunk({"reasoning": piece})
            if block["type"] == "text":
                for piece in _pieces(block["text"]):
                    yield chunk({"content": piece})
        for index, call in enumerate(_calls(blocks)):
            function = {"name": call["function"]["name"], "arguments": ""}
            yield chunk({"tool_calls": [{**call, "index": index, "function": function}]})
            for piece in _pieces(call["function"]["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, _FINISH[stop])
        if counts and (recorded.body.get("stream_options") or {}).get("include_usage"):
            yield "", {**envelope, "choices": [], "usage": _Chat._usage(recorded)}

    @staticmethod
    def _envelope(recorded: Recorded) -> dict[str, Any]:
        return {"id": f"chatcmpl-{next(_ids):06}", "created": 1, "model": recorded.body["model"]}

    @staticmethod
    def _usage(recorded: Recorded) -> dict[str, Any]:
        tokens = recorded.tokens
        assert tokens is not None
        prompt = tokens.fresh + tokens.read
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens.output,
            "total_tokens": prompt + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.read},
        }


_FINISH = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
}


def _calls(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": block["raw"]},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]


def _from_chat(chat: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The conversation as the Messages API has it; every call must be answered before anything else."""
    results: list[Block] = []
    awaited: list[str] = []
    for one in chat:
        role = one.get("role")
        if role == "tool":
            _require(one.get("tool_call_id") in awaited, "messages with role 'tool' must follow 'tool_calls'")
            awaited.remove(one["tool_call_id"])
            results.append(
                {"type": "tool_result", "tool_use_id": one["tool_call_id"], "content": one.get("content")}
            )
            continue
        _require(not awaited, f"tool_call_ids did not have response messages: {awaited}")
        text: list[Block] = [{"type": "text", "text": one["content"]}] if one.get("content") else []
        if role == "user":
            _require(isinstance(one.get("content"), str), "user messages need content")
            yield {"role": "user", "content": [*results, *text]}
            results = []
        elif role == "assistant":
            if results:
                yield {"role": "user", "content": results}
                results = []
            calls = one.get("tool_calls") or []
            _require(text or calls, "assistant messages need content or tool_calls")
            awaited = [call["id"] for call in calls]
            yield {"role": "assistant", "content": [*text, *map(_from_call, calls)]}
        else:
            _require(role == "system", f"{role!r} is not one of the roles")
    _require(not awaited, f"tool_call_ids did not have response messages: {awaited}")
    if results:
        yield {"role": "user", "content": results}


def _from_call(call: dict[str, Any]) -> Block:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (TypeError, ValueError) as error:
        raise Refused("tool_calls: arguments must be a string of JSON") from error
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


_FORMS: dict[str, type[_Messages | _Chat]] = {"/v1/messages": _Messages, "/v1/chat/completions": _Chat}
