"""Any server that speaks chat completions, through the Hugging Face Hub's own inference client.

OpenAI, the router of Hugging Face, vLLM, Ollama, LM Studio, llama.cpp. The client is always given a
key, a meaningless one where there is none: without one it would send the Hub's token that it finds on
this machine, whoever runs the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_intern_cli.brains.models.chat import ChatAnswer, chat_messages, chat_tools
from ml_intern_cli.brains.models.endpoints import CONNECT_S, SILENCE_S, checked_address, checked_key, is_at
from ml_intern_cli.brains.models.faults import fault_of, hint_for, model_error, retry_after_s
from ml_intern_cli.brains.models.message import Fault, ModelError, Reply, Request, Usage

if TYPE_CHECKING:
    import httpx2

PUBLIC_ADDRESS = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"

_NO_KEY = "none"  # what servers without accounts expect: anything

_CONTEXTS: tuple[tuple[str, int], ...] = (  # developers.openai.com/api/docs/models, November 2026
    (r"gpt-6.*|gpt-5\.[456](-(sol|terra|luna))?(-\d.*)?", 1_050_000),
    (r"gpt-4\.1.*", 1_047_576),
    (r"gpt-5.*", 400_000),
    (r"o[134](-.*)?", 200_000),
)
_SHORTEST_CONTEXT = 128_000  # what models that can do this work have at least


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIModel:
    """One model of one server. The key never shows in a representation.

    Attributes:
        name: As the server knows it.
        api_key: ``None``: the server asks for none.
        base_url: Up to ``/v1``; ``None``: OpenAI's.
        effort: ``reasoning_effort``, for models that have it; ``None``: the model's own default.
        context_limit: Tokens; ``None``: as far as is known by the name.
    """

    name: str
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    effort: str | None = None
    context_limit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", checked_address(self.base_url or PUBLIC_ADDRESS))
        if self.api_key is not None:
            object.__setattr__(self, "api_key", checked_key(self.api_key, KEY))

    @property
    def service(self) -> str:
        """``openai``, whoever runs the server."""
        return "openai"

    @property
    def context_tokens(self) -> int:
        """What was set; else as documented for the name; else 128,000."""
        known = (tokens for pattern, tokens in _CONTEXTS if re.fullmatch(pattern, self.name))
        return self.context_limit or next(known, _SHORTEST_CONTEXT)

    def reply(self, request: Request, *, on_text: Callable[[str], None]) -> Reply:
        """Ask once, streaming; ``on_text`` gets the text as it comes. No retries in here.

        Raises:
            ModelError: no whole reply came.
        """
        from huggingface_hub import InferenceClient

        messages = chat_messages(request)
        answer = ChatAnswer([*messages, *chat_tools(request)])
        client = InferenceClient(
            base_url=self.base_url, api_key=self.api_key or _NO_KEY, timeout=self._patience()
        )
        options = self._options(request)
        with self._faults(answer), client:
            for chunk in client.chat_completion(messages, model=self.name, stream=True, **options):
                if text := answer.take(_plain(chunk)):
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

    @staticmethod
    def _patience() -> Any:
        import httpx2

        return httpx2.Timeout(SILENCE_S, connect=CONNECT_S)

    def _options(self, request: Request) -> dict[str, Any]:
        address = self.base_url or PUBLIC_ADDRESS
        # OpenAI's reasoning models refuse max_tokens; other servers know no other name for it.
        renamed = is_at(address, "api.openai.com", "openai.azure.com")
        extra = {
            **({"max_completion_tokens": request.max_tokens} if renamed else {}),
            **({"reasoning_effort": self.effort} if self.effort else {}),
        }
        tools = chat_tools(request)
        forced = request.force_tool
        return {
            "stream_options": {"include_usage": True},
            **({} if renamed else {"max_tokens": request.max_tokens}),
            **({"tools": tools} if tools else {}),
            **({"tool_choice": {"type": "function", "function": {"name": forced}}} if forced else {}),
            **({"extra_body": extra} if extra else {}),
        }

    @contextmanager
    def _faults(self, answer: ChatAnswer) -> Iterator[None]:
        """Whatever the library raises becomes a ModelError, unless the reply was whole by then."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, TextGenerationError

        try:
            yield
        except HfHubHTTPError as error:
            raise self._refusal(error.response, answer.usage) from error
        except OfflineModeIsEnabled as error:
            raise self._error(
                "HF_HUB_OFFLINE keeps the client from every server",
                fault=Fault.REFUSED,
                hint="run it again without HF_HUB_OFFLINE",
            ) from error
        except TextGenerationError as error:
            raise self._said_in_stream(error.args[0] if error.args else None, answer.usage) from error
        except (httpx2.HTTPError, TimeoutError, json.JSONDecodeError, UnicodeDecodeError) as error:
            if not answer.is_whole:
                raise self._error(
                    f"the connection to {self.base_url} failed ({type(error).__name__}: {error})",
                    usage=answer.usage,
                ) from error
        except (AttributeError, TypeError, KeyError) as error:
            # The library reads an error body as an object; some servers send a list.
            refused = _response_behind(error)
            if refused is None:
                raise
            raise self._refusal(refused, answer.usage) from error

    def _refusal(self, response: httpx2.Response, usage: Usage | None) -> ModelError:
        detail = _detail(response)
        said = str(detail.get("message") or response.reason_phrase or "no reason given")
        types = (_word(detail.get("code")), _word(detail.get("type")))
        fault = fault_of(response.status_code, types=types, said=said)
        return self._error(
            f"{response.status_code}, {said}",
            fault=fault,
            hint=hint_for(fault, response.status_code, model=self.name, key=KEY),
            retry_after=retry_after_s(response.headers),
            usage=usage,
        )

    def _said_in_stream(self, detail: object, usage: Usage | None) -> ModelError:
        """An error within a stream: OpenAI's is an object, that of older servers a sentence."""
        known = detail if isinstance(detail, Mapping) else {"message": detail}
        code = known.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 200
        said = str(known.get("message") or "an error without a reason")
        fault = fault_of(status, types=(_word(code), _word(known.get("type"))), said=said)
        return self._error(said, fault=fault, usage=usage)

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
            f"{self.name} (chat completions)",
            said,
            fault=fault,
            secret=self.api_key,
            hint=hint or hint_for(fault, None, model=self.name, key=KEY),
            retry_after=retry_after,
            usage=usage,
        )


def _detail(response: httpx2.Response) -> Mapping[str, Any]:
    """What an error answer says, be it ``{"error": {…}}``, ``{"error": "…"}``, a list of such, or text."""
    import httpx2

    try:
        text = response.read().decode(errors="replace")
    except (httpx2.HTTPError, httpx2.StreamError):
        return {}
    try:
        body = json.loads(text)
    except json.JSONDecodeError:
        return {} if "<html" in text.lower() else {"message": text.strip()}
    if isinstance(body, list):
        body = body[0] if body else {}
    detail = body.get("error", body) if isinstance(body, dict) else body
    return detail if isinstance(detail, dict) else {"message": str(detail)}


def _response_behind(error: BaseException) -> httpx2.Response | None:
    import httpx2

    cause = error.__context__
    while cause is not None and not isinstance(cause, httpx2.HTTPStatusError):
        cause = cause.__context__
    return None if cause is None else cause.response


def _plain(value: Any) -> Any:
    """The library's objects as they came: as mappings, the nested ones lack what it does not know by name."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and hasattr(value, "__dataclass_fields__"):
        return {key: _plain(item) for key, item in vars(value).items()}
    return value


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None
