"""Groups of programs, and edits that differ between them."""

from __future__ import annotations

from benchmarks.defects.case import Edit

GPT = ("gpt2", "gpt2_moe")
LLAMA = ("llama", "llama_moe")
LATENT = ("mla", "mla_moe")
ROTARY = (*LLAMA, *LATENT)
ALL = (*GPT, *ROTARY)
DENSE = ("gpt2", "llama", "mla")
MIXTURES = ("gpt2_moe", "llama_moe", "mla_moe")
FOUR = ("gpt2", "llama_moe", "llama", "mla_moe")  # two of each half, each architecture, both kinds

Edits = tuple[Edit, ...]


def by_architecture(gpt2: Edits = (), llama: Edits = (), mla: Edits = ()) -> dict[str, Edits]:
    """The same edits with and without experts."""
    return dict.fromkeys(GPT, gpt2) | dict.fromkeys(LLAMA, llama) | dict.fromkeys(LATENT, mla)


def by_program(**edits: Edits) -> dict[str, Edits]:
    """Edits by the program's name."""
    return edits
