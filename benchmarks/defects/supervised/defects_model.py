"""Defects in model.py: outputs, scales, starts, what mixes rows, what blocks the gradient."""

from __future__ import annotations

from benchmarks.defects.case import Defect, Edit, Family, Harm
from benchmarks.defects.supervised import claims
from benchmarks.defects.supervised.names import (
    DEEP_CHECKER,
    DEEP_CRIME,
    DEFAULT,
    IMAGES,
    TABLES,
    TAXONOMY,
    TRAINCHECK,
    UMLAUT,
)

_HEAD = {
    "digits_mixer": "return self.head(self.norm(x).mean(1))",
    "wine_mlp": "return self.head(x)",
    "digits_cnn": "return self.head(x)",
    "text_encoder": "return self.head(pooled)",
    "cancer_mlp": "return self.head(self.dropout(x))",
}
"""The last line of each classifier."""
_SCALING = {
    **dict.fromkeys(("digits_mixer", "wine_mlp", "digits_cnn", "cancer_mlp", "diabetes_mlp"), "x"),
    "cells_mlp": "scaled",
}
_HEAD_LAYER = {
    "digits_mixer": "        self.head = nn.Linear(config.hidden_size, config.num_classes)\n",
    "wine_mlp": "        self.head = nn.Linear(config.hidden_size, config.num_classes)\n",
    "digits_cnn": "        self.head = nn.Linear(config.channels[-1] * side * side, config.num_classes)\n",
    "text_encoder": "        self.head = nn.Linear(config.hidden_size, config.num_classes)\n",
    "cancer_mlp": "        self.head = nn.Linear(config.hidden_size, config.num_classes)\n",
    "cells_mlp": "        self.head = nn.Linear(config.hidden_size, 1)\n",
    "diabetes_mlp": "        self.head = nn.Linear(config.hidden_size, 1)\n",
}


def _model(old: str, new: str, times: int = 1) -> tuple[Edit, ...]:
    return (Edit("model.py", old, new, times),)


def _around_logits(template: str, programs: tuple[str, ...]) -> dict[str, tuple[Edit, ...]]:
    """Puts the logits of some programs into an expression; ``{}`` is where they go."""
    lines = {name: _HEAD[name].removeprefix("return ") for name in programs}
    return {name: _model(f"return {line}", f"return {template.format(line)}") for name, line in lines.items()}


def _scaled(template: str, programs: tuple[str, ...]) -> dict[str, tuple[Edit, ...]]:
    """Replaces the line that scales the inputs; ``{}`` is the name of the scaled ones."""
    return {
        name: _model(
            f"{_SCALING[name]} = (inputs - self.input_mean) / self.input_std",
            template.format(_SCALING[name]),
        )
        for name in programs
    }


def _at_the_end_of_init(code: str, programs: tuple[str, ...]) -> dict[str, tuple[Edit, ...]]:
    """Adds lines after the last layer is made."""
    return {name: _model(_HEAD_LAYER[name], _HEAD_LAYER[name] + code) for name in programs}


def _not_saved(shape: str) -> tuple[Edit, ...]:
    """Makes the two buffers of the scaling no part of the state."""
    return tuple(
        Edit("model.py", f"torch.{start}({shape}))", f"torch.{start}({shape}), persistent=False)")
        for start in ("zeros", "ones")
    )


_MIXER_BLOCK = "MixerBlock(num_patches, config.hidden_size, config.dropout)"
_TEXT_BLOCK = "Block(config.hidden_size, config.num_heads, config.dropout)"

DEFECTS = (
    Defect(
        name="logits-through-softmax",
        family=Family.MODEL,
        what="the model returns probabilities where the loss expects logits",
        source=f"{DEEP_CHECKER} (redundant softmax); {UMLAUT}",
        programs=("wine_mlp", "digits_mixer", "digits_cnn", "text_encoder"),
        edits=_around_logits("{}.softmax(-1)", ("wine_mlp", "digits_mixer", "digits_cnn", "text_encoder")),
        component=("head*", "forward*", "output*"),
    ),
    Defect(
        name="logits-through-relu",
        family=Family.MODEL,
        what="a ReLU after the last layer: no logit can fall below zero",
        source=f"{UMLAUT} (wrong final activation); {DEFAULT}",
        programs=("cancer_mlp", "digits_cnn", "wine_mlp"),
        edits=_around_logits("functional.relu({})", ("cancer_mlp", "digits_cnn", "wine_mlp")),
        component=("head*", "forward*", "output*", "ReLU*"),
    ),
    Defect(
        name="logits-a-hundredfold",
        family=Family.MODEL,
        what="logits are multiplied by 100, so the untrained model is sure of wrong answers",
        source=f"{DEEP_CHECKER} (over-scaled outputs)",
        programs=("digits_mixer", "text_encoder", "cancer_mlp"),
        edits=_around_logits("100 * {}", ("digits_mixer", "text_encoder", "cancer_mlp")),
        component=("head*", "forward*", "output*"),
    ),
    Defect(
        name="values-through-sigmoid",
        family=Family.MODEL,
        what="a regression output is squashed into (0, 1): nothing below the mean can be said",
        source=f"{UMLAUT} (wrong final activation); {TAXONOMY}",
        programs=("cells_mlp", "diabetes_mlp"),
        edits=_model(
            "return values * self.target_std + self.target_mean",
            "return values.sigmoid() * self.target_std + self.target_mean",
        ),
        component=("head*", "forward*", "output*"),
    ),
    Defect(
        name="values-left-scaled",
        family=Family.MODEL,
        what="outputs stay in units of the scaled target",
        source=f"{TAXONOMY} (missing postprocessing)",
        programs=("cells_mlp", "diabetes_mlp"),
        edits=_model("return values * self.target_std + self.target_mean", "return values"),
        component=("head*", "forward*", "output*", "set_scaling", "target_*"),
    ),
    Defect(
        name="inputs-unscaled",
        family=Family.MODEL,
        what="features go into the network in their own units, from 0.1 to 1,000",
        source=f"{DEEP_CHECKER} (missing normalisation); {UMLAUT}",
        programs=TABLES,
        edits=_scaled("{} = inputs", TABLES),
        component=("forward*", "set_scaling", "input*"),
        also=(Family.DATA,),
    ),
    Defect(
        name="inputs-scaled-twice",
        family=Family.MODEL,
        what="scaled features are scaled again",
        source=f"{DEEP_CHECKER} (double normalisation)",
        programs=TABLES,
        edits=_scaled(
            "{0} = (inputs - self.input_mean) / self.input_std\n"
            "        {0} = ({0} - self.input_mean) / self.input_std",
            TABLES,
        ),
        component=("forward*", "set_scaling", "input*"),
    ),
    Defect(
        name="mean-and-deviation-swapped",
        family=Family.MODEL,
        what="set_scaling takes the mean for the deviation and the other way round",
        source=f"{TAXONOMY} (wrong preprocessing)",
        programs=("wine_mlp", "diabetes_mlp", "cells_mlp"),
        edits=(
            Edit("model.py", "self.input_mean.copy_(input_mean)", "self.input_mean.copy_(input_std)"),
            Edit("model.py", "self.input_std.copy_(input_std)", "self.input_std.copy_(input_mean)"),
        ),
        component=("set_scaling", "input*"),
    ),
    Defect(
        name="inputs-logged",
        family=Family.MODEL,
        what="the logarithm of scaled features: NaN for every value below the mean",
        source=f"{TAXONOMY} (wrong preprocessing); numerical errors of DeepFD",
        programs=("wine_mlp", "diabetes_mlp"),
        edits=_scaled(
            "{} = ((inputs - self.input_mean) / self.input_std).log()", ("wine_mlp", "diabetes_mlp")
        ),
        component=("forward*", "input*"),
    ),
    Defect(
        name="columns-dropped",
        family=Family.MODEL,
        what="a slice keeps the first three columns",
        source=f"{TAXONOMY} (wrong selection of features)",
        programs=TABLES,
        edits={
            name: _model(
                f"{new} = (inputs - self.input_mean) / self.input_std",
                f"{new} = (inputs - self.input_mean) / self.input_std\n"
                f"        {new} = functional.pad({new}[:, :3], (0, {new}.shape[1] - 3))",
            )
            for name, new in _SCALING.items()
            if name in TABLES
        },
        component=("forward*", "input*"),
    ),
    Defect(
        name="weights-all-zero",
        family=Family.MODEL,
        what="every weight starts at zero",
        source=f"{DEEP_CHECKER} (init); {DEEP_CRIME} (WCI)",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp", "text_encoder"),
        edits=_at_the_end_of_init(
            "        for parameter in self.parameters():\n            nn.init.zeros_(parameter)\n",
            ("wine_mlp", "digits_cnn", "diabetes_mlp", "text_encoder"),
        )
        | {
            "text_encoder": _model(
                "        nn.init.normal_(self.positions.weight, std=0.1)\n",
                "        for parameter in self.parameters():\n            nn.init.zeros_(parameter)\n",
            )
        },
        component=("*.weight", "*.bias"),
    ),
    Defect(
        name="weights-all-equal",
        family=Family.MODEL,
        what="every matrix is filled with one constant, so its units never part",
        source=f"{DEEP_CHECKER} (init); {DEEP_CRIME} (WCI)",
        programs=("wine_mlp", "cells_mlp", "digits_mixer"),
        edits=_at_the_end_of_init(
            "        for parameter in self.parameters():\n"
            "            if parameter.dim() > 1:\n"
            "                nn.init.constant_(parameter, 0.05)\n",
            ("wine_mlp", "cells_mlp", "digits_mixer"),
        ),
        component=("*.weight"),
    ),
    Defect(
        name="weights-too-wide",
        family=Family.MODEL,
        what="weights start twenty times too large",
        source=f"{DEEP_CHECKER} (init); {DEFAULT}",
        programs=("wine_mlp", "digits_mixer", "diabetes_mlp", "cancer_mlp"),
        edits=_at_the_end_of_init(
            "        with torch.no_grad():\n"
            "            for parameter in self.parameters():\n"
            "                parameter.mul_(20)\n",
            ("wine_mlp", "digits_mixer", "diabetes_mlp", "cancer_mlp"),
        ),
        component=("*.weight", "*.bias", "head*"),
    ),
    Defect(
        name="dead-units",
        family=Family.MODEL,
        what="a bias far below zero: no ReLU of the first layer ever fires",
        source=f"{DEEP_CHECKER} (dead ReLU); {UMLAUT}",
        programs=("wine_mlp", "cancer_mlp"),
        edits={
            "wine_mlp": _model(
                _HEAD_LAYER["wine_mlp"],
                _HEAD_LAYER["wine_mlp"] + "        nn.init.constant_(self.first.bias, -20.0)\n",
            ),
            "cancer_mlp": _model(
                _HEAD_LAYER["cancer_mlp"],
                _HEAD_LAYER["cancer_mlp"] + "        nn.init.constant_(self.norm.bias, -20.0)\n",
            ),
        },
        component=("ReLU*", "first*", "norm*", "hidden*"),
    ),
    Defect(
        name="dropout-nearly-everything",
        family=Family.MODEL,
        what="dropout keeps one unit in fifty",
        source=f"{DEEP_CHECKER} (over-regularisation); {DEEP_CRIME} (RDP)",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp"),
        edits=_model("nn.Dropout(config.dropout)", "nn.Dropout(0.98)"),
        component=("dropout*"),
    ),
    Defect(
        name="dropout-never-off",
        family=Family.MODEL,
        what="functional dropout without its training flag drops units in evaluation too",
        source=f"huggingface/transformers 33844, in {TRAINCHECK}",
        traincheck="transformers-33844",
        programs=("wine_mlp", "digits_cnn", "cells_mlp"),
        edits={
            "wine_mlp": _model(
                "x = self.dropout(functional.relu(self.second(x)))",
                "x = functional.dropout(functional.relu(self.second(x)), 0.5)",
            ),
            "digits_cnn": _model(
                "x = self.dropout(x.flatten(1))", "x = functional.dropout(x.flatten(1), 0.5)"
            ),
            "cells_mlp": _model(
                "x = self.dropout(functional.silu(self.second(x)))",
                "x = functional.dropout(functional.silu(self.second(x)), 0.5)",
            ),
        },
        component=("dropout*", "forward*"),
    ),
    Defect(
        name="statistics-of-the-batch",
        family=Family.MODEL,
        what="features are scaled with mean and deviation of the batch they come in",
        source=f"{DEEP_CHECKER} (wrong normalisation); row mixing of Karpathy's recipe (2019)",
        programs=TABLES,
        edits=_scaled("{} = (inputs - inputs.mean(0)) / (inputs.std(0, correction=0) + 1e-6)", TABLES),
        component=("forward*", "input*"),
        claim=claims.best_evaluation,
    ),
    Defect(
        name="batch-norm-without-memory",
        family=Family.MODEL,
        what="batch norm keeps no running statistics: in use a row is scaled by its neighbours",
        source=f"{TAXONOMY} (batch norm in evaluation)",
        programs=("digits_cnn", "cancer_mlp"),
        edits={
            "digits_cnn": _model("Norm2d(channels_out)", "Norm2d(channels_out, track_running_stats=False)"),
            "cancer_mlp": _model(
                "Norm1d(config.hidden_size)", "Norm1d(config.hidden_size, track_running_stats=False)"
            ),
        },
        component=("blocks.*norm*", "norm*"),
        harm=Harm.CLAIM,
        claim=claims.best_evaluation,
    ),
    Defect(
        name="batch-norm-never-learns",
        family=Family.MODEL,
        what="a momentum of zero: evaluation uses the statistics of the start",
        source=f"{TAXONOMY} (batch norm in evaluation)",
        programs=("digits_cnn", "cancer_mlp"),
        edits={
            "digits_cnn": _model(
                "nn.BatchNorm2d(channels_out)", "nn.BatchNorm2d(channels_out, momentum=0.0)"
            ),
            "cancer_mlp": _model(
                "nn.BatchNorm1d(config.hidden_size)", "nn.BatchNorm1d(config.hidden_size, momentum=0.0)"
            ),
        },
        component=("blocks.*norm*", "norm*"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="rows-mixed-by-a-reshape",
        family=Family.MODEL,
        what="a reshape in the wrong order gives each row features of its neighbours",
        source="A Recipe for Training Neural Networks, Karpathy 2019 (view instead of transpose)",
        programs=IMAGES,
        edits={
            "digits_cnn": _model(
                "x = self.dropout(x.flatten(1))",
                "x = self.dropout(x.permute(1, 2, 3, 0).reshape(len(inputs), -1))",
            ),
            "digits_mixer": _model(
                "x = self.patches(x).flatten(2).transpose(1, 2)",
                "x = self.patches(x).flatten(2).permute(1, 2, 0).reshape(len(inputs), -1, 32)",
            ),
        },
        component=("forward*", "patches*"),
    ),
    Defect(
        name="pixels-shuffled-in-forward",
        family=Family.MODEL,
        what="the forward pass permutes the rows of the image at random, in evaluation too",
        source=f"{DEEP_CHECKER} (augmentation)",
        programs=IMAGES,
        edits=_model(
            "x = (inputs - self.input_mean) / self.input_std",
            "x = (inputs - self.input_mean) / self.input_std\n"
            "        x = x[:, :, torch.randperm(x.shape[2])]",
        ),
        component=("forward*"),
    ),
    Defect(
        name="gradient-cut",
        family=Family.MODEL,
        what="detach() between the blocks and the head",
        source=f"{TAXONOMY} (missing gradient); PyTorch forum, detached computation graph",
        programs=("digits_mixer", "digits_cnn", "text_encoder"),
        edits={
            "digits_mixer": _model("            x = block(x)\n", "            x = block(x).detach()\n"),
            "digits_cnn": _model("            x = block(x)\n", "            x = block(x).detach()\n"),
            "text_encoder": _model(
                "            x = block(x, is_token)\n", "            x = block(x, is_token).detach()\n"
            ),
        },
        component=("blocks*", "patches*", "embed*", "positions*"),
    ),
    Defect(
        name="layers-frozen-by-mistake",
        family=Family.MODEL,
        what="gradients are switched off for all but the head, and nothing says so",
        source=f"{TRAINCHECK} (freezing); PyTorch forum 84911",
        programs=("digits_cnn", "text_encoder", "cells_mlp"),
        edits={
            "digits_cnn": _model(
                _HEAD_LAYER["digits_cnn"],
                "        self.blocks.requires_grad_(False)\n" + _HEAD_LAYER["digits_cnn"],
            ),
            "text_encoder": _model(
                _HEAD_LAYER["text_encoder"],
                "        self.requires_grad_(False)\n" + _HEAD_LAYER["text_encoder"],
            ),
            "cells_mlp": _model(
                _HEAD_LAYER["cells_mlp"],
                "        self.requires_grad_(False)\n" + _HEAD_LAYER["cells_mlp"],
            ),
        },
        component=("blocks*", "embed*", "positions*", "first*", "second*", "linear*", "norm*"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="blocks-all-one",
        family=Family.MODEL,
        what="a list of one block repeated: all blocks share their weights",
        source="Python's list multiplication; layer shared twice",
        programs=("digits_mixer", "text_encoder"),
        edits={
            name: _model(f"{block} for _ in range(config.num_blocks)", f"[{block}] * config.num_blocks")
            for name, block in (("digits_mixer", _MIXER_BLOCK), ("text_encoder", _TEXT_BLOCK))
        },
        component=("blocks*"),
    ),
    Defect(
        name="padding-attended",
        family=Family.MODEL,
        what="attention has no mask, so every token looks at the padding",
        source="huggingface/transformers, attention_mask forgotten; padding in defects of language models",
        programs=("text_encoder",),
        edits=_model('        scores = scores.masked_fill(~is_token[:, None, None, :], float("-inf"))\n', ""),
        component=("blocks*attention*"),
        harm=Harm.CLAIM,
        claim=claims.padding_is_none,
    ),
    Defect(
        name="padding-averaged",
        family=Family.MODEL,
        what="the mean over all positions counts the padding",
        source="sentence pooling without a mask (UKPLab/sentence-transformers)",
        programs=("text_encoder",),
        edits=_model("weights = is_token.to(x.dtype)[..., None]", "weights = torch.ones_like(x[..., :1])"),
        component=("forward*", "norm*", "head*"),
        harm=Harm.CLAIM,
        claim=claims.padding_is_none,
    ),
    Defect(
        name="last-position-pooled",
        family=Family.MODEL,
        what="the vector at the last position is taken for the text, which is padding for short ones",
        source="sequence classification on the last token with right padding (transformers)",
        programs=("text_encoder",),
        edits=_model(
            "pooled = (self.norm(x) * weights).sum(1) / weights.sum(1)", "pooled = self.norm(x)[:, -1]"
        ),
        component=("forward*", "norm*", "head*"),
        harm=Harm.CLAIM,
        claim=claims.padding_is_none,
    ),
    Defect(
        name="attention-over-the-batch",
        family=Family.MODEL,
        what="softmax over the rows of the batch instead of the keys",
        source=f"{DEEP_CHECKER} (wrong softmax)",
        programs=("text_encoder",),
        edits=(
            Edit("model.py", 'float("-inf")', "-1e4"),
            Edit("model.py", "scores.softmax(-1)", "scores.softmax(0)"),
        ),
        component=("blocks*attention*"),
    ),
    Defect(
        name="scaling-not-saved",
        family=Family.ARTIFACT,
        what="mean and deviation are no part of the state: a loaded model works on unscaled features",
        source="scaler kept outside the model (scikit-learn to PyTorch, serving skew)",
        programs=("wine_mlp", "cancer_mlp", "digits_cnn"),
        edits={
            "wine_mlp": _not_saved("config.num_features"),
            "cancer_mlp": _not_saved("config.num_features"),
            "digits_cnn": _not_saved("1, 1, 1"),
        },
        component=("input_*", "set_scaling"),
        also=(Family.MODEL,),
    ),
    Defect(
        name="hidden-activation-missing",
        family=Family.MODEL,
        what="no non-linearity between the layers: the network is a linear model",
        source=f"{DEEP_CRIME} (ARM); {TAXONOMY} (missing activation)",
        programs=("digits_mixer", "digits_cnn", "cells_mlp"),
        edits={
            "digits_mixer": _model("functional.gelu(self.up(x))", "self.up(x)"),
            "digits_cnn": _model(
                "return functional.relu(self.norm(self.conv(x)))", "return self.norm(self.conv(x))"
            ),
            "cells_mlp": (
                Edit("model.py", "functional.silu(self.first(scaled))", "self.first(scaled)"),
                Edit("model.py", "functional.silu(self.second(x))", "self.second(x)"),
            ),
        },
        component=("blocks*", "forward*"),
    ),
    Defect(
        name="batch-norm-removed",
        family=Family.MODEL,
        what="no normalisation between the layers",
        source=f"{DEEP_CHECKER} (missing batch norm)",
        programs=("digits_cnn", "cancer_mlp"),
        edits={
            "digits_cnn": _model("self.norm(self.conv(x))", "self.conv(x)"),
            "cancer_mlp": _model("self.norm(self.hidden(x))", "self.hidden(x)"),
        },
        component=("norm*", "blocks*norm*"),
    ),
    Defect(
        name="log-softmax-before-the-loss",
        family=Family.MODEL,
        what="log-probabilities where the loss expects logits; the same up to rounding",
        source=f"{DEEP_CHECKER} (redundant softmax)",
        programs=("wine_mlp",),
        edits=_around_logits("{}.log_softmax(-1)", ("wine_mlp",)),
        component=("head*", "forward*", "output*"),
    ),
    Defect(
        name="order-of-tokens-lost",
        family=Family.MODEL,
        what="the encoder does not know the order of its tokens",
        source="missing positions, defects of language models",
        programs=("text_encoder",),
        edits=_model(
            "self.dropout(self.embed(inputs) + self.positions(positions))", "self.dropout(self.embed(inputs))"
        ),
        component=("positions*"),
    ),
    Defect(
        name="second-layer-not-called",
        family=Family.MODEL,
        what="a layer is built and never used",
        source=f"{DEEP_CRIME} (layer removed); {TAXONOMY} (missing layer)",
        programs=("wine_mlp", "cells_mlp"),
        edits={
            "wine_mlp": _model("functional.relu(self.second(x))", "x"),
            "cells_mlp": _model("functional.silu(self.second(x))", "x"),
        },
        component=("second*"),
    ),
    Defect(
        name="tensors-in-half",
        family=Family.MODEL,
        what="activations pass through eight bits of mantissa less",
        source="fp16 underflow, defects of language models",
        programs=("digits_mixer",),
        edits=_model("            x = block(x)\n", "            x = block(x).half().float()\n"),
        component=("blocks*", "forward*"),
    ),
)
