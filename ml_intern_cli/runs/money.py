"""Money for language models, enforced: the only door to calling one.

Before each call what it can cost at most is set aside in events.jsonl, and after it replaced by what the
service counted. A call whose process died in between stays counted at its most: the cap holds whatever
happens. BUDGET.md shows the sums; its ``usd_used`` and the events' total: the larger of the two counts.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ml_intern_cli.documents import layout as names
from ml_intern_cli.documents.budget import Budget, ModelUse
from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import Blocked
from ml_intern_cli.runs.events import record
from ml_intern_cli.runs.files import read_rows
from ml_intern_cli.runs.outputs import update
from ml_intern_cli.stages.base import read_document

if TYPE_CHECKING:
    from ml_intern_cli.brains.models.message import LanguageModel, Usage
    from ml_intern_cli.brains.models.prices import Price
    from ml_intern_cli.brains.protocol import Allowance

_ASKED, _ANSWERED = "model_call", "model_reply"  # events
_LEAST_REPLY = 1_024  # tokens; with fewer no useful reply can end
_LOOK_AGAIN_S = 0.2
_PER = 1e6  # prices are per million tokens
_UNDER_WAY: dict[Path, set[str]] = {}
"""By run, the calls of this process that are not answered yet: what they set aside is no spend so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyCaps:
    """Caps as long as there is no BUDGET.md, which has the say from then on."""

    max_usd: float


class RunPurse:
    """The money of one run.

    Args:
        layout: The run.
        before: The caps until BUDGET.md is written.
        prices: The user's own prices, by model.
        config_file: Where those stand, for messages.
        approve: Asks the user before the first paid call of this process; headless runs keep to the cap.
        wait: Waits that many seconds, or raises where the run is stopped.
    """

    def __init__(
        self,
        layout: RunLayout,
        *,
        before: MoneyCaps,
        prices: Mapping[str, Price],
        config_file: Path,
        approve: Callable[[str], bool],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._layout = layout
        self._before = before
        self._prices = prices
        self._config_file = config_file
        self._approve = approve
        self._wait = wait
        self._approved = False
        self._one_at_a_time = threading.RLock()  # what one loop sets aside, another must see
        self._waiting: list[object] = []  # who asks for money, in the order in which they came
        self._under_way = _UNDER_WAY[layout.root] = set()  # those of an earlier purse were broken off

    def allow(
        self, stage: str, model: LanguageModel, *, tokens_in: int, max_tokens: int, calls: int
    ) -> Allowance:
        """Set aside what a call can cost at most. See Purse.allow.

        What others have set aside may come back, so nobody is refused while a call of theirs is under way.
        Who has waited longest is next: a loop that calls often does not starve another.
        """
        ticket = object()
        with self._one_at_a_time:
            self._waiting.append(ticket)
        try:
            while True:
                with self._one_at_a_time:
                    if self._waiting[0] is ticket:
                        try:
                            return self._set_aside(
                                stage, model, tokens_in=tokens_in, max_tokens=max_tokens, calls=calls
                            )
                        except Blocked:
                            if not self._under_way:
                                raise
                self._wait(_LOOK_AGAIN_S)
        finally:
            with self._one_at_a_time:
                self._waiting.remove(ticket)

    def _set_aside(
        self, stage: str, model: LanguageModel, *, tokens_in: int, max_tokens: int, calls: int
    ) -> Allowance:
        from ml_intern_cli.brains.protocol import Allowance

        price = self._price(model)
        budget = self._budget()
        uses = model_use(self._layout)
        if calls >= budget.max_model_calls:
            raise _capped(
                f"{stage} has called the language model {calls:,} times",
                cap="max_model_calls",
                value=budget.max_model_calls,
            )
        tokens_left = budget.max_model_tokens - sum(one.tokens_in + one.tokens_out for one in uses)
        max_tokens = min(max_tokens, tokens_left - tokens_in)
        if max_tokens < _LEAST_REPLY:
            raise _capped(
                f"the next call of {stage} would take some {tokens_in + _LEAST_REPLY:,} tokens, "
                f"{max(0, tokens_left):,} are left",
                cap="max_model_tokens",
                value=budget.max_model_tokens,
            )
        if price.long is not None and tokens_in > (price.long_above or 0):
            price = price.long
        usd_in = tokens_in * max(price.input, price.cache_write) / _PER
        usd_left = budget.max_usd - max(budget.usd_used, sum(one.usd for one in uses))
        if price.output > 0:
            max_tokens = min(max_tokens, math.floor((usd_left - usd_in) / price.output * _PER))
        if max_tokens < _LEAST_REPLY or (usd_in > usd_left and usd_in > 0):
            raise self._exhausted(stage, usd_in + _LEAST_REPLY * price.output / _PER, usd_left, budget)
        usd = usd_in + max_tokens * price.output / _PER
        if usd > 0:
            self._ask(model, budget.max_usd)
        allowance = Allowance(id=uuid4().hex, max_tokens=max_tokens)
        self._under_way.add(allowance.id)
        record(
            self._layout,
            _ASKED,
            id=allowance.id,
            stage=stage,
            service=model.service,
            model=model.name,
            input_tokens=tokens_in,
            output_tokens=max_tokens,
            usd=round(usd, 9),
        )
        return allowance

    def settle(self, allowance_id: str, usage: Usage, *, model: LanguageModel) -> None:
        """Book what the service counted. See Purse.settle."""
        from ml_intern_cli.brains.models.prices import cost

        with self._one_at_a_time:
            record(
                self._layout,
                _ANSWERED,
                id=allowance_id,
                input_tokens=usage.input_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                output_tokens=usage.output_tokens,
                usd=round(cost(self._price(model), usage), 9),
            )
            self._under_way.discard(allowance_id)
            sync(self._layout)

    def _price(self, model: LanguageModel) -> Price:
        from ml_intern_cli.brains.models.prices import Price, price_of

        if model.service == "replay":
            return Price(input=0.0, output=0.0, cache_read=0.0, cache_write=0.0)
        price = price_of(model.name, self._prices)
        if price is None:
            raise Blocked(
                f"the price of {model.name} is not known",
                why="what has no price cannot be kept under max_usd; prices are dollars per million tokens",
                ways_on=(
                    f'write [prices."{model.name}"] with input and output into {self._config_file}',
                    "use a model with a known price: --model",
                ),
            )
        return price

    def _budget(self) -> Budget:
        if self._layout.document(names.BUDGET).is_file():
            return read_document(self._layout, Budget, names.BUDGET)
        return Budget(max_usd=self._before.max_usd, scale_ceiling=1)

    def _ask(self, model: LanguageModel, max_usd: float) -> None:
        """Somebody at the terminal is asked once; whoever is not there has said it in the budget."""
        if self._approved:
            return
        if not self._approve(f"spend up to ${max_usd:g} on {model.service} {model.name}"):
            raise Blocked(
                "the language model was not called",
                why="you said no to spending money on it",
                ways_on=(
                    f"ml-intern run {self._layout.slug} --brain blueprint",
                    f"ml-intern run {self._layout.slug} --yes",
                ),
            )
        self._approved = True

    def _exhausted(self, stage: str, usd: float, usd_left: float, budget: Budget) -> Blocked:
        more = max(budget.max_usd * 2, budget.max_usd + usd)
        return Blocked(
            f"no money for the next call of {stage}",
            why=f"it could cost ${usd:.4f}, and ${max(0.0, usd_left):.4f} of ${budget.max_usd:g} are left",
            ways_on=(
                f"ml-intern run {self._layout.slug} --max-usd {more:.3g}",
                "raise max_usd in BUDGET.md and run the same command again",
            ),
        )


def model_use(layout: RunLayout, *, without: Collection[str] = ()) -> tuple[ModelUse, ...]:
    """What language models did so far, by stage, in the order of their first call.

    Args:
        layout: The run.
        without: Calls that are left out.
    """
    calls: dict[str, dict[str, Any]] = {}
    for row in read_rows(layout.events):
        kind, data = row.get("event_type"), row.get("data")
        if (
            kind not in {_ASKED, _ANSWERED}
            or not isinstance(data, dict)
            or not isinstance(data.get("id"), str)
        ):
            continue
        is_sound = all(_counts(data.get(name, 0)) for name in _COUNTED)
        if not is_sound or (kind == _ASKED and not _STAGE.fullmatch(str(data.get("stage")))):
            continue  # what somebody else wrote there neither counts nor stops the counting
        if kind == _ASKED or data["id"] in calls:
            calls[data["id"]] = calls.get(data["id"], {}) | data
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for call in (call for key, call in calls.items() if key not in without):
        by_stage.setdefault(str(call.get("stage")), []).append(call)
    return tuple(_use(stage, made) for stage, made in by_stage.items())


def sync(layout: RunLayout) -> None:
    """Bring BUDGET.md up to what the events say."""
    if not layout.document(names.BUDGET).is_file():
        return  # clarify is due, which writes it

    def count(budget: Budget) -> Budget:
        uses = model_use(layout, without=frozenset(_UNDER_WAY.get(layout.root, ())))
        usd = max(budget.usd_used, round(sum(one.usd for one in uses), 6))
        return budget.model_copy(update={"usd_used": usd, "model_use": uses or budget.model_use})

    update(layout, Budget, names.BUDGET, count)


_STAGE = re.compile(r"[a-z]+( [a-z][a-z0-9-]*)?")
_COUNTED = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "usd")


def _counts(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _use(stage: str, calls: list[dict[str, Any]]) -> ModelUse:
    def total(*names: str) -> float:
        return math.fsum(call.get(name, 0) for call in calls for name in names)

    return ModelUse(
        stage=stage,
        calls=len(calls),
        tokens_in=int(total("input_tokens", "cache_read_tokens", "cache_write_tokens")),
        tokens_out=int(total("output_tokens")),
        usd=total("usd"),
    )


def _capped(what: str, *, cap: str, value: int) -> Blocked:
    return Blocked(
        what,
        why=f"{cap} in BUDGET.md is {value:,}",
        ways_on=(f"raise {cap} in BUDGET.md and run the same command again",),
    )
