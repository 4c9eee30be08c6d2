"""Transformers checkpoints for the audit's tests: small, real, trained for seconds on generated stories."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.judged_path import story

CONTEXT = 64
END = "<|endoftext|>"
_BATCH = 16


@dataclass(frozen=True)
class Texts:
    """Stories to train on and stories held out, each ended by the end-of-text token."""

    train: str
    heldout: str


def texts(seed: int = 0) -> Texts:
    """About 250k and 20k tokens."""
    chance = random.Random(seed)
    stories = list(dict.fromkeys(story(chance) for _ in range(4_000)))
    return Texts(
        "\n".join(f"{one}{END}" for one in stories[300:]), "\n".join(f"{one}{END}" for one in stories[:300])
    )


def tokenizer_of(text: str, *, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``text``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(END), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, model_max_length=CONTEXT)


def config_of(kind: str, *, vocab_size: int, **changes: Any) -> Any:
    """A small configuration of an architecture of transformers."""
    import transformers

    shared = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    llama = shared | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.02,
    }
    tables: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("LlamaConfig", llama | {"tie_word_embeddings": False}),
        "tied": ("LlamaConfig", llama | {"tie_word_embeddings": True}),
        "qwen": ("Qwen3Config", llama | {"head_dim": 16, "tie_word_embeddings": True}),
        "mixtral": ("MixtralConfig", llama | {"num_local_experts": 4, "num_experts_per_tok": 2}),
        "gpt2": (
            "GPT2Config",
            shared | {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT},
        ),
    }
    name, values = tables[kind]
    return getattr(transformers, name)(**(values | changes))


def train(model: Any, ids: torch.Tensor, *, steps: int, seed: int = 0, shift: int = 1) -> Any:
    """Trains as a small model is trained, on labels ``shift`` tokens ahead; returns it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=max(steps, 4), pct_start=0.1)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(ids) - CONTEXT - shift, (_BATCH,), generator=generator).tolist()
        batch = torch.stack([ids[start : start + CONTEXT + shift] for start in starts])
        logits = model(input_ids=batch[:, :-shift], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, shift:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def make(directory: Path, kind: str, corpus: Texts, *, steps: int = 400, **changes: Any) -> Path:
    """A checkpoint directory as ``save_pretrained`` leaves it."""
    tokenizer = tokenizer_of(corpus.train)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind, vocab_size=len(tokenizer), **changes))
    ids = torch.tensor(tokenizer(corpus.train, add_special_tokens=False)["input_ids"])
    train(model, ids, steps=steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
