"""Harmless variations of the language-model programs, hard ones among them: any alarm is a false one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.defects.case import Action, Clean, Edit, Folder
from benchmarks.defects.families.places import ALL, FOUR, GPT, LLAMA, ROTARY
from benchmarks.defects.families.shards import read_ids, write_ids

_SEEDS = (11, 12, 13)
_BENIGN = (
    "/usr/lib/python3/dist-packages/some_library/loader.py:12: FutureWarning: this argument will be renamed\n"
    "/usr/lib/python3/dist-packages/torch/utils/data.py:7: UserWarning: 'pin_memory' argument is set as true "
    "but no accelerator is found, then device pinned memory won't be used.\n"
)


def _settings(**values: Any) -> Action:
    def act(folder: Folder) -> None:
        folder.set("train_config.json", **values)

    return act


def _config(**values: Any) -> Action:
    def act(folder: Folder) -> None:
        folder.set("config.json", **values)

    return act


def _scaled(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Action:
    """Settings that follow from the program's own."""

    def act(folder: Folder) -> None:
        folder.set("train_config.json", **change(folder.json("train_config.json")))

    return act


def _with_duplicates(folder: Folder) -> None:
    """A tenth of the training documents are there twice, as in most corpora."""
    ids = read_ids(folder.data, "train")
    ends = np.flatnonzero(ids == 0)
    tenth = ends[len(ends) // 10] + 1
    write_ids(folder.data, "train", np.concatenate([ids, ids[:tenth]]))


def _fewer_tokens(folder: Folder) -> None:
    """So little text that training goes over it twice, honestly."""
    ids = read_ids(folder.data, "train")
    ends = np.flatnonzero(ids == 0)
    write_ids(folder.data, "train", ids[: ends[np.searchsorted(ends, 110_000)] + 1])


_SEED_RUNS = tuple(
    Clean(name=f"seed-{seed}", what=f"seed {seed}", programs=ALL, before=_settings(seed=seed))
    for seed in _SEEDS
)

_SETTINGS = (
    Clean(
        name="constant-schedule",
        what="no decay of the rate",
        programs=ALL,
        before=_settings(schedule="constant"),
    ),
    Clean(
        name="linear-schedule", what="linear decay", programs=ALL, before=_settings(schedule="linear", seed=3)
    ),
    Clean(
        name="no-warm-up",
        what="full rate from the first step",
        programs=FOUR,
        before=_settings(warmup_steps=0),
    ),
    Clean(
        name="long-warm-up", what="a third of the training", programs=ALL, before=_settings(warmup_steps=100)
    ),
    Clean(name="no-weight-decay", what="weight decay 0", programs=ALL, before=_settings(weight_decay=0.0)),
    Clean(
        name="rate-higher",
        what="an aggressive but valid rate, half as much again",
        programs=ROTARY,
        before=_scaled(lambda own: {"learning_rate": 1.5 * own["learning_rate"]}),
    ),
    Clean(
        name="rate-lower",
        what="three quarters of the rate",
        programs=FOUR,
        before=_scaled(lambda own: {"learning_rate": 0.75 * own["learning_rate"]}),
    ),
    Clean(
        name="no-accumulation",
        what="the same batch in one pass",
        programs=ALL,
        before=_scaled(lambda own: {"micro_batch": 2 * own["micro_batch"], "accumulation": 1}),
    ),
    Clean(
        name="more-accumulation",
        what="the same batch in four passes",
        programs=FOUR,
        before=_scaled(lambda own: {"micro_batch": own["micro_batch"] // 2, "accumulation": 4}),
    ),
    Clean(
        name="bfloat16", what="bf16 forward and backward", programs=ALL, before=_settings(precision="bf16")
    ),
    Clean(name="high-beta2", what="beta2 0.99", programs=FOUR, before=_settings(beta2=0.99)),
    Clean(name="loose-clip", what="a clip that rarely clips", programs=FOUR, before=_settings(grad_clip=5.0)),
    Clean(
        name="tight-clip",
        what="a clip that always clips",
        programs=("gpt2", "llama"),
        before=_settings(grad_clip=0.3),
    ),
    Clean(
        name="few-evaluations",
        what="one evaluation, at the end",
        programs=FOUR,
        replan=True,
        before=_scaled(lambda own: {"eval_every": own["steps"], "checkpoint_every": own["steps"]}),
    ),
    Clean(
        name="many-checkpoints",
        what="a checkpoint every 25 steps",
        programs=FOUR,
        before=_settings(checkpoint_every=25, eval_every=50),
    ),
    Clean(
        name="small-batch",
        what="half the batch, more steps",
        programs=FOUR,
        replan=True,
        before=_scaled(lambda own: {"micro_batch": own["micro_batch"] // 2, "steps": own["steps"] * 3 // 2}),
    ),
    Clean(
        name="short",
        what="three quarters of the steps: short but honest",
        programs=FOUR,
        replan=True,
        before=_scaled(lambda own: {"steps": own["steps"] * 3 // 4}),
    ),
)

_MODELS = (
    Clean(
        name="more-dropout",
        what="dropout makes eval better than train",
        programs=GPT,
        before=_config(dropout=0.08),
    ),
    Clean(name="no-dropout", what="no dropout", programs=("gpt2",), before=_config(dropout=0.0)),
    Clean(
        name="wider-init",
        what="weights start half as wide again",
        programs=ALL,
        before=_config(initializer_range=0.03),
    ),
    Clean(
        name="untied",
        what="a head of its own, as configured",
        programs=("gpt2", "gpt2_moe", "mla", "mla_moe"),
        replan=True,
        before=_config(tie_word_embeddings=False),
    ),
    Clean(
        name="tied",
        what="head and embedding tied, as configured",
        programs=LLAMA,
        replan=True,
        before=_config(tie_word_embeddings=True),
    ),
    Clean(name="more-heads", what="eight narrow heads", programs=GPT, before=_config(num_attention_heads=8)),
    Clean(
        name="other-rotary-base", what="rotary base 1,000", programs=ROTARY, before=_config(rope_theta=1000.0)
    ),
    Clean(
        name="one-expert-per-token",
        what="top-1 of the same experts, as configured",
        programs=("gpt2_moe", "llama_moe"),
        before=_config(num_experts_per_tok=1),
        edits=(Edit("model.py", "        gates = gates / gates.sum(-1, keepdim=True)\n", ""),),
    ),
    Clean(
        name="faster-balance",
        what="the experts' bias moves five times as fast",
        programs=("mla_moe",),
        before=_config(bias_update_speed=0.005),
    ),
    Clean(
        name="zero-init-outputs",
        what="what is added to the residual stream starts at zero",
        programs=ALL,
        edits=(
            Edit(
                "model.py",
                "        if config.tie_word_embeddings:\n",
                "        for block in self.blocks:\n"
                "            nn.init.zeros_(block.attention.o_proj.weight)\n"
                "        if config.tie_word_embeddings:\n",
            ),
        ),
    ),
    Clean(
        name="frozen-on-purpose",
        what="the final norm's scale is fixed at one: a buffer, not a parameter",
        programs=ROTARY,
        replan=True,
        edits=(
            Edit(
                "model.py",
                "        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)\n",
                "        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)\n"
                "        del self.norm.weight\n"
                '        self.norm.register_buffer("weight", torch.ones(config.hidden_size))\n',
            ),
        ),
    ),
    Clean(
        name="fused-attention",
        what="PyTorch's attention kernel instead of the written-out one",
        programs=("llama", "llama_moe", "mla", "mla_moe"),
        edits=(
            Edit("model.py", "        scores = q @ k.transpose(-1, -2) * self.scale\n", ""),
            Edit(
                "model.py",
                "        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)\n",
                "",
            ),
            Edit("model.py", "        weights = scores.masked_fill(future, -torch.inf).softmax(-1)\n", ""),
            Edit("model.py", "        length = x.shape[1]\n", ""),
            Edit(
                "model.py",
                "        y = weights @ v\n",
                "        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)\n",
            ),
        ),
    ),
    Clean(
        name="softcapped-logits",
        what="logits are bounded by a tanh",
        programs=("gpt2", "llama", "mla_moe"),
        edits=(
            Edit(
                "model.py",
                "        return self.lm_head(x)\n",
                "        return 30 * torch.tanh(self.lm_head(x) / 30)\n",
            ),
        ),
    ),
)

_CODE = (
    Clean(
        name="interrupted",
        what="stopped by SIGTERM at a checkpoint, started again",
        programs=ALL,
        interrupt=True,
    ),
    Clean(name="benign-warnings", what="two harmless warnings on stderr", programs=ALL, stderr=_BENIGN),
    Clean(
        name="duplicates",
        what="a tenth of the training documents are there twice",
        programs=ALL,
        before=_with_duplicates,
    ),
    Clean(name="two-epochs", what="little text, read about twice", programs=FOUR, before=_fewer_tokens),
    Clean(
        name="extra-logging",
        what="train.py also prints and logs the scheduled rate",
        programs=FOUR,
        edits=(
            Edit(
                "train.py",
                "            self.state.skipped_in_a_row = 0\n            self.state.step = step\n",
                "            self.state.skipped_in_a_row = 0\n            self.state.step = step\n"
                '            print(f"rate {learning_rate:.2e}", flush=True)\n',
            ),
        ),
    ),
    Clean(
        name="renamed",
        what="names and comments of train.py are changed",
        programs=FOUR,
        edits=(
            Edit(
                "train.py",
                "micro_batches = torch.split(windows.to(self._accelerator.device), micro_batch)",
                "parts = torch.split(windows.to(self._accelerator.device), micro_batch)  # the passes of this step",
            ),
            Edit("train.py", "for micro in micro_batches:", "for micro in parts:"),
            Edit("train.py", "len(micro_batches)", "len(parts)"),
        ),
    ),
    Clean(
        name="plain-adamw",
        what="the optimizer's loop over tensors instead of its fused kernel",
        programs=FOUR,
        edits=(Edit("train.py", "eps=1e-8, fused=True", "eps=1e-8, foreach=False"),),
    ),
    Clean(
        name="own-clip",
        what="the norm is clipped by PyTorch's function",
        programs=("gpt2", "llama"),
        edits=(
            Edit(
                "train.py",
                "self._accelerator.clip_grad_norm_(self.model.parameters(), self._grad_clip)",
                "torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip)",
            ),
        ),
    ),
    Clean(
        name="other-order",
        what="another permutation of the windows",
        programs=FOUR,
        edits=(
            Edit(
                "train.py",
                "np.random.PCG64([self._seed, epoch])",
                "np.random.Philox(self._seed * 1000 + epoch)",
            ),
        ),
    ),
)

CLEAN: tuple[Clean, ...] = (*_SEED_RUNS, *_SETTINGS, *_MODELS, *_CODE)
