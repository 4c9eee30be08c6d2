"""A language model that builds a decoder which mixes tokens by decaying averages, as a script.

Its first version looks into the future; told so, it mends it. ``Author`` decides by the tool it is to hand
in with, so that the same script serves both wire formats and any order of stages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.loopback_models import Act, Call, Calls, Incoming, Think

SENTENCE = "implement a decoder whose attention is replaced by decaying averages at 500k on builtin:stories"
SLUG = "decaying-averages"

CONFIG = {
    "_model_class": "AverageDecoder",
    "vocab_size": 1024,
    "width": 96,
    "layers": 3,
    "heads": 4,
    "hidden": 368,
}

MODEL = Path(__file__).with_name("average_decoder.py").read_text(encoding="utf-8")

LEAK = "        weight = decay[:, None, None] ** distance  # (H, T, T)\n"
FIX = "        weight = (decay[:, None, None] ** distance).tril()  # (H, T, T), nothing after t\n"


@dataclass
class Author:
    """What it says when; ``asked`` counts the conversations by what they are to hand in."""

    model: str = MODEL
    fix: tuple[str, str] = (LEAK, FIX)
    asked: list[str] = field(default_factory=list)

    def __call__(self, incoming: Incoming) -> Act:
        handing_in = next(name for name in incoming.tools if name.startswith("hand_in"))
        if incoming.turns == 0:
            self.asked.append(handing_in)
        return getattr(self, handing_in)(incoming)

    def hand_in_task(self, incoming: Incoming) -> Act:
        task = {
            "title": "a decoder whose attention is replaced by decaying averages",
            "architecture": "average-decoder",
            "starts_from": "deepseek-v3",
            "difference": "Every head averages the values of earlier tokens with weights that decay "
            "geometrically with the distance; there are no queries and keys.",
            "assumptions": [
                {"name": "decay", "value": "learned", "why": "the request does not say that it is fixed"}
            ],
        }
        return Call("hand_in_task", task)

    def hand_in_findings(self, incoming: Incoming) -> Act:
        if incoming.turns == 0:
            return Call("search_papers", {"query": "exponential moving average token mixing"})
        return Call("hand_in_findings", {"findings": [], "not_reached": ["arxiv.org: no network"]})

    def hand_in_paths(self, incoming: Incoming) -> Act:
        path = {
            "variant": "dense-averages",
            "approach": "decaying averages as one dense product per head",
            "hypothesis": "four time scales are enough to write a story",
            "why": "it is the simplest thing that does what was asked",
        }
        return Call("hand_in_paths", {"paths": [path]})

    def hand_in_code(self, incoming: Incoming) -> Act:
        if "This is a retry." in incoming.first_text:
            return self._mend(incoming)
        match incoming.turns:
            case 0:
                look = (Call("list_files"), Call("read_file", {"path": "config.json"}))
                return Think("What is there?", Calls(look))
            case 1:
                return Call("write_file", {"path": "model.py", "text": self.model})
            case 2:
                text = json.dumps(CONFIG, indent=2) + "\n"
                return Call("write_file", {"path": "config.json", "text": text})
            case _:
                summary = "Attention is replaced by decaying averages over earlier tokens."
                return Call("hand_in_code", {"summary": summary, "left_open": ["no cache for generation"]})

    def _mend(self, incoming: Incoming) -> Act:
        old, new = self.fix
        if incoming.turns == 0:
            return Call("edit_file", {"path": "model.py", "old": old, "new": new})
        return Call("hand_in_code", {"summary": "The average no longer reaches tokens after its own."})

    def hand_in_diagnosis(self, incoming: Incoming) -> Act:
        if incoming.turns == 0:
            return Call("read_file", {"path": "model.py"})
        found = {
            "symptom": "changing a later token moves earlier logits",
            "root_cause": "model.py: the weights of the average are not masked, so it reaches both ways",
            "fix": "keep the lower triangle of the weights before they are normalised",
            "fixable": True,
            "probe": "causality",
        }
        return Call("hand_in_diagnosis", found)


BUGS = (
    (LEAK, LEAK),  # it looks into the future
    ("value = self.value(x).view", "value = self.value(x).detach().view"),  # no gradient reaches a matrix
    (
        "nn.ModuleList(Block(config) for _ in range(config.layers))",
        "[Block(config) for _ in range(config.layers)]",
    ),
    (
        "self.out(mixed * silu(self.gate(x)))",
        "self.out((mixed * silu(self.gate(x))).transpose(1, 2))",
    ),  # shapes
    ("self.norm(x) @ self.embed.weight.T", "self.norm(x - x.mean(0, keepdim=True)) @ self.embed.weight.T"),
)
"""What a careless author gets wrong, one thing at a time; the last mixes the rows of a batch."""


def with_bug(bug: tuple[str, str]) -> str:
    """The code with that bug alone."""
    right, wrong = bug
    return MODEL if right == LEAK else MODEL.replace(LEAK, FIX).replace(right, wrong)


@dataclass
class Careless(Author):
    """Mends each bug that it is told of, and makes the next one; after the last it gets it right."""

    bugs: tuple[tuple[str, str], ...] = BUGS
    made: int = 0

    def hand_in_code(self, incoming: Incoming) -> Act:
        if incoming.turns == 0:
            self.made += 1
            return Call("write_file", {"path": "model.py", "text": self._version(self.made - 1)})
        if incoming.turns == 1 and "This is a retry." not in incoming.first_text:
            return Call("write_file", {"path": "config.json", "text": json.dumps(CONFIG, indent=2) + "\n"})
        return Call("hand_in_code", {"summary": "It works now, I am quite sure of it."})

    def hand_in_diagnosis(self, incoming: Incoming) -> Act:
        measured = re.search(r"What the judge measured:\s+- ([^:]+):", incoming.first_text)
        failed = measured[1] if measured else None
        found = {
            "symptom": f"{failed} fails",
            "root_cause": "the last change of model.py",
            "fix": f"take back what was changed for attempt {self.made}",
            "fixable": True,
            "probe": failed,
        }
        return Call("hand_in_diagnosis", found)

    def _version(self, number: int) -> str:
        if number >= len(self.bugs):
            return self.model.replace(*self.fix)
        return with_bug(self.bugs[number])
