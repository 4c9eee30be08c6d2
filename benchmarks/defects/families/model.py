"""Defects of the architecture: masks, positions, norms, initialisation, ties, layers, experts, precision."""

from __future__ import annotations

from benchmarks.defects.case import Defect, Edit, Family
from benchmarks.defects.families import claims
from benchmarks.defects.families.places import (
    ALL,
    GPT,
    LATENT,
    LLAMA,
    MIXTURES,
    ROTARY,
    by_architecture,
    by_program,
)

_MODEL = Family.MODEL
_MASK = "device=x.device).triu(1)"
_LAST_BLOCK = "        for block in self.blocks:\n            x = block(x)\n"
_ATTENTION = ("blocks.*.attention", "blocks.*.attention.*", "Attention*")
_EXPERTS = ("blocks.*.mlp", "blocks.*.mlp.*", "MoE*")
_BLOCKS = ("blocks", "blocks.*", "Block*")
_OUTPUT = ("lm_head", "lm_head.*", "GPT.forward", "Llama.forward", "Latent.forward")
_ANY_WEIGHT = ("*.weight", "blocks*", "embed_*", "lm_head*", "norm", "*._init_weights")
_ADD_ATTENTION = dict.fromkeys(
    GPT, "x = x + self.dropout(self.attention(self.attention_norm(x)))"
) | dict.fromkeys(ROTARY, "x = x + self.attention(self.attention_norm(x))")
_ADD_MLP = dict.fromkeys(GPT, "return x + self.dropout(self.mlp(self.mlp_norm(x)))") | dict.fromkeys(
    ROTARY, "return x + self.mlp(self.mlp_norm(x))"
)


def _in_model(old: str, new: str, *, times: int = 1) -> tuple[Edit, ...]:
    return (Edit("model.py", old, new, times),)


def _each(texts: dict[str, str], new: str) -> dict[str, tuple[Edit, ...]]:
    """One edit per program; OLD in ``new`` stands for the text that is replaced."""
    return {name: _in_model(old, new.replace("OLD", old)) for name, old in texts.items()}


_MASKS = (
    Defect(
        name="mask-missing",
        family=_MODEL,
        what="attention sees the whole window",
        source="keras-team/keras #23038 and facebookresearch/xformers #103 (causal mask silently dropped)",
        programs=ALL,
        edits=_in_model(_MASK, "device=x.device).triu(length)"),
        component=_ATTENTION,
    ),
    Defect(
        name="mask-off-by-one",
        family=_MODEL,
        what="every position sees the one after it",
        source="huggingface/transformers #31673 (label leakage through a shifted mask)",
        programs=ALL,
        edits=_in_model(_MASK, "device=x.device).triu(2)"),
        component=_ATTENTION,
    ),
    Defect(
        name="mask-missing-in-last-layer",
        family=_MODEL,
        what="only the last layer's attention lacks its mask",
        source="huggingface/transformers #31673 (leakage in one kind of layer only)",
        programs=("gpt2", "llama", "mla_moe", "llama_moe"),
        edits=(
            Edit("model.py", _MASK, "device=x.device).triu(length if self.sees_all else 1)"),
            Edit("model.py", "        self.scale = ", "        self.sees_all = False\n        self.scale = "),
            Edit(
                "model.py",
                "        self.apply(self._init_weights)\n",
                "        self.blocks[-1].attention.sees_all = True\n        self.apply(self._init_weights)\n",
            ),
        ),
        component=("blocks.1.attention", "blocks.1.attention.*", "blocks.1"),
    ),
    Defect(
        name="mask-inverted",
        family=_MODEL,
        what="the mask hides the past instead of the future",
        source="keras-team/keras #21284 (use_causal_mask broken); arXiv 1706.03762, section 3.2.3",
        programs=("gpt2_moe", "llama", "mla"),
        edits=_in_model(_MASK, "device=x.device).tril(-1)"),
        component=_ATTENTION,
    ),
    Defect(
        name="mask-after-softmax",
        family=_MODEL,
        what="future weights are zeroed after the softmax, whose sum has seen them",
        source="karpathy/minGPT #75 (a mask that the scores get around); karpathy/nanoGPT #331",
        programs=ALL,
        edits=_in_model(
            "scores.masked_fill(future, -torch.inf).softmax(-1)",
            "scores.softmax(-1).masked_fill(future, 0.0)",
        ),
        component=_ATTENTION,
    ),
    Defect(
        name="mask-leak-in-convolution",
        family=_MODEL,
        what="a short convolution before the blocks is padded on both sides",
        source="arXiv 1609.03499, section 2.1 (convolutions must be padded on one side only)",
        programs=("gpt2", "llama", "mla_moe"),
        edits=(
            Edit(
                "model.py",
                "        self.apply(self._init_weights)\n",
                "        self.convolution = nn.Conv1d(\n"
                "            config.hidden_size, config.hidden_size, 3, padding=1, groups=config.hidden_size\n"
                "        )\n        self.apply(self._init_weights)\n",
            ),
            Edit(
                "model.py",
                _LAST_BLOCK,
                "        x = x + self.convolution(x.transpose(1, 2)).transpose(1, 2)\n" + _LAST_BLOCK,
            ),
        ),
        component=("convolution", "convolution.*"),
    ),
    Defect(
        name="mask-leak-through-latent",
        family=_MODEL,
        what="the compressed keys and values are centred over the whole window",
        source="arXiv 2405.04434, section 2.1 (the compressed latent is per token)",
        programs=LATENT,
        edits=_in_model(
            "latent = self.kv_a_norm(latent)",
            "latent = self.kv_a_norm(latent - latent.mean(1, keepdim=True))",
        ),
        component=(*_ATTENTION, "blocks.*.attention.kv_a_norm"),
    ),
    Defect(
        name="batch-statistics",
        family=_MODEL,
        what="activations are normalised over batch and time before the head",
        source="arXiv 2003.07845 (batch statistics in transformers)",
        programs=("gpt2_moe", "llama", "mla"),
        edits=_in_model(
            "        x = self.norm(x)\n",
            "        x = self.norm(x)\n        x = (x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-5)\n",
        ),
        component=("norm", *_OUTPUT),
    ),
    Defect(
        name="router-balances-over-time",
        family=_MODEL,
        what="expert choice: every expert takes its best tokens of the whole batch, future ones too",
        source="arXiv 2202.09368 (expert choice looks at the future in autoregressive use)",
        programs=("gpt2_moe", "llama_moe"),
        edits=_in_model(
            "        gates, chosen = probabilities.topk(self.top_k, dim=-1)  # (N, K)\n",
            "        share = probabilities / probabilities.sum(0, keepdim=True)\n"
            "        best = share.topk(max(1, len(tokens) // 2), dim=0).indices\n"
            "        taken = torch.zeros_like(share, dtype=torch.bool).scatter(0, best, value=True)\n"
            "        probabilities = probabilities * taken + 1e-9\n"
            "        gates, chosen = probabilities.topk(self.top_k, dim=-1)  # (N, K)\n",
        ),
        component=_EXPERTS,
    ),
    Defect(
        name="router-bias-within-forward",
        family=_MODEL,
        what="the balancing bias follows the load of the batch at hand before it chooses",
        source="arXiv 2408.15664 (balancing that sees the sequence leaks future tokens)",
        programs=("mla_moe",),
        edits=_in_model(
            "        chosen = (affinity + self.bias).topk(self.top_k, dim=-1).indices  # (N, K)\n",
            "        chosen = (affinity - affinity.mean(0)).topk(self.top_k, dim=-1).indices  # (N, K)\n",
        ),
        component=_EXPERTS,
    ),
)

_POSITIONS = (
    Defect(
        name="positions-missing",
        family=_MODEL,
        what="no positions at all",
        source="NVIDIA/Megatron-LM #453 (position ids ignored); arXiv 1706.03762, section 3.5",
        programs=ALL,
        edits=by_architecture(
            gpt2=_in_model(" + self.embed_positions(positions)", " + 0 * self.embed_positions(positions)"),
            llama=_in_model("        q, k = rotate(q, self.theta), rotate(k, self.theta)\n", ""),
            mla=_in_model(
                "rotate(q_rope, self.theta), rotate(k_rope.unsqueeze(1), self.theta)",
                "q_rope, k_rope.unsqueeze(1)",
            ),
        ),
        component=("embed_positions*", *_ATTENTION, "rotate*"),
    ),
    Defect(
        name="positions-all-zero",
        family=_MODEL,
        what="every token gets the position zero",
        source="NVIDIA/Megatron-LM #453 (RoPE ignores position ids)",
        programs=("gpt2", "llama_moe", "llama", "mla_moe"),
        edits=by_architecture(
            gpt2=_in_model(
                "positions = torch.arange(input_ids.shape[1], device=input_ids.device)",
                "positions = torch.zeros_like(input_ids[0])",
            ),
            llama=_in_model(
                "positions = torch.arange(length, device", "positions = 0 * torch.arange(length, device"
            ),
            mla=_in_model(
                "positions = torch.arange(length, device", "positions = 0 * torch.arange(length, device"
            ),
        ),
        component=("embed_positions*", *_ATTENTION, "rotate*"),
    ),
    Defect(
        name="positions-reset",
        family=_MODEL,
        what="positions start again every eight tokens",
        source="NVIDIA/Megatron-LM #453 (position ids reset)",
        programs=ALL,
        edits=by_architecture(
            gpt2=_in_model("self.embed_positions(positions)", "self.embed_positions(positions % 8)"),
            llama=_in_model("torch.outer(positions, frequencies)", "torch.outer(positions % 8, frequencies)"),
            mla=_in_model("torch.outer(positions, frequencies)", "torch.outer(positions % 8, frequencies)"),
        ),
        component=("embed_positions*", *_ATTENTION, "rotate*"),
    ),
    Defect(
        name="rope-on-queries-only",
        family=_MODEL,
        what="keys are not rotated",
        source="arXiv 2104.09864, equation 16 (queries and keys are both rotated)",
        programs=("llama", "llama_moe", "mla", "mla_moe"),
        edits=by_architecture(
            llama=_in_model("rotate(q, self.theta), rotate(k, self.theta)", "rotate(q, self.theta), k"),
            mla=_in_model("rotate(k_rope.unsqueeze(1), self.theta)", "k_rope.unsqueeze(1)"),
        ),
        component=(*_ATTENTION, "rotate*"),
    ),
    Defect(
        name="rope-wrong-sign",
        family=_MODEL,
        what="the second half is rotated the other way: lengths and relative positions are lost",
        source="raiyanyahya/how-to-train-your-gpt #6 (halves and pairs mixed up); arXiv 2104.09864, equation 34",
        programs=ROTARY,
        edits=_in_model("second * cos + first * sin], -1)", "second * cos - first * sin], -1)"),
        component=(*_ATTENTION, "rotate*"),
    ),
    Defect(
        name="rope-on-values",
        family=_MODEL,
        what="values are rotated where keys should be",
        source="EleutherAI/gpt-neox #782-like mix-ups of rotary arguments; defects.md: RoPE on the wrong half",
        programs=LLAMA,
        edits=_in_model(
            "q, k = rotate(q, self.theta), rotate(k, self.theta)",
            "q, v = rotate(q, self.theta), rotate(v, self.theta)",
        ),
        component=(*_ATTENTION, "rotate*"),
    ),
    Defect(
        name="rope-over-heads",
        family=_MODEL,
        what="the rotation counts heads instead of positions",
        source="mlfoundations/open_lm #4 (rotary applied over heads)",
        programs=LLAMA,
        edits=_in_model(
            "rotate(q, self.theta), rotate(k, self.theta)",
            "rotate(q.transpose(1, 2), self.theta).transpose(1, 2), rotate(k.transpose(1, 2), self.theta).transpose(1, 2)",
        ),
        component=(*_ATTENTION, "rotate*"),
    ),
)

_SCALES = (
    Defect(
        name="final-norm-missing",
        family=_MODEL,
        what="the last norm is built and not called",
        source="TheDeepChecker (missing normalisation), arXiv 2204.00694",
        programs=("gpt2", "gpt2_moe", "llama", "mla"),
        edits=_in_model("        x = self.norm(x)\n        return", "        return"),
        component=("norm", "norm.*"),
    ),
    Defect(
        name="block-norms-missing",
        family=_MODEL,
        what="both branches work on what was not normalised",
        source="TheDeepChecker (missing normalisation), arXiv 2204.00694",
        programs=ALL,
        edits={
            name: _in_model("self.attention(self.attention_norm(x))", "self.attention(x)")
            + _in_model("self.mlp(self.mlp_norm(x))", "self.mlp(x)")
            for name in ALL
        },
        component=("blocks.*_norm", "blocks.*_norm.*", *_BLOCKS),
    ),
    Defect(
        name="normalised-twice",
        family=_MODEL,
        what="the residual stream itself is normalised after every block, beside the norms before",
        source="TheDeepChecker (double normalisation), arXiv 2204.00694",
        programs=("gpt2", "llama", "mla_moe"),
        edits=_in_model(
            "        for block in self.blocks:\n            x = block(x)\n",
            "        for block in self.blocks:\n            x = self.norm(block(self.norm(x)))\n",
        ),
        component=("norm", "norm.*", *_BLOCKS),
    ),
    Defect(
        name="attention-not-scaled",
        family=_MODEL,
        what="scores are not divided by the root of the head's size",
        source="arXiv 1706.03762, section 3.2.1",
        programs=("gpt2", "gpt2_moe", "llama", "mla"),
        edits=by_architecture(
            gpt2=_in_model("k.transpose(-1, -2) * self.scale", "k.transpose(-1, -2)"),
            llama=_in_model("k.transpose(-1, -2) * self.scale", "k.transpose(-1, -2)"),
            mla=_in_model("k.transpose(-1, -2) * self.scale", "k.transpose(-1, -2)"),
        ),
        component=_ATTENTION,
    ),
    Defect(
        name="attention-scaled-up",
        family=_MODEL,
        what="scores are multiplied with the root of the head's size instead of divided",
        source="TheDeepChecker (over-scaled outputs), arXiv 2204.00694",
        programs=("gpt2", "gpt2_moe", "llama", "llama_moe", "mla", "mla_moe"),
        edits=by_architecture(
            gpt2=_in_model("self.head_dim**-0.5", "float(self.head_dim) ** 1.5"),
            llama=_in_model("self.head_dim**-0.5", "float(self.head_dim) ** 1.5"),
            mla=_in_model("(self.nope + self.rope) ** -0.5", "float(self.nope + self.rope) ** 1.5"),
        ),
        component=_ATTENTION,
    ),
    Defect(
        name="init-tenfold",
        family=_MODEL,
        what="weights start ten times too wide",
        source="DeepCrime (change weights initialisation), ISSTA 2021; TheDeepChecker (initialisation)",
        programs=ALL,
        edits=_in_model("std=self.config.initializer_range", "std=10 * self.config.initializer_range"),
        component=_ANY_WEIGHT,
    ),
    Defect(
        name="init-equal",
        family=_MODEL,
        what="all weights of a matrix start equal",
        source="DeepCrime (change weights initialisation), ISSTA 2021",
        programs=ALL,
        edits=_in_model(
            "nn.init.normal_(module.weight, std=self.config.initializer_range)",
            "nn.init.constant_(module.weight, self.config.initializer_range)",
        ),
        component=_ANY_WEIGHT,
    ),
    Defect(
        name="init-repeated",
        family=_MODEL,
        what="every layer is drawn from the same seed",
        source="huggingface/transformers #17877 (repeated initialisation); TrainCheck, OSDI 2025",
        programs=("gpt2", "llama_moe", "llama", "mla_moe"),
        edits=_in_model(
            "            nn.init.normal_(module.weight,",
            "            torch.manual_seed(0)\n            nn.init.normal_(module.weight,",
        ),
        component=_ANY_WEIGHT,
        traincheck="transformers-17877",
    ),
    Defect(
        name="embedding-not-tied",
        family=_MODEL,
        what="the configuration ties head and embedding, the model does not",
        source="QwenLM/Qwen3-VL-Embedding #89 (configuration and head disagree on the tie)",
        programs=("gpt2", "gpt2_moe", "mla", "mla_moe"),
        edits=_in_model("            self.lm_head.weight = self.embed_tokens.weight", "            pass"),
        component=("lm_head*", "embed_tokens*"),
        claim=claims.ties,
    ),
    Defect(
        name="tied-by-copy",
        family=_MODEL,
        what="the head starts as a copy of the embedding and goes its own way",
        source="google/torchax #68 (tied weights become two)",
        programs=("gpt2", "mla_moe"),
        edits=_in_model(
            "self.lm_head.weight = self.embed_tokens.weight",
            "self.lm_head.weight.data.copy_(self.embed_tokens.weight)",
        ),
        component=("lm_head*", "embed_tokens*"),
        claim=claims.ties,
    ),
)

_LAYERS = (
    Defect(
        name="layer-skipped",
        family=_MODEL,
        what="the last layer is built and not called",
        source="DeepCrime (remove layer), ISSTA 2021; TheDeepChecker, arXiv 2204.00694",
        programs=ALL,
        edits=_in_model(
            "        for block in self.blocks:\n            x = block(x)\n",
            "        for block in self.blocks[:-1]:\n            x = block(x)\n",
        ),
        component=("blocks.1", "blocks.1.*"),
    ),
    Defect(
        name="layer-called-twice",
        family=_MODEL,
        what="the first layer is applied twice, the last never",
        source="TheDeepChecker (wrong connections), arXiv 2204.00694",
        programs=("gpt2", "llama_moe", "llama", "mla_moe"),
        edits=_in_model("            x = block(x)\n", "            x = self.blocks[0](x)\n"),
        component=_BLOCKS,
    ),
    Defect(
        name="layers-shared",
        family=_MODEL,
        what="all layers are one module: [Block()] * n",
        source="TheDeepChecker (wrong connections), arXiv 2204.00694; a list multiplied in Python shares its items",
        programs=("gpt2", "gpt2_moe", "llama", "llama_moe"),
        edits=by_architecture(
            gpt2=_in_model(
                "nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))",
                "nn.ModuleList([Block(config)] * config.num_hidden_layers)",
            ),
            llama=_in_model(
                "nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))",
                "nn.ModuleList([Block(config)] * config.num_hidden_layers)",
            ),
        ),
        component=_BLOCKS,
    ),
    Defect(
        name="residual-dropped",
        family=_MODEL,
        what="attention replaces the residual stream instead of being added to it",
        source="TheDeepChecker, arXiv 2204.00694 (missing connection); arXiv 1706.03762, section 3.1",
        programs=ALL,
        edits={name: _in_model(old, old.replace("x = x + ", "x = ")) for name, old in _ADD_ATTENTION.items()},
        component=(*_BLOCKS,),
    ),
    Defect(
        name="residual-added-twice",
        family=_MODEL,
        what="the stream is doubled in every block",
        source="TheDeepChecker (over-scaled outputs), arXiv 2204.00694",
        programs=("gpt2", "llama", "mla_moe"),
        edits={
            name: _in_model(old, old.replace("x = x + ", "x = 4 * x + "))
            for name, old in _ADD_ATTENTION.items()
        },
        component=(*_BLOCKS,),
    ),
    Defect(
        name="feed-forward-detached",
        family=_MODEL,
        what="no gradient reaches what comes before a feed-forward, nor the feed-forward of the last layer",
        source="TheDeepChecker (vanishing gradients), arXiv 2204.00694",
        programs=("gpt2", "gpt2_moe", "llama", "mla"),
        edits={
            name: _in_model(
                old, old.replace("self.mlp(self.mlp_norm(x))", "self.mlp(self.mlp_norm(x)).detach()")
            )
            for name, old in _ADD_MLP.items()
        },
        component=("blocks.*",),
    ),
    Defect(
        name="embedding-frozen",
        family=_MODEL,
        what="the embedding does not learn, and nobody asked for that",
        source="open-mmlab/mmpretrain #702 (frozen and not frozen stages confused)",
        programs=("llama", "llama_moe"),
        edits=_in_model(
            "        self.apply(self._init_weights)\n",
            "        self.apply(self._init_weights)\n        self.embed_tokens.weight.requires_grad_(False)\n",
        ),
        component=("embed_tokens*",),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="activation-missing",
        family=_MODEL,
        what="the feed-forward is linear",
        source="DeepCrime (remove activation), ISSTA 2021; TheDeepChecker (wrong activation)",
        programs=("gpt2", "gpt2_moe", "llama", "mla"),
        edits=by_architecture(
            gpt2=_in_model("functional.gelu(self.up_proj(x))", "self.up_proj(x)"),
            llama=_in_model(
                "functional.silu(self.gate_proj(x)) * self.up_proj(x)", "self.gate_proj(x) + self.up_proj(x)"
            ),
            mla=_in_model(
                "functional.silu(self.gate_proj(x)) * self.up_proj(x)", "self.gate_proj(x) + self.up_proj(x)"
            ),
        ),
        component=("blocks.*.mlp", "blocks.*.mlp.*", "MLP*"),
    ),
    Defect(
        name="softmax-before-the-loss",
        family=_MODEL,
        what="the model returns probabilities, which the loss takes for logits",
        source="UMLAUT (softmax before cross-entropy), CHI 2021; TheDeepChecker (redundant softmax)",
        programs=ALL,
        edits=_in_model("        return self.lm_head(x)\n", "        return self.lm_head(x).softmax(-1)\n"),
        component=_OUTPUT,
    ),
    Defect(
        name="logits-scaled-up",
        family=_MODEL,
        what="logits are multiplied by thirty",
        source="TheDeepChecker (over-scaled outputs), arXiv 2204.00694",
        programs=("gpt2", "llama", "mla_moe"),
        edits=_in_model("        return self.lm_head(x)\n", "        return self.lm_head(x) * 30\n"),
        component=_OUTPUT,
    ),
    Defect(
        name="logits-in-half",
        family=_MODEL,
        what="the head works in fp16 on sums that overflow its precision",
        source="arXiv 1710.03740, section 3.2 (half-precision underflow)",
        programs=("gpt2_moe", "llama", "mla"),
        edits=_in_model(
            "        return self.lm_head(x)\n",
            "        return self.lm_head(x).mul(1e-4).half().float().mul(1e4)\n",
        ),
        component=_OUTPUT,
    ),
    Defect(
        name="dropout-in-evaluation",
        family=_MODEL,
        what="dropout is functional and active in eval mode too",
        source="huggingface/transformers #33844 (dropout active in eval); TrainCheck, OSDI 2025",
        programs=ALL,
        edits=_in_model(
            "        return self.lm_head(x)\n", "        return self.lm_head(functional.dropout(x, 0.1))\n"
        ),
        component=("norm", *_OUTPUT),
        traincheck="transformers-33844",
    ),
    Defect(
        name="batch-collapses",
        family=_MODEL,
        what="every row gets the logits of the first one",
        source="huggingface/transformers #34204 (batch collapses to one); TrainCheck, OSDI 2025",
        programs=("gpt2", "llama_moe", "llama", "mla_moe"),
        edits=_in_model(
            "        x = self.norm(x)\n        return self.lm_head(x)\n",
            "        x = self.norm(x)\n        return self.lm_head(x[:1].expand_as(x))\n",
        ),
        component=("norm", *_OUTPUT),
        traincheck="transformers-34204",
    ),
    Defect(
        name="normalised-weights-uninitialised",
        family=_MODEL,
        what="power iteration of a spectral norm never runs: the head is divided by a random number",
        source="pytorch/pytorch #51800 (spectral norm initialised in eval); TrainCheck, OSDI 2025",
        programs=("llama", "llama_moe"),
        edits=(
            Edit(
                "model.py",
                "        self.apply(self._init_weights)\n",
                "        self.apply(self._init_weights)\n"
                '        self.register_buffer("direction", functional.normalize(torch.ones(config.hidden_size), dim=0))\n',
            ),
            Edit(
                "model.py",
                "        return self.lm_head(x)\n",
                "        gain = (self.lm_head.weight @ self.direction).norm()  # never iterated\n"
                "        return self.lm_head(x) / gain.clamp(min=1e-3) / 8\n",
            ),
        ),
        component=("lm_head*", "direction", *_OUTPUT),
        traincheck="pytorch-51800",
    ),
)

_MIXTURES = (
    Defect(
        name="expert-never-chosen",
        family=_MODEL,
        what="the last expert can never be chosen",
        source="arXiv 2101.03961, section 2.2 (experts without tokens)",
        programs=MIXTURES,
        edits=by_program(
            gpt2_moe=_in_model(
                "gates, chosen = probabilities.topk(", "gates, chosen = probabilities[:, :-1].topk("
            ),
            llama_moe=_in_model(
                "gates, chosen = probabilities.topk(", "gates, chosen = probabilities[:, :-1].topk("
            ),
            mla_moe=_in_model("(affinity + self.bias).topk(", "(affinity + self.bias)[:, :-1].topk("),
        ),
        component=_EXPERTS,
        claim=claims.expert_use,
    ),
    Defect(
        name="experts-one-too-few",
        family=_MODEL,
        what="the loop over experts leaves the last one out: its tokens get nothing",
        source="arXiv 2101.03961, section 2.2 (dropped tokens)",
        programs=MIXTURES,
        edits=_in_model("enumerate(self.experts):", "enumerate(self.experts[:-1]):"),
        component=_EXPERTS,
        claim=claims.experts_configured,
    ),
    Defect(
        name="top-k-wrong",
        family=_MODEL,
        what="one expert per token where the configuration says two",
        source="databricks/megablocks #87 (top-k of one handled differently)",
        programs=MIXTURES,
        edits=_in_model("topk(self.top_k, dim=-1)", "topk(1, dim=-1)"),
        component=_EXPERTS,
        claim=claims.experts_configured,
    ),
    Defect(
        name="gates-not-normalised",
        family=_MODEL,
        what="the chosen gates do not sum to one",
        source="pytorch/torchtitan #1448 (norm_topk_prob lacking)",
        programs=MIXTURES,
        edits=_in_model("        gates = gates / gates.sum(-1, keepdim=True)\n", ""),
        component=_EXPERTS,
    ),
    Defect(
        name="router-detached",
        family=_MODEL,
        what="no gradient reaches the router",
        source="jingyaogong/minimind #858 (the router gets no gradient)",
        programs=MIXTURES,
        edits=by_program(
            gpt2_moe=_in_model(
                "self.router(tokens).float().softmax(-1)", "self.router(tokens).float().softmax(-1).detach()"
            ),
            llama_moe=_in_model(
                "self.router(tokens).float().softmax(-1)", "self.router(tokens).float().softmax(-1).detach()"
            ),
            mla_moe=_in_model(
                "self.router(tokens).float().sigmoid()", "self.router(tokens).float().sigmoid().detach()"
            ),
        ),
        component=_EXPERTS,
    ),
    Defect(
        name="experts-collapse",
        family=_MODEL,
        what="the router prefers the first two experts by a constant",
        source="arXiv 2101.03961 (expert collapse without balancing)",
        programs=MIXTURES,
        edits=by_program(
            gpt2_moe=_in_model(
                "self.router(tokens).float().softmax(-1)",
                "(self.router(tokens).float() + torch.tensor([30.0, 30.0, 0.0, 0.0])).softmax(-1)",
            ),
            llama_moe=_in_model(
                "self.router(tokens).float().softmax(-1)",
                "(self.router(tokens).float() + torch.tensor([30.0, 30.0, 0.0, 0.0])).softmax(-1)",
            ),
            mla_moe=_in_model(
                "(affinity + self.bias).topk(", "(affinity + torch.tensor([9.0, 9.0, 0.0, 0.0])).topk("
            ),
        ),
        component=_EXPERTS,
        claim=claims.expert_use,
    ),
)

DEFECTS: tuple[Defect, ...] = (*_MASKS, *_POSITIONS, *_SCALES, *_LAYERS, *_MIXTURES)
