"""The loop: ask the model, run the tools it calls, tell it what they answered, until it hands in its work.

take up the conversation (or go on with the one that was broken off)
└─ run the calls that have no answer yet ── handed in and accepted? → that is the result
└─ going in circles? redirect once, then stop
└─ room left? else tell the conversation again, shorter
└─ ask: money first, retries for what is transient only
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ml_intern_cli.brains.agent.compaction import (
    BYTES_PER_TOKEN,
    SUMMARY_SYSTEM,
    compacted,
    shorten,
    tokens_of,
)
from ml_intern_cli.brains.agent.repetition import circle, fingerprint
from ml_intern_cli.brains.agent.session import Conversation, Session, Step
from ml_intern_cli.brains.models.message import (
    Fault,
    LanguageModel,
    ModelError,
    Reply,
    Request,
    Stop,
    ToolCall,
    ToolSpec,
    Usage,
    text_of,
    tool_calls,
    user_message,
)
from ml_intern_cli.brains.models.retrying import with_retries
from ml_intern_cli.brains.protocol import Purse
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed, explain
from ml_intern_cli.errors import Blocked, MlInternError, StorageFailed
from ml_intern_cli.secrets import scrub

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")

_MOST_REFUSALS = 4  # of work handed in that does not hold
_MOST_WORDS = 3  # replies in a row without a call
_MOST_COMPACTIONS = 3  # in a row, without a reply between them
_MOST_PARALLEL = 8
_MOST_RESULT = 40_000  # characters; tools cut theirs before that
_ROOM = 0.7  # of the model's context, for the request; the rest is for the reply
_REPLY_TOKENS = 16_000
_NOTES_TOKENS = 2_000
_SHOWN = 80  # characters of what the model is writing
_ACCEPTED = "accepted"


class ServiceFailed(Blocked):
    """The model's service cannot be had, for good or for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Generic[A, T]):
    """How work is handed in: a tool whose arguments are the work.

    Attributes:
        accept: Makes of them what the caller gets; it is also given the steps that led there. It changes
            nothing, for it is asked again when a killed process resumes. Raises ToolFailed with all that
            is wrong.
    """

    name: str
    description: str
    arguments: type[A]
    accept: Callable[[A, Sequence[Step]], T]

    @property
    def spec(self) -> ToolSpec:
        """As a model sees it."""
        return ToolSpec(
            name=self.name, description=self.description, schema=self.arguments.model_json_schema()
        )

    def take(self, call: ToolCall, steps: Sequence[Step]) -> T:
        """The work, if it holds. Raises ToolFailed."""
        try:
            return self.accept(self.arguments.model_validate(call.arguments), steps)
        except ValidationError as error:
            raise ToolFailed(f"it does not hold:\n{explain(error)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[A, T]):
    """One piece of work for a model.

    Attributes:
        stage: Who asks, such as ``implement a``; one conversation at a time goes by that name.
        task: What is to be done, with all that must be known; it is kept word for word.
    """

    stage: str
    system: str
    task: str
    finish: Finish[A, T]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A language model with its purse and its notebook.

    Attributes:
        notes: A model for summaries, cheaper than the first.
        tell: Gets the stage and one line on what is being done, for the terminal.
        secrets: Values that must not reach the model.
    """

    model: LanguageModel
    notes: LanguageModel
    session: Session
    purse: Purse
    tell: Callable[[str, str], None]
    secrets: tuple[str, ...] = field(default=(), repr=False)
    sleep: Callable[[float], None] = time.sleep

    def work(self, job: Job[A, T]) -> T:
        """Do a job to its end.

        Raises:
            Blocked: a cap is reached, the model refuses, goes in circles, or cannot be had (ServiceFailed).
        """
        conversation = self.session.converse(
            job.stage, model=self.model, system=job.system, opening=user_message(job.task)
        )
        if conversation.last_paid is not None:  # a process that was killed may not have booked it
            self.purse.settle(*conversation.last_paid, model=self.model)
        try:
            return _Loop(self, job, conversation).run()
        except _Stopped:
            conversation.settle()  # asked again, the work begins afresh: this conversation leads nowhere
            raise


class _Stopped(Blocked):
    """The program ended a conversation that leads nowhere."""


@dataclass(frozen=True, slots=True)
class _Loop(Generic[A, T]):
    agent: Agent
    job: Job[A, T]
    conversation: Conversation

    def run(self) -> T:
        finish, steps = self.job.finish, self.conversation.steps
        while True:
            self._answer()
            for step in steps:
                if step.call.name == finish.name and not step.is_error:
                    return finish.take(step.call, steps)
            self._check()
            reply = self._ask()
            if reply.stop is Stop.REFUSAL:
                raise self._stopped(
                    "the language model refuses", text_of(reply.content) or "it gave no reason"
                )
            if not tool_calls(reply.content):
                self._ask_for_a_call(reply)

    # Tools

    def _answer(self) -> None:
        """Run what was called and has no answer yet, up to work that is handed in and holds."""
        tools = {tool.name: tool for tool in self.job.tools}
        for beside, group in groupby(
            self.conversation.pending, key=lambda call: _may_run_beside(tools.get(call.name))
        ):
            if beside:
                self._run_beside(tools, list(group))
                continue
            for call in group:
                handed_in = call.name == self.job.finish.name
                text, is_error = self._hand_in(call) if handed_in else self._run(tools, call)
                self.conversation.answer(call, text, is_error=is_error)
                if handed_in and not is_error:
                    return

    def _run_beside(self, tools: dict[str, Tool], calls: list[ToolCall]) -> None:
        with ThreadPoolExecutor(max_workers=_MOST_PARALLEL) as pool:
            answers = pool.map(lambda call: self._run(tools, call), calls)
            for call, (text, is_error) in zip(calls, answers, strict=True):
                self.conversation.answer(call, text, is_error=is_error)

    def _run(self, tools: dict[str, Tool], call: ToolCall) -> tuple[str, bool]:
        tool = tools.get(call.name)
        if tool is None:
            return (
                f"there is no tool {call.name!r}; there are: {', '.join((*tools, self.job.finish.name))}",
                True,
            )
        self._tell(f"{call.name} {_subject(call)}".strip())
        try:
            text, is_error = tool.call(call.arguments), False
        except (Blocked, StorageFailed):
            raise
        except MlInternError as error:
            text, is_error = f"{error.message}\n{error.hint}" if error.hint else error.message, True
        # A call that raises would raise again whenever the conversation is gone on with.
        except Exception as error:  # noqa: BLE001, whatever it was, the model is told and may try otherwise
            text, is_error = f"{call.name} failed: {type(error).__name__}: {error}", True
        return shorten(scrub(text, known=self.agent.secrets), _MOST_RESULT), is_error

    def _hand_in(self, call: ToolCall) -> tuple[str, bool]:
        self._tell("handing in")
        try:
            self.job.finish.take(call, self.conversation.steps)
        except ToolFailed as error:
            return error.message, True
        return _ACCEPTED, False

    # Limits

    def _check(self) -> None:
        """Stop a model that does not get anywhere."""
        finish, steps, redirected_at = (
            self.job.finish,
            self.conversation.steps,
            self.conversation.redirected_at,
        )
        refused = [step.result for step in steps if step.call.name == finish.name]
        if len(refused) >= _MOST_REFUSALS:
            raise self._stopped(
                f"what the language model handed in did not hold {len(refused)} times", refused[-1]
            )
        repeated = circle(steps[redirected_at or 0 :])
        if repeated is None:
            return
        if redirected_at is not None:
            raise self._stopped("the language model goes in circles", f"again, after it was told: {repeated}")
        self._tell("going in circles; redirected")
        self.conversation.redirect(
            f"You are going in circles ({repeated}). That way leads nowhere. Say in one sentence what you "
            "know now that you did not know before, then do something else: another approach, a smaller step,"
            f" or {finish.name} with the best you have. Once more, and the work is stopped."
        )

    def _ask_for_a_call(self, reply: Reply) -> None:
        """Answer a reply that only talks."""
        said = [one["content"] for one in self.conversation.messages if one["role"] == "assistant"]
        if len(said) >= _MOST_WORDS and not any(tool_calls(content) for content in said[-_MOST_WORDS:]):
            words = text_of(reply.content) or "nothing"
            raise self._stopped("the language model talks and does nothing", f"its last words: {words}")
        is_cut = reply.stop is Stop.MAX_TOKENS
        cut = " Your reply was cut off at its limit; work in smaller parts." if is_cut else ""
        self.conversation.say(
            f"Nothing is done until a tool does it.{cut} Go on with the tools, and hand in with "
            f"{self.job.finish.name}."
        )

    # The model

    def _ask(self) -> Reply:
        """One reply, whatever it takes: room, money, patience."""
        specs = (*(tool.spec for tool in self.job.tools), self.job.finish.spec)
        fixed = tokens_of(self.job.system, [[one.name, one.description, dict(one.schema)] for one in specs])
        room = int(_ROOM * self.agent.model.context_tokens) - fixed
        for _ in range(_MOST_COMPACTIONS + 1):
            size = tokens_of(self.conversation.messages)
            if size > room:
                size = self._make_room(room)
            try:
                return self._reply(specs, tokens_in=fixed + size)
            except ModelError as error:
                if error.fault is not Fault.CONTEXT_FULL:
                    raise self._failed(error) from error
            room = min(room, size) // 2
        raise self._stopped("its task does not fit into the model's context", "not even in the shortest form")

    def _reply(self, specs: Sequence[ToolSpec], *, tokens_in: int) -> Reply:
        request = Request(
            system=self.job.system,
            messages=self.conversation.messages,
            tools=specs,
            max_tokens=_REPLY_TOKENS,
            force_tool=self._only_call_left(),
        )
        reply, allowance = self._paid(self.agent.model, request, tokens_in=tokens_in)
        self.conversation.hear(reply, allowance=allowance)
        self.agent.purse.settle(allowance, reply.usage, model=self.agent.model)
        return reply

    def _only_call_left(self) -> str | None:
        """The tool that a model has to call which talked instead, where there is no other."""
        said = [one["content"] for one in self.conversation.messages if one["role"] == "assistant"]
        has_talked = bool(said) and not tool_calls(said[-1])
        return self.job.finish.name if has_talked and not self.job.tools else None

    def _make_room(self, room: int) -> int:
        """Tell the conversation again, shorter; returns its new size in tokens."""
        self._tell("compacting the conversation")
        summary: dict[str, str] = {}

        def summarise(text: str) -> str:
            text = shorten(text, int(_ROOM * self.agent.notes.context_tokens * BYTES_PER_TOKEN))
            summary.update(asked=fingerprint(text), notes=self._summarise(text))
            return summary["notes"]

        messages = compacted(self.conversation.messages, room=room, summarise=summarise)
        self.conversation.compact(messages, summary=summary)
        return tokens_of(self.conversation.messages)

    def _summarise(self, text: str) -> str:
        model = self.agent.notes
        request = Request(system=SUMMARY_SYSTEM, messages=[user_message(text)], max_tokens=_NOTES_TOKENS)
        try:
            reply, allowance = self._paid(model, request, tokens_in=tokens_of(text))
        except ModelError as error:
            raise self._failed(error) from error
        self.agent.purse.settle(allowance, reply.usage, model=model)
        return text_of(reply.content) or "(no notes)"

    def _paid(self, model: LanguageModel, request: Request, *, tokens_in: int) -> tuple[Reply, str]:
        """A reply, and its allowance, which the caller settles. Raises ModelError, Blocked."""
        purse = self.agent.purse

        def attempt() -> tuple[Reply, str]:
            allowance = purse.allow(
                self.job.stage,
                model,
                tokens_in=tokens_in,
                max_tokens=request.max_tokens,
                calls=self.conversation.calls,
            )
            self._tell(f"asking {model.name}")
            try:
                reply = model.reply(replace(request, max_tokens=allowance.max_tokens), on_text=self._show)
            except ModelError as error:
                purse.settle(allowance.id, error.usage or Usage(), model=model)
                raise
            return reply, allowance.id

        return with_retries(
            attempt,
            on_wait=lambda error, wait_s: self._tell(f"{error.message}; again in {wait_s:.0f} s"),
            sleep=self.agent.sleep,
        )

    def _tell(self, line: str) -> None:
        self.agent.tell(self.job.stage, line)

    def _show(self, text: str) -> None:
        words = " ".join(text.split())
        if words:
            self._tell(words[-_SHOWN:])

    def _stopped(self, what: str, why: str) -> Blocked:
        return _Stopped(
            f"{self.job.stage}: {what}",
            why=" ".join(why.split())[:400],
            ways_on=(
                "run the same command again: this step begins afresh",
                "try another model: --model",
                "do without one: --brain blueprint",
            ),
        )

    def _failed(self, error: ModelError) -> ServiceFailed:
        return ServiceFailed(
            f"{self.job.stage}: the language model could not be asked",
            why=error.message,
            ways_on=(
                *((error.hint,) if error.hint else ()),
                "run the same command again later: nothing that was paid for is asked again",
                "go on without it: --brain blueprint",
            ),
        )


def _may_run_beside(tool: Tool | None) -> bool:
    """Whether a tool may run while others do."""
    return tool is not None and tool.read_only


def _subject(call: ToolCall) -> str:
    """What a call is about, in a few words."""
    about = next((value for value in call.arguments.values() if isinstance(value, str)), "")
    return " ".join(about.split())[:60]
