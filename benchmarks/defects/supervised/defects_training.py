"""Defects in train.py: gradients, optimizer, schedule, loss, modes, random numbers, the order of rows."""

from __future__ import annotations

import numpy as np

from benchmarks.defects.case import Claim, Defect, Edit, Family, Folder, Harm
from benchmarks.defects.supervised import claims
from benchmarks.defects.supervised.data import read_split, replace_split
from benchmarks.defects.supervised.names import (
    DEEP_CHECKER,
    DEEP_CRIME,
    DEFAULT,
    REGRESSORS,
    TAXONOMY,
    TRAINCHECK,
    UMLAUT,
)

_BACKWARD = "            torch.autograd.backward(loss)\n"
_ZERO_GRAD = "        self.optimizer.zero_grad(set_to_none=True)\n"
_UPDATE = "            self.optimizer.step()\n"
_PARAMETERS = "parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]"
_CROSS_ENTROPY = "functional.cross_entropy(outputs.float(), targets, label_smoothing=self._label_smoothing)"
_BATCH = "            loss, grad_norm = self.backward(*self.train_rows.batch(rows))\n"
_WHILE = "            while self.state.step < self.config.steps:\n"
_DONE = '            self.commit("done")\n'
_BODY = ("blocks*", "embed*", "positions*", "first*", "second*", "linear*", "patches*", "norm*")
_ORDER = "    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)\n"


def _train(old: str, new: str) -> tuple[Edit, ...]:
    return (Edit("train.py", old, new),)


def _sort_by_class(folder: Folder) -> None:
    """Training rows in the order in which many files have them: one class after the other."""
    inputs, targets = read_split(folder.data, "train")
    order = np.argsort(targets, kind="stable")
    replace_split(folder.data, "train", inputs[order], targets[order])


def _declare_freezing(folder: Folder) -> None:
    folder.set("config.json", freeze_embeddings=True)


def _steps_done(folder: Folder, sound: object) -> Claim:
    del sound
    last, planned = folder.json("ckpts/last.json"), folder.json("train_config.json")["steps"]
    return Claim(
        stated=f"status {last['status']}",
        measured=f"{last['step']} of {planned} steps",
        is_false=last["status"] == "done" and last["step"] < planned,
    )


DEFECTS = (
    Defect(
        name="gradients-never-cleared",
        family=Family.TRAINING,
        what="zero_grad is missing: every gradient adds to all before it",
        source=f"Stack Overflow 60335387, in {TRAINCHECK}",
        traincheck="SO-60335387",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp", "text_encoder"),
        edits=_train(_ZERO_GRAD, ""),
        component=("zero_grad*",),
    ),
    Defect(
        name="loss-maximised",
        family=Family.TRAINING,
        what="the sign of the loss is flipped before the gradient is taken",
        source=f"{DEEP_CHECKER} (flipped sign)",
        programs=("wine_mlp", "cells_mlp", "digits_mixer"),
        edits=_train(_BACKWARD, "            torch.autograd.backward(-loss)\n"),
        component=("loss*",),
    ),
    Defect(
        name="rate-three-hundredfold",
        family=Family.TRAINING,
        what="the optimizer gets 300 times the rate that is logged",
        source=f"{DEEP_CHECKER} (learning rate too high); {DEEP_CRIME} (HLR); {UMLAUT}",
        programs=("wine_mlp", "cancer_mlp", "digits_mixer", "cells_mlp"),
        edits=_train('group["lr"] = learning_rate\n', 'group["lr"] = 300 * learning_rate\n'),
        component=("optimizer*", "learning_rate*"),
    ),
    Defect(
        name="rate-a-thousandth",
        family=Family.TRAINING,
        what="the optimizer gets a thousandth of the rate that is logged",
        source=f"{DEEP_CHECKER} (learning rate too low); {UMLAUT}",
        programs=("digits_cnn", "text_encoder", "diabetes_mlp"),
        edits=_train('group["lr"] = learning_rate\n', 'group["lr"] = 1e-3 * learning_rate\n'),
        component=("optimizer*", "learning_rate*"),
    ),
    Defect(
        name="planned-rate-absurd",
        family=Family.TRAINING,
        what="train_config.json asks for a learning rate of 5",
        source=f"{DEEP_CRIME} (HLR); {UMLAUT} (learning rate out of range)",
        programs=("wine_mlp", "digits_cnn", "cells_mlp"),
        before=lambda folder: folder.set("train_config.json", learning_rate=5.0, min_learning_rate=5.0),
        component=("train_config.json*", "learning_rate*", "optimizer*"),
    ),
    Defect(
        name="epsilon-too-large",
        family=Family.TRAINING,
        what="Adam's epsilon is 1, so updates vanish with the gradient",
        source=f"{DEEP_CHECKER} (Adam epsilon)",
        programs=("text_encoder", "digits_mixer"),
        edits=_train("eps=1e-8", "eps=1.0"),
        component=("optimizer*",),
    ),
    Defect(
        name="epsilon-too-small",
        family=Family.TRAINING,
        what="Adam's epsilon is 1e-16",
        source=f"{DEEP_CHECKER} (low Adam epsilon)",
        programs=("wine_mlp", "digits_mixer"),
        edits=_train("eps=1e-8", "eps=1e-16"),
        component=("optimizer*",),
    ),
    Defect(
        name="decay-overwhelming",
        family=Family.TRAINING,
        what="a weight decay of 100 pulls every matrix to zero",
        source=f"{DEEP_CHECKER} (over-regularisation); {DEEP_CRIME} (weight regularisation)",
        programs=("wine_mlp", "digits_cnn", "cells_mlp"),
        edits=_train('"weight_decay": config.weight_decay}', '"weight_decay": 100.0}'),
        component=("optimizer*", "weight_decay*"),
    ),
    Defect(
        name="optimizer-without-the-body",
        family=Family.TRAINING,
        what="only the head's parameters are given to the optimizer",
        source=f"{TAXONOMY} (parameters left out of the optimizer); PyTorch forum",
        programs=("digits_mixer", "text_encoder", "cells_mlp"),
        edits=_train(_PARAMETERS, "parameters = list(model.head.parameters())"),
        component=("optimizer*", *_BODY),
    ),
    Defect(
        name="optimizer-of-copies",
        family=Family.TRAINING,
        what="the optimizer holds detached copies, the model never changes",
        source=f"PyTorch forum 84911, in {TRAINCHECK}",
        traincheck="pytorch-forum-84911",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp"),
        edits=_train(
            _PARAMETERS, "parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]"
        ),
        component=("optimizer*", "*.weight", "*.bias"),
    ),
    Defect(
        name="batch-collapses-to-one",
        family=Family.TRAINING,
        what="of every batch only the first row is trained on",
        source=f"huggingface/transformers 34204, in {TRAINCHECK}",
        traincheck="transformers-34204",
        programs=("digits_mixer", "text_encoder", "diabetes_mlp"),
        edits=_train(_BATCH, _BATCH.replace("(rows)", "(rows[:1])")),
        component=("batch*", "rows*"),
        also=(Family.DATA,),
    ),
    Defect(
        name="updates-cease",
        family=Family.TRAINING,
        what="after ten steps the optimizer is no longer called",
        source=f"pytorch/pytorch 115607, in {TRAINCHECK}",
        traincheck="pytorch-115607",
        programs=("digits_cnn", "text_encoder", "diabetes_mlp"),
        edits=_train(_UPDATE, "            if step <= 10:\n                self.optimizer.step()\n"),
        component=("optimizer*",),
    ),
    Defect(
        name="momentum-thrown-away",
        family=Family.TRAINING,
        what="a new optimizer for every step: Adam becomes the sign of the gradient",
        source=f"{DEFAULT} (optimizer); state lost between steps",
        programs=("digits_mixer", "cells_mlp"),
        edits=_train(
            "            self.optimizer.step()\n",
            "            self.optimizer.step()\n"
            "            self.optimizer = new_optimizer(self.model, self.config)\n",
        ),
        component=("optimizer*",),
    ),
    Defect(
        name="weights-drawn-again",
        family=Family.TRAINING,
        what="half-way the parameters are initialised once more",
        source=f"huggingface/transformers 17877, in {TRAINCHECK}",
        traincheck="transformers-17877",
        programs=("wine_mlp", "digits_cnn", "text_encoder"),
        edits=_train(
            "            self.state.step = step\n",
            "            self.state.step = step\n"
            "            if step == self.config.steps * 9 // 10:\n"
            "                for module in self.model.modules():\n"
            '                    if hasattr(module, "reset_parameters"):\n'
            "                        module.reset_parameters()\n",
        ),
        component=("*.weight", "*.bias", "ckpts*", "train.log"),
    ),
    Defect(
        name="schedule-collapses",
        family=Family.TRAINING,
        what="the cosine is forty times too fast: after a few steps the rate is that of the end, near zero",
        source=f"{TAXONOMY} (wrong schedule); {DEFAULT} (learning rate)",
        programs=("digits_cnn", "text_encoder", "diabetes_mlp"),
        edits=_train(
            "    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)\n",
            "    progress = min(1.0, 40 * (step - config.warmup_steps) / config.steps)\n",
        ),
        before=lambda folder: folder.set("train_config.json", min_learning_rate=0.0),
        component=("learning_rate*", "schedule*"),
    ),
    Defect(
        name="loss-without-softmax",
        family=Family.TRAINING,
        what="the negative logit of the class is minimised, which has no lower bound",
        source=f"{DEEP_CHECKER} (missing softmax); {DEEP_CRIME} (LCH)",
        programs=("wine_mlp", "digits_cnn", "cancer_mlp"),
        edits=_train(_CROSS_ENTROPY, "functional.nll_loss(outputs.float(), targets)"),
        component=("loss*",),
    ),
    Defect(
        name="loss-softmax-twice",
        family=Family.TRAINING,
        what="probabilities are given to a loss that expects logits",
        source=f"{DEEP_CHECKER} (redundant softmax); {UMLAUT}",
        programs=("wine_mlp", "digits_mixer", "text_encoder"),
        edits=_train(
            _CROSS_ENTROPY, _CROSS_ENTROPY.replace("outputs.float()", "outputs.float().softmax(-1)")
        ),
        component=("loss*",),
    ),
    Defect(
        name="loss-of-squares-on-classes",
        family=Family.TRAINING,
        what="the squared error to one-hot vectors of logits that are read as such",
        source=f"{DEEP_CHECKER} (wrong loss); {DEEP_CRIME} (LCH); {DEFAULT}",
        programs=("digits_cnn", "text_encoder", "wine_mlp"),
        edits=_train(
            _CROSS_ENTROPY,
            "functional.mse_loss(outputs, functional.one_hot(targets, outputs.shape[-1]).float())",
        ),
        component=("loss*",),
    ),
    Defect(
        name="smoothing-extreme",
        family=Family.TRAINING,
        what="labels are smoothed by 0.9 while train_config.json says 0",
        source=f"{DEEP_CHECKER} (wrong loss)",
        programs=("digits_mixer", "wine_mlp"),
        edits=_train("label_smoothing=self._label_smoothing", "label_smoothing=0.9"),
        component=("loss*", "label_smoothing*"),
    ),
    Defect(
        name="rare-class-free-of-charge",
        family=Family.TRAINING,
        what="a class weight of zero: errors on the rare class cost nothing",
        source=f"{DEEP_CHECKER} (unbalanced data); {TAXONOMY} (wrong loss weights)",
        programs=("cancer_mlp",),
        edits=_train(
            _CROSS_ENTROPY,
            "functional.cross_entropy(outputs.float(), targets, torch.tensor([1.0, 0.0]))",
        ),
        component=("loss*", "*malignant*"),
    ),
    Defect(
        name="errors-of-all-pairs",
        family=Family.TRAINING,
        what="(B, 1) minus (B,) broadcasts to (B, B): the mean is all that can be learnt",
        source="PyTorch warning on mse_loss sizes; keras-team/keras broadcasting of targets",
        programs=REGRESSORS,
        edits=_train(
            "functional.mse_loss(outputs.reshape(-1) / self._target_std, targets / self._target_std)",
            "((outputs.reshape(-1, 1) - targets) / self._target_std).square().mean()",
        ),
        component=("loss*",),
    ),
    Defect(
        name="evaluated-in-training-mode",
        family=Family.TRAINING,
        what="evaluation leaves dropout on and feeds batch norm with val",
        source=f"huggingface/transformers 33844, in {TRAINCHECK}; {TAXONOMY}",
        traincheck="transformers-33844",
        programs=("digits_cnn", "cancer_mlp", "cells_mlp", "wine_mlp"),
        edits=_train("        self.model.eval()\n", ""),
        component=("evaluate*", "dropout*", "norm*", "blocks.*norm*", "eval.log", "best.json", "*best.json"),
        also=(Family.REPORTING,),
        harm=Harm.CLAIM,
        claim=claims.best_evaluation,
    ),
    Defect(
        name="never-in-training-mode",
        family=Family.TRAINING,
        what="training goes on in eval mode: no dropout, and batch norm learns no statistics",
        source=f"{TAXONOMY} (mode); pytorch/pytorch 51800, in {TRAINCHECK}",
        traincheck="pytorch-51800",
        programs=("digits_cnn", "cancer_mlp", "diabetes_mlp"),
        edits=(
            Edit("train.py", "(manifest).to(self.device).train()", "(manifest).to(self.device).eval()"),
            Edit("train.py", "        self.model.train()\n        step, metric", "        step, metric"),
        ),
        component=("dropout*", "norm*", "blocks.*norm*"),
    ),
    Defect(
        name="one-mask-for-all",
        family=Family.TRAINING,
        what="the seed is set in every step, so dropout always drops the same units",
        source=f"Stack Overflow 67180955 (identical random numbers), in {TRAINCHECK}",
        traincheck="SO-67180955",
        programs=("wine_mlp", "digits_cnn", "diabetes_mlp", "cancer_mlp"),
        edits=_train(_BATCH, "            torch.manual_seed(0)\n" + _BATCH),
        component=("dropout*", "manual_seed*"),
    ),
    Defect(
        name="targets-of-other-rows",
        family=Family.TRAINING,
        what="inputs and targets of a batch are shuffled apart",
        source=f"{DEEP_CHECKER} (labels); {TAXONOMY} (wrong pairing)",
        programs=("digits_mixer", "wine_mlp", "cells_mlp"),
        edits=_train(
            _BATCH,
            "            inputs, targets = self.train_rows.batch(rows)\n"
            "            targets = targets[torch.randperm(len(targets))]\n"
            "            loss, grad_norm = self.backward(inputs, targets)\n",
        ),
        component=("batch*", "targets*", "train-targets.npy"),
        also=(Family.DATA,),
    ),
    Defect(
        name="first-batch-forever",
        family=Family.DATA,
        what="the cursor is not passed on: every step sees the first batch",
        source="the stream replayed, defects of language models",
        programs=("digits_cnn", "text_encoder", "cells_mlp"),
        edits=_train("                self.state.cursor,\n", "                0,\n"),
        component=("rows_after*", "cursor*", "train-inputs.npy", "sampler*"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="a-tenth-of-the-rows",
        family=Family.DATA,
        what="an epoch draws from the first tenth of the rows",
        source=f"{DEEP_CRIME} (TRD, deleted training data)",
        programs=("digits_mixer", "text_encoder", "diabetes_mlp", "cancer_mlp"),
        edits=_train("num_rows=len(self.train_rows),\n", "num_rows=len(self.train_rows) // 10,\n"),
        component=("rows_after*", "epoch_order*", "train-inputs.npy", "sampler*"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="class-after-class",
        family=Family.DATA,
        what="rows sorted by class are read in the order of the file",
        source=f"{TAXONOMY} (no shuffling); {DEEP_CRIME}",
        programs=("digits_cnn", "digits_mixer", "wine_mlp"),
        edits=_train(_ORDER, "    return np.arange(num_rows)\n"),
        before=_sort_by_class,
        component=("epoch_order*", "rows_after*", "train-targets.npy", "train-inputs.npy", "sampler*"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="pixels-turned-upside-down",
        family=Family.DATA,
        what="an augmentation turns half of the digits by 180 degrees: a 6 is taught as a 9",
        source=f"{DEEP_CHECKER} (augmentation)",
        programs=("digits_cnn", "digits_mixer"),
        edits=_train(
            _BATCH,
            "            inputs, targets = self.train_rows.batch(rows)\n"
            "            turned = torch.rand(len(inputs)) < 0.5\n"
            "            inputs[turned] = inputs[turned].rot90(2, (-2, -1))\n"
            "            loss, grad_norm = self.backward(inputs, targets)\n",
        ),
        component=("batch*", "augment*", "train-inputs.npy"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="noise-drowns-the-inputs",
        family=Family.DATA,
        what="an augmentation adds noise of three deviations",
        source=f"{DEEP_CHECKER} (augmentation); {DEEP_CRIME} (TAN, noisy training data)",
        programs=("wine_mlp", "cells_mlp", "digits_mixer"),
        edits=_train(
            _BATCH,
            "            inputs, targets = self.train_rows.batch(rows)\n"
            "            inputs = inputs + 3 * inputs.std(0) * torch.randn_like(inputs)\n"
            "            loss, grad_norm = self.backward(inputs, targets)\n",
        ),
        component=("batch*", "augment*", "train-inputs.npy"),
        also=(Family.TRAINING,),
    ),
    Defect(
        name="stops-at-a-tenth",
        family=Family.TRAINING,
        what="a tenth of the planned steps is trained, and called done",
        source=f"{DEEP_CRIME} (RE, fewer epochs)",
        programs=("digits_cnn", "text_encoder", "diabetes_mlp"),
        edits=(
            Edit("train.py", _WHILE, _WHILE.replace("steps:", "steps // 10:")),
            Edit("train.py", _DONE, "            self.evaluate()\n" + _DONE),
        ),
        component=("train.log", "last.json", "*last.json", "steps*"),
        also=(Family.REPORTING,),
        harm=Harm.CLAIM,
        claim=_steps_done,
    ),
    Defect(
        name="freezing-not-applied",
        family=Family.TRAINING,
        what="config.json says that the embedding is frozen; it is trained",
        source=f"open-mmlab/mmpretrain 702, in {TRAINCHECK}",
        traincheck="mmpretrain-702",
        programs=("text_encoder",),
        before=_declare_freezing,
        component=("embed*", "positions*", "config.json*"),
        also=(Family.MODEL,),
        harm=Harm.CLAIM,
        claim=claims.frozen_layers_fixed("embed.weight"),
    ),
    Defect(
        name="clipped-to-nothing",
        family=Family.TRAINING,
        what="the gradient is clipped to a norm of 1e-6; Adam scales it up again",
        source=f"{DEEP_CRIME} (gradient clip)",
        programs=("digits_mixer",),
        edits=_train("self.config.grad_clip or math.inf", "1e-6"),
        component=("clip*", "grad_clip*"),
    ),
    Defect(
        name="decay-on-biases-too",
        family=Family.TRAINING,
        what="weight decay on norms and biases too",
        source="weight decay on norms, defects of language models",
        programs=("digits_mixer", "text_encoder"),
        edits=_train('"weight_decay": 0.0}', '"weight_decay": config.weight_decay}'),
        component=("optimizer*", "weight_decay*"),
    ),
    Defect(
        name="gradients-of-a-sum",
        family=Family.TRAINING,
        what="the loss is summed over the batch; clipping and Adam take the factor out again",
        source=f"{TAXONOMY} (loss reduction)",
        programs=("wine_mlp", "digits_cnn"),
        edits=_train(_BACKWARD, "            torch.autograd.backward(loss * len(targets))\n"),
        component=("loss*",),
    ),
)
