"""How a model is built, found out from outside: its layers, its attention, where tokens enter.

One recorded forward pass of the redrawn model. Any module can then be run again alone on other inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probes.recording import Call, Recording, Scores, recording, tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_LONGEST = 64  # tokens: scores are T x T per head, and attention in blocks has them whole below this
_ROWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A member of a list of layers: it maps hidden states ``(B, T, H)`` to others of the same shape."""

    name: str
    stack: str  # the list it is in
    call: Call
    hidden: torch.Tensor
    has_attention: bool


class Anatomy:
    """What one forward pass of ``model`` showed. Raises Unusable when it does not run."""

    def __init__(self, bench: Bench, model: nn.Module) -> None:
        import torch

        self.bench = bench
        self.model = model
        self.ids = bench.random_ids(_ROWS)[:, :_LONGEST]
        with torch.no_grad(), recording(model, length=self.length, operations=True) as record:
            bench.logits(model, self.ids)
        self.record: Recording = record

    @property
    def length(self) -> int:
        """T."""
        return int(self.ids.shape[1])

    @cached_property
    def layers(self) -> list[Layer]:
        """Every member of a list of modules that maps hidden states to hidden states, in calling order."""
        from torch import nn

        attended = {name for scores in self.record.scores for name in scores.modules}
        found = []
        for stack, container in self.model.named_modules():
            if not isinstance(container, (nn.ModuleList, nn.Sequential)):
                continue
            members = {id(member) for member in container}
            for call in self.record.calls:
                hidden = self.hidden_input(call)
                if id(call.module) in members and call.occasion == 0 and hidden is not None:
                    output = next(iter(call.outputs), None)
                    if output is not None and output.shape == hidden.shape:
                        found.append(
                            Layer(
                                name=call.name,
                                stack=stack,
                                call=call,
                                hidden=hidden,
                                has_attention=call.name in attended,
                            )
                        )
        return found

    @cached_property
    def attentions(self) -> list[tuple[str, Call, Scores]]:
        """Every softmax attention: the innermost module around it that is given hidden states."""
        calls = {call.name: call for call in self.record.calls if call.occasion == 0}
        found = []
        for scores in self.record.scores:
            for name in reversed(scores.modules):
                if name in calls and name and self.hidden_input(calls[name]) is not None:
                    found.append((name, calls[name], scores))
                    break
        return found

    def hidden_input(self, call: Call) -> torch.Tensor | None:
        """The one tensor ``(B, T, H)`` that a call was given; None when there is none or more."""
        found = [one for one in (*call.args, *call.kwargs.values()) if self._is_hidden(one)]
        return found[0] if len(found) == 1 else None

    def _is_hidden(self, value: object) -> bool:
        import torch

        return (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.ndim == 3
            and value.shape[:2] == self.ids.shape
        )

    @staticmethod
    def float_input(call: Call) -> torch.Tensor | None:
        """The one tensor ``(..., H)`` of numbers that a call was given; None when there is none or more."""
        found = [one for one in tensors((call.args, call.kwargs)) if one.is_floating_point() and one.ndim > 1]
        return found[0] if len(found) == 1 else None

    def replay(
        self, call: Call, hidden: torch.Tensor, *, given: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """What the module gives for other hidden states; None when it does not run alone.

        Args:
            call: Of the module.
            hidden: In the place of ``given``, and of its shape.
            given: What the call was given; default: its ``hidden_input``.
        """
        import torch

        given = self.hidden_input(call) if given is None else given
        args = tuple(hidden if one is given else one for one in call.args)
        kwargs = {key: hidden if one is given else one for key, one in call.kwargs.items()}
        torch.manual_seed(self.bench.seed)
        try:
            with torch.no_grad(), self.bench.artifact.foreign_code(f"{call.name} alone"):
                output: Any = call.module(*args, **kwargs)
        except Unusable:
            return None
        found = next(tensors(output), None)
        return found if found is not None and found.shape == hidden.shape else None

    def replayed_scores(self, call: Call, hidden: torch.Tensor) -> list[Scores]:
        """The attention scores inside the module for other hidden states."""
        with recording(call.module, length=self.length, calls=False, operations=True) as record:
            self.replay(call, hidden)
        return record.scores


def setting(config: dict[str, Any], *names: str) -> Any:
    """The first of these settings that config.json has; None without."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def settings_like(config: dict[str, Any], pattern: str) -> Iterator[tuple[str, Any]]:
    """Every setting, at any depth, whose name matches."""
    for name, value in config.items():
        if re.search(pattern, name, re.IGNORECASE):
            yield name, value
        if isinstance(value, dict):
            yield from settings_like(value, pattern)
