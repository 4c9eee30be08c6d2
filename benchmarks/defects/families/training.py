"""Defects of the training loop: gradients, optimizer, schedule, accumulation, modes, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.defects.case import Claim, Defect, Edit, Family, Folder
from benchmarks.defects.families import claims
from benchmarks.defects.families.facts import stated_setting
from benchmarks.defects.families.places import ALL, FOUR, GPT

_TRAINING = Family.TRAINING
_GROUPS = """    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
"""
_PARAMETERS = "    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]\n"
_STEP = "                self.optimizer.step()\n"
_ZERO = "            self.optimizer.zero_grad(set_to_none=True)\n"
_BACKWARD = "self._accelerator.backward(total / len(micro_batches))"
_CLIP = "        grad_norm = self._accelerator.clip_grad_norm_(self.model.parameters(), self._grad_clip)\n"
_RATE = '                    group["lr"] = learning_rate\n'
_LOSS = "            losses.append(cross_entropy.detach())\n"
_OPTIMIZER_NAMES = ("optimizer*", "train.py:new_optimizer")


def _train(old: str, new: str, *, times: int = 1) -> tuple[Edit, ...]:
    return (Edit("train.py", old, new, times),)


def _setting(name: str) -> Callable[[Folder, Path], Claim]:
    def claim(folder: Folder, sound: Path) -> Claim:
        return stated_setting(folder, sound, name)

    claim.__name__ = f"stated_{name}"
    return claim


def _unaveraged(folder: Folder) -> None:
    """Accumulation of four, so that the sum is four times the mean, and a clip that lets it through."""
    folder.set("train_config.json", accumulation=4, micro_batch=2 if folder.program not in GPT else 4)


_GRADIENTS = (
    Defect(
        name="no-zero-grad",
        family=_TRAINING,
        what="gradients are never cleared: every step adds to all before",
        source="Stack Overflow 60335387; TrainCheck, OSDI 2025",
        programs=ALL,
        edits=_train(_ZERO, "            pass\n"),
        component=("zero_grad", "optimizer*"),
        traincheck="SO-60335387",
    ),
    Defect(
        name="zero-grad-before-step",
        family=_TRAINING,
        what="gradients are cleared between backward and step: nothing is ever updated",
        source="TheDeepChecker, arXiv 2204.00694; pytorch/pytorch #115607 (updates stop); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(_STEP, "                self.optimizer.zero_grad(set_to_none=True)\n" + _STEP),
        component=("zero_grad", "optimizer*"),
        traincheck="pytorch-115607",
    ),
    Defect(
        name="updates-stop",
        family=_TRAINING,
        what="from the 31st step on no gradient is there when the optimizer steps",
        source="pytorch/pytorch #115607 (updates stop after None gradients); TrainCheck, OSDI 2025",
        programs=ALL,
        edits=(
            *_train(
                _STEP,
                "                self.steps = getattr(self, 'steps', 0) + 1\n"
                "                if self.steps > 30:\n"
                "                    self.optimizer.zero_grad(set_to_none=True)\n" + _STEP,
            ),
        ),
        component=("optimizer*", "zero_grad"),
        traincheck="pytorch-115607",
    ),
    Defect(
        name="accumulation-keeps-last",
        family=_TRAINING,
        what="only the last micro-batch of a step counts",
        source="huggingface/transformers #37766; DeepCrime (change batch size), ISSTA 2021",
        programs=FOUR,
        edits=_train(
            "        for micro in micro_batches:\n            before_forward()\n",
            "        for micro in micro_batches:\n            before_forward()\n"
            "            self.optimizer.zero_grad(set_to_none=True)\n",
        ),
        component=("accumulation", "zero_grad"),
        claim=_setting("accumulation"),
    ),
    Defect(
        name="accumulation-not-averaged",
        family=_TRAINING,
        what="micro-batches are summed, not averaged",
        source="huggingface/transformers #37766, pull request #34191 (gradient accumulation)",
        programs=FOUR,
        edits=_train(_BACKWARD, "self._accelerator.backward(total)"),
        before=_unaveraged,
        component=("accumulation", "grad_norm*"),
        claim=_setting("gradient_scale"),
    ),
    Defect(
        name="loss-sign-flipped",
        family=_TRAINING,
        what="the loss is maximised",
        source="TheDeepChecker (flipped sign), arXiv 2204.00694",
        programs=ALL,
        edits=_train(_BACKWARD, "self._accelerator.backward(-total / len(micro_batches))"),
        component=("loss", "optimizer*"),
    ),
    Defect(
        name="clip-missing",
        family=_TRAINING,
        what="gradients are measured and not clipped",
        source="DeepCrime (change gradient clip), ISSTA 2021; arXiv 1211.5063",
        programs=FOUR,
        edits=_train(_CLIP, _CLIP.replace("self._grad_clip", "1e9")),
        component=("grad_clip", "train_config.json:grad_clip"),
        claim=_setting("grad_clip"),
    ),
    Defect(
        name="clip-by-value",
        family=_TRAINING,
        what="every gradient entry is cut at the clip instead of the norm: nothing is clipped in practice",
        source="DeepCrime (change gradient clip), ISSTA 2021",
        programs=("llama", "gpt2"),
        edits=_train(
            _CLIP,
            "        grad_norm = self._accelerator.clip_grad_norm_(self.model.parameters(), 1e9)\n"
            "        torch.nn.utils.clip_grad_value_(self.model.parameters(), self._grad_clip)\n",
        ),
        component=("grad_clip", "train_config.json:grad_clip"),
        claim=_setting("grad_clip"),
    ),
    Defect(
        name="gradients-in-half",
        family=_TRAINING,
        what="gradients pass through fp16 and small ones underflow",
        source="arXiv 1710.03740, section 3.2 (loss scaling is missing)",
        programs=FOUR,
        edits=_train(
            _CLIP,
            "        for parameter in self.model.parameters():\n"
            "            if parameter.grad is not None:\n"
            "                parameter.grad = (parameter.grad * 1e-5).half().float() * 1e5\n" + _CLIP,
        ),
        component=("precision", "grad*"),
    ),
    Defect(
        name="loss-on-first-half",
        family=_TRAINING,
        what="only the first half of every window is trained on",
        source="TheDeepChecker (wrong loss), arXiv 2204.00694",
        programs=FOUR,
        edits=(
            Edit(
                "train.py",
                "self._loss(self.model, micro[:, :-1], micro[:, 1:])",
                "self._loss(self.model, micro[:, : micro.shape[1] // 2], micro[:, 1 : micro.shape[1] // 2 + 1])",
            ),
        ),
        component=("loss", "window*"),
        also=(Family.DATA,),
    ),
)

_OPTIMIZER = (
    Defect(
        name="optimizer-holds-copies",
        family=_TRAINING,
        what="the optimizer was given copies: what it updates is not the model",
        source="huggingface/accelerate #2665 (optimizer of other parameters than the model's); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            _PARAMETERS,
            "    parameters = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]\n",
        ),
        component=(*_OPTIMIZER_NAMES, "*.weight", "embed_tokens*"),
        traincheck="accelerate-2665",
    ),
    Defect(
        name="blocks-frozen",
        family=_TRAINING,
        what="the blocks are frozen before the optimizer is made, and nobody asked for that",
        source="PyTorch forum 84911 (no trainable layers); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(_PARAMETERS, "    model.blocks.requires_grad_(False)\n" + _PARAMETERS),
        component=(*_OPTIMIZER_NAMES, "blocks*"),
        traincheck="pytorch-forum-84911",
    ),
    Defect(
        name="norms-not-clipped",
        family=_TRAINING,
        what="norms and biases are left out of the clipping",
        source="microsoft/DeepSpeed #1801 (layer norms are not clipped); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            "clip_grad_norm_(self.model.parameters(), self._grad_clip)",
            "clip_grad_norm_([p for p in self.model.parameters() if p.dim() > 1], self._grad_clip)",
        ),
        component=("grad_clip", "*norm*", "*bias*", "train_config.json:grad_clip"),
        claim=_setting("grad_clip"),
        traincheck="deepspeed-1801",
    ),
    Defect(
        name="transfer-loses-data",
        family=_TRAINING,
        what="a third of the windows arrive on the device as zeros, as over a faulty link",
        source="baichuan-inc/Baichuan2 #86 (data lost on the way to a device); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            "        micro_batches = torch.split(windows.to(self._accelerator.device), micro_batch)\n",
            "        windows = windows.to(self._accelerator.device).clone()\n"
            "        windows[::3] = 0\n"
            "        micro_batches = torch.split(windows, micro_batch)\n",
        ),
        component=("window*", "batch*"),
        also=(Family.DATA,),
        traincheck="baichuan2-86",
    ),
    Defect(
        name="optimizer-without-biases",
        family=_TRAINING,
        what="norms and biases are in no group of the optimizer",
        source="karpathy/minGPT configure_optimizers (asserts that groups cover all parameters)",
        programs=FOUR,
        edits=_train(
            '        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},\n', ""
        ),
        component=(*_OPTIMIZER_NAMES, "*norm*", "*bias*"),
        claim=_setting("trained_parameters"),
    ),
    Defect(
        name="optimizer-without-embedding",
        family=_TRAINING,
        what="the embedding, tied or not, is left out of the optimizer",
        source="PyTorch forum 84911; TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            _PARAMETERS,
            "    parameters = [p for n, p in model.named_parameters() if p.requires_grad and 'embed' not in n]\n",
        ),
        component=(*_OPTIMIZER_NAMES, "embed_tokens*", "embed_positions*"),
        traincheck="pytorch-forum-84911",
        claim=_setting("trained_parameters"),
    ),
    Defect(
        name="optimizer-without-experts",
        family=_TRAINING,
        what="the optimizer leaves the experts out",
        source="PyTorch forum 84911; TrainCheck, OSDI 2025",
        programs=("gpt2_moe", "llama_moe", "mla_moe"),
        edits=_train(
            _PARAMETERS,
            "    parameters = [p for n, p in model.named_parameters() if p.requires_grad and '.experts.' not in n]\n",
        ),
        component=(*_OPTIMIZER_NAMES, "blocks.*.mlp*"),
        claim=_setting("trained_parameters"),
    ),
    Defect(
        name="freeze-not-applied",
        family=_TRAINING,
        what="the first block is frozen after the optimizer was made for it, and no setting says so",
        source="open-mmlab/mmpretrain #702 (freeze not applied); TrainCheck, OSDI 2025",
        programs=("llama", "llama_moe", "mla_moe"),
        edits=(
            Edit(
                "train.py",
                "        self.stepper = Stepper(build_model().to(accelerator.device), self.config, accelerator)\n"
                "        self.model = self.stepper.model.train()\n",
                "        self.stepper = Stepper(build_model().to(accelerator.device), self.config, accelerator)\n"
                "        self.stepper.model.blocks[0].requires_grad_(False)  # too late: the optimizer has it\n"
                "        self.model = self.stepper.model.train()\n",
            ),
        ),
        component=(*_OPTIMIZER_NAMES, "blocks.0", "blocks.0.*"),
        traincheck="mmpretrain-702",
        claim=_setting("trained_parameters"),
    ),
    Defect(
        name="decay-on-norms",
        family=_TRAINING,
        what="weight decay, five times the usual, pulls norms and biases to zero too",
        source="karpathy/minGPT configure_optimizers; arXiv 1706.05350 (decay and normalisation)",
        programs=FOUR,
        edits=_train(_GROUPS, '    groups = [{"params": parameters, "weight_decay": config.weight_decay}]\n'),
        component=(*_OPTIMIZER_NAMES, "weight_decay", "*norm*", "train_config.json:weight_decay"),
        claim=_setting("decay_of_vectors"),
    ),
    Defect(
        name="decay-as-l2",
        family=_TRAINING,
        what="plain Adam with the decay added to the gradient, where AdamW is claimed",
        source="arXiv 1711.05101 (decoupled weight decay)",
        programs=FOUR,
        edits=_train("    return torch.optim.AdamW(\n", "    return torch.optim.Adam(\n"),
        component=(*_OPTIMIZER_NAMES, "weight_decay", "train_config.json:weight_decay"),
    ),
    Defect(
        name="decay-hundredfold",
        family=_TRAINING,
        what="weight decay a hundred times as configured",
        source="TheDeepChecker (over-regularisation), arXiv 2204.00694; DeepCrime (change weight decay)",
        programs=FOUR,
        edits=_train('"weight_decay": config.weight_decay}', '"weight_decay": 100 * config.weight_decay}'),
        component=(*_OPTIMIZER_NAMES, "weight_decay", "train_config.json:weight_decay"),
    ),
    Defect(
        name="betas-swapped",
        family=_TRAINING,
        what="beta1 and beta2 are swapped",
        source="DeepCrime (change optimisation function), ISSTA 2021",
        programs=FOUR,
        edits=_train("betas=(config.beta1, config.beta2)", "betas=(config.beta2, config.beta1)"),
        component=(*_OPTIMIZER_NAMES, "beta*", "train_config.json:beta*"),
        claim=_setting("betas"),
    ),
    Defect(
        name="epsilon-huge",
        family=_TRAINING,
        what="Adam's epsilon is 0.1: nearly plain momentum with tiny steps",
        source="TheDeepChecker (Adam epsilon), arXiv 2204.00694",
        programs=FOUR,
        edits=_train("eps=1e-8, fused=True", "eps=0.1, fused=True"),
        component=(*_OPTIMIZER_NAMES, "eps*"),
    ),
    Defect(
        name="momentum-lost",
        family=_TRAINING,
        what="a new optimizer every step: no moments",
        source="IntelLabs/distiller #145 (resume does not load the optimizer)",
        programs=FOUR,
        edits=_train(_STEP, _STEP + "                self.optimizer.state.clear()\n"),
        component=("optimizer*", "*.exp_avg*"),
    ),
    Defect(
        name="sgd-for-adamw",
        family=_TRAINING,
        what="plain SGD at Adam's rate",
        source="DeepCrime (change optimisation function), ISSTA 2021",
        programs=FOUR,
        edits=(
            Edit(
                "train.py",
                "    return torch.optim.AdamW(\n"
                "        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True\n"
                "    )\n",
                "    return torch.optim.SGD(groups, lr=config.learning_rate)\n",
            ),
        ),
        component=_OPTIMIZER_NAMES,
    ),
)

_SCHEDULE = (
    Defect(
        name="learning-rate-tenfold",
        family=_TRAINING,
        what="the optimizer's rate is ten times what is planned and logged",
        source="TheDeepChecker (learning rate too high), arXiv 2204.00694; DeepCrime (change learning rate)",
        programs=ALL,
        edits=_train(_RATE, '                    group["lr"] = 10 * learning_rate\n'),
        component=("learning_rate*", "lr", "optimizer*", "train_config.json:learning_rate"),
        claim=_setting("learning_rate"),
    ),
    Defect(
        name="learning-rate-hundredth",
        family=_TRAINING,
        what="the rate is a hundredth of what is planned",
        source="TheDeepChecker (learning rate too low), arXiv 2204.00694; DeepCrime (change learning rate)",
        programs=FOUR,
        edits=_train(_RATE, '                    group["lr"] = learning_rate / 100\n'),
        component=("learning_rate*", "lr", "optimizer*", "train_config.json:learning_rate"),
    ),
    Defect(
        name="schedule-ignored",
        family=_TRAINING,
        what="neither warm-up nor decay reaches the optimizer; the log shows both",
        source="pytorch/pytorch #60265, #29697 (the scheduler's rate is not the optimizer's)",
        programs=FOUR,
        edits=_train(_RATE, "                    pass\n"),
        component=("learning_rate*", "schedule", "lr", "optimizer*", "train_config.json:*"),
        claim=_setting("learning_rate"),
    ),
    Defect(
        name="schedule-restarts",
        family=_TRAINING,
        what="the schedule starts again every fifty steps",
        source="ultralytics/yolov5 #292, IntelLabs/distiller #70 (the rate is reset)",
        programs=FOUR,
        edits=_train(
            "learning_rate_at(self.state.step, self.config)",
            "learning_rate_at(self.state.step % 50, self.config)",
        ),
        component=("learning_rate*", "schedule", "lr", "train_config.json:*"),
        claim=_setting("learning_rate"),
    ),
    Defect(
        name="decay-over-warm-up",
        family=_TRAINING,
        what="the rate decays within a tenth of the training and stays at the minimum",
        source="DeepCrime (change learning rate), ISSTA 2021; pytorch/pytorch #60265",
        programs=FOUR,
        edits=_train(
            "    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)\n",
            "    progress = min(1.0, 10 * (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))\n",
        ),
        component=("learning_rate*", "schedule", "lr", "train_config.json:*"),
        claim=_setting("learning_rate"),
    ),
    Defect(
        name="stops-early",
        family=_TRAINING,
        what="training ends after an eighth of its steps and calls itself done",
        source="DeepCrime (change number of epochs), ISSTA 2021; the seed's fourth check",
        programs=FOUR,
        edits=_train(
            "            while self.state.step < self.config.steps:\n",
            "            while self.state.step < self.config.steps // 8:\n",
        ),
        component=("steps", "train.log", "ckpts/last.json", "train_config.json:steps"),
        also=(Family.REPORTING,),
        claim=claims.trained_tokens,
    ),
)

_MODES = (
    Defect(
        name="dropout-never-active",
        family=_TRAINING,
        what="training runs in eval mode: dropout and load counts are off",
        source="DeepCrime (change dropout), ISSTA 2021; huggingface/transformers #33844",
        programs=("gpt2", "mla_moe"),
        edits=_train("self.model = self.stepper.model.train()", "self.model = self.stepper.model.eval()"),
        component=("train_mode", "training", "*dropout*", "blocks.*.mlp*"),
        claim=_setting("train_mode"),
    ),
    Defect(
        name="evaluation-stays-on",
        family=_TRAINING,
        what="the first evaluation leaves the model in eval mode for the rest of the training",
        source="huggingface/transformers #33844; PyTorch's autograd notes on eval mode",
        programs=("gpt2", "mla_moe"),
        edits=(
            Edit(
                "eval.py",
                "    finally:\n        model.train(was_training)\n    return total / count, count\n",
                "    finally:\n        model.train(was_training and False)\n    return total / count, count\n",
            ),
        ),
        component=("train_mode", "training", "eval.py*"),
        claim=_setting("train_mode_after_evaluation"),
    ),
    Defect(
        name="evaluation-in-train-mode",
        family=_TRAINING,
        what="dropout is active when the eval loss is measured",
        source="huggingface/transformers #33844 (dropout active in eval); TrainCheck, OSDI 2025",
        programs=("gpt2",),
        edits=(
            Edit(
                "eval.py",
                "    was_training = model.training\n    model.eval()\n    total, count = 0.0, 0\n",
                "    was_training = model.training\n    model.train()\n    total, count = 0.0, 0\n",
            ),
        ),
        before=lambda folder: folder.set("config.json", dropout=0.2),
        component=("eval_mode", "training", "eval.py*"),
        traincheck="transformers-33844",
        also=(Family.REPORTING,),
        claim=claims.eval_loss,
    ),
    Defect(
        name="random-numbers-reset",
        family=_TRAINING,
        what="the generator is seeded anew every step: the same dropout mask, always",
        source="Stack Overflow 67180955 (identical random numbers in every worker); TrainCheck, OSDI 2025",
        programs=("gpt2",),
        edits=_train(
            "        for micro in micro_batches:\n            before_forward()\n",
            "        for micro in micro_batches:\n            before_forward()\n            torch.manual_seed(0)\n",
        ),
        before=lambda folder: folder.set("config.json", dropout=0.3),
        component=("rng*", "random*", "dropout", "seed"),
        traincheck="SO-67180955",
    ),
    Defect(
        name="autocast-skipped",
        family=_TRAINING,
        what="bfloat16 is configured and never used",
        source="Lightning-AI/lightning-thunder #725 (autocast skipped); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            'if precision == "bf16" else nullcontext()', 'if precision == "bfloat16" else nullcontext()'
        ),
        before=lambda folder: folder.set("train_config.json", precision="bf16"),
        component=("precision", "autocast", "train_config.json:precision"),
        traincheck="lightning-thunder-725",
        claim=_setting("autocast"),
    ),
    Defect(
        name="noise-on-updates",
        family=_TRAINING,
        what="weights are perturbed after every step, as a faulty communication would",
        source="pytorch/pytorch #84803 and #96600 (lost or corrupted communication); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            _STEP,
            _STEP
            + "                with torch.no_grad():\n"
            + "                    for parameter in self.model.parameters():\n"
            + "                        parameter.mul_(1 + 0.02 * torch.randn_like(parameter))\n",
        ),
        component=("optimizer*", "*.weight", "update"),
        traincheck="pytorch-84803",
    ),
    Defect(
        name="gradient-lost-now-and-then",
        family=_TRAINING,
        what="every second step the gradient of all but the head is zero, as if its message were lost",
        source="pytorch/pytorch #96600 (communication lost); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            _CLIP,
            "        self.calls = getattr(self, 'calls', 0) + 1\n"
            "        for name, parameter in self.model.named_parameters():\n"
            "            if self.calls % 2 and parameter.grad is not None and name.startswith('blocks'):\n"
            "                parameter.grad.zero_()\n" + _CLIP,
        ),
        component=("grad*", "blocks*", "optimizer*"),
        traincheck="pytorch-96600",
    ),
    Defect(
        name="initialised-again",
        family=_TRAINING,
        what="the weights are drawn again after the first hundred steps",
        source="huggingface/transformers #17877 (repeated initialisation); TrainCheck, OSDI 2025",
        programs=FOUR,
        edits=_train(
            "            while self.state.step < self.config.steps:\n                self.train_step()\n",
            "            while self.state.step < self.config.steps:\n                self.train_step()\n"
            "                if self.state.step % 100 == 0:\n"
            "                    self.model.blocks.apply(self.model._init_weights)\n",
        ),
        component=("blocks*", "*.weight", "ckpts/*", "train.log"),
        traincheck="transformers-17877",
    ),
)

DEFECTS: tuple[Defect, ...] = (*_GRADIENTS, *_OPTIMIZER, *_SCHEDULE, *_MODES)
