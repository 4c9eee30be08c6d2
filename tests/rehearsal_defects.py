# ruff: noqa: E501 - an edit is easier to read on one line
"""Defects of a train.py, planted by replacing text in the shipped programs; and variations that are sound.

Sources: the numbered issues are those of TrainCheck (OSDI'25) and their ports; DeepCrime (ISSTA'21),
TheDeepChecker (TOSEM'23), RewardHackingAgents and ARIS are named where a defect is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LOGITS = "return self.lm_head(self.norm(x))"
DROPOUT = ("model.py", LOGITS, "return self.lm_head(functional.dropout(self.norm(x), 0.2, self.training))")
NO_LOSS = ("model.py", "def loss(", "def unused(")
TIE = "self.lm_head.weight = self.embed_tokens.weight"
COUNTS = (
    (
        "model.py",
        TIE,
        f'{TIE}\n        self.register_buffer("updates", torch.zeros(()))',
    ),
    (
        "model.py",
        "    def loss(",
        "    def after_optimizer_step(self):\n        self.updates += 1\n\n    def loss(",
    ),
)
BF16 = (
    "model.py",
    "functional.linear(inner, self.down[index]))",
    "functional.linear(inner, self.down[index]).to(y))",
)
TRAIN_SPLIT = 'tokens = Tokens(data_dir, manifest, split="train")\n        self.sampler'
MICRO = "self._loss(self.model, micro[:, :-1], micro[:, 1:])"
BACKWARD = "self._accelerator.backward(total / len(micro_batches))"
CLIP = "grad_norm = self._accelerator.clip_grad_norm_(self.model.parameters(), self._grad_clip)"
NEW_OPTIMIZER = "self.optimizer = new_optimizer(model, config)"
ADAMW = """return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True
    )"""
STEP = "                self.optimizer.step()\n"
WINDOWS = "self.sampler.windows(self.state.cursor, self.config.windows_per_step)"
STACK = (
    "return torch.from_numpy(np.stack([self._tokens.window(start, self._seq_len + 1) for start in starts]))"
)
LOG = 'self.logs.line("train.log", f"step={step} loss={loss:.4f}")'
STEPPED = "            self.state.step = step\n"
EVALUATED = "loss, count = evaluate(self.model, batches)\n"
BUILD = "self.stepper = Stepper(build_model().to(accelerator.device), self.config, accelerator)"


@dataclass(frozen=True)
class Planted:
    """One defect: the probes that may name it, the edits, where it is from."""

    probe: str
    edits: tuple[tuple[str, str, str], ...]
    source: str
    settings: dict[str, Any] = field(default_factory=dict)


def train(old: str, new: str) -> tuple[str, str, str]:
    return ("train.py", old, new)


def evaluation(old: str, new: str) -> tuple[str, str, str]:
    return ("eval.py", old, new)


DEFECTS: dict[str, Planted] = {
    # --- the loop
    "no-zero-grad": Planted(
        "zero-grad", (train("self.optimizer.zero_grad(set_to_none=True)", "pass"),), "TrainCheck SO-60335387"
    ),
    "zero-grad-before-step": Planted(
        "gradient",
        (train(STEP, f"                self.optimizer.zero_grad(set_to_none=True)\n{STEP}"),),
        "TrainCheck pytorch-115607",
    ),
    "gradient-reversed": Planted(
        "gradient",
        (train(STEP, f"                [p.grad.neg_() for p in self.model.parameters()]\n{STEP}"),),
        "ASMR-Bench: the wrong sign",
    ),
    "frozen-unsaid": Planted(
        "optimizer-coverage",
        (
            train(BUILD, f"{BUILD}".replace("Stepper(build_model()", "Stepper(frozen(build_model())")),
            train(
                "class Trainer:",
                "def frozen(model):\n    model.positions.weight.requires_grad_(False)\n    return model\n\n\nclass Trainer:",
            ),
        ),
        "TrainCheck pytorch-forum-84911",
    ),
    "zero-grad-within-accumulation": Planted(
        "accumulation",
        (
            train(
                "            before_forward()\n",
                "            before_forward()\n            self.optimizer.zero_grad()\n",
            ),
        ),
        "language models: gradient accumulation",
    ),
    "accumulation-summed": Planted(
        "accumulation",
        (train(BACKWARD, "self._accelerator.backward(total)"),),
        "language models: gradient accumulation not averaged",
    ),
    "accumulation-averaged-twice": Planted(
        "accumulation",
        (train(BACKWARD, "self._accelerator.backward(total / len(micro_batches) ** 2)"),),
        "language models: gradient accumulation not averaged",
    ),
    "one-micro-batch-dropped": Planted(
        "accumulation",
        (train("for micro in micro_batches:", "for micro in micro_batches[1:]:"),),
        "DeepCrime: batch size",
    ),
    "no-clipping": Planted(
        "grad-clip", (train(CLIP, CLIP.replace("self._grad_clip", "1e9")),), "DeepCrime: gradient clip"
    ),
    "clipping-after-the-step": Planted(
        "grad-clip",
        (
            train(
                CLIP,
                "grad_norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None]))",
            ),
            train(
                STEP,
                f"{STEP}                self._accelerator.clip_grad_norm_(self.model.parameters(), self._grad_clip)\n",
            ),
        ),
        "DeepCrime: gradient clip",
    ),
    "values-clipped": Planted(
        "gradient",
        (train(CLIP, f"torch.nn.utils.clip_grad_value_(self.model.parameters(), 1e-3)\n        {CLIP}"),),
        "DeepCrime: gradient clip",
    ),
    "each-micro-batch-clipped": Planted(
        "gradient",
        (
            train(
                "            losses.append(cross_entropy.detach())\n",
                f"            losses.append(cross_entropy.detach())\n            {CLIP}\n",
            ),
        ),
        "DeepCrime: gradient clip",
    ),
    "gradient-of-a-parameter-zeroed": Planted(
        "gradient",
        (train(CLIP, f"self.model.positions.weight.grad.zero_()\n        {CLIP}"),),
        "TrainCheck pytorch-115607",
    ),
    "gradient-noise": Planted(
        "gradient",
        (
            train(
                CLIP,
                f"[p.grad.add_(torch.randn_like(p.grad), alpha=1e-3) for p in self.model.parameters()]\n        {CLIP}",
            ),
        ),
        "TrainCheck, fault injection (pytorch-84803)",
    ),
    "norms-not-in-the-optimizer": Planted(
        "optimizer-coverage",
        (train("if parameter.requires_grad]", "if parameter.requires_grad and parameter.dim() >= 2]"),),
        "language models: a parameter left out of the optimizer",
    ),
    "one-layer-not-in-the-optimizer": Planted(
        "optimizer-coverage",
        (
            train(
                "parameters = [parameter for parameter in model.parameters() if",
                "parameters = [parameter for name, parameter in model.named_parameters() if 'blocks.1' not in name and",
            ),
        ),
        "language models: a parameter left out of the optimizer",
    ),
    "optimizer-of-a-copy": Planted(
        "optimizer-coverage",
        (
            train(
                NEW_OPTIMIZER,
                "import copy\n        self.optimizer = new_optimizer(copy.deepcopy(model), config)",
            ),
        ),
        "TrainCheck pytorch-forum-84911",
    ),
    "weight-decay-on-norms": Planted(
        "weight-decay-groups",
        (train('"weight_decay": 0.0}', '"weight_decay": config.weight_decay}'),),
        "language models: weight decay on norms",
    ),
    "no-weight-decay": Planted(
        "weight-decay-groups",
        (train('"weight_decay": config.weight_decay}', '"weight_decay": 0.0}'),),
        "DeepCrime: weight decay changed",
    ),
    "no-warm-up": Planted(
        "learning-rate",
        (
            train(
                "return config.learning_rate * (step + 1) / config.warmup_steps",
                "return config.learning_rate",
            ),
        ),
        "DeepCrime: learning rate",
    ),
    "rate-never-set": Planted(
        "learning-rate", (train('group["lr"] = learning_rate', "pass"),), "DeepCrime: learning rate"
    ),
    "decay-to-zero": Planted(
        "learning-rate",
        (
            train(
                "decayed * (config.learning_rate - config.min_learning_rate)",
                "decayed * config.learning_rate",
            ),
        ),
        "schedules",
    ),
    "rate-ten-times-too-high": Planted(
        "learning-rate",
        (
            train(
                "learning_rate_at(self.state.step, self.config) * self",
                "10 * learning_rate_at(self.state.step, self.config) * self",
            ),
        ),
        "TheDeepChecker: learning rate too high",
    ),
    "schedule-per-micro-batch": Planted(
        "learning-rate",
        (
            train(
                "learning_rate_at(self.state.step, self.config) * self",
                "learning_rate_at(self.state.step * self.state.accumulation, self.config) * self",
            ),
        ),
        "schedules",
    ),
    "wrong-betas": Planted(
        "update", (train("betas=(config.beta1, config.beta2)", "betas=(0.5, 0.999)"),), "DeepCrime: optimizer"
    ),
    "sgd-for-adamw": Planted(
        "update",
        (train(ADAMW, "return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)"),),
        "DeepCrime: optimizer",
    ),
    "another-optimizer-than-named": Planted(
        "update",
        (
            train("torch.optim.AdamW(", "torch.optim.Adam("),
            train("    weight_decay: float\n", "    weight_decay: float\n    optimizer: str\n"),
        ),
        "arXiv 1711.05101: decoupled weight decay",
        {"optimizer": "adamw"},
    ),
    "decay-in-the-gradient": Planted(
        "update",
        (train("torch.optim.AdamW(", "torch.optim.Adam("),),
        "arXiv 1711.05101: decoupled weight decay",
    ),
    "epsilon-too-low": Planted(
        "update", (train("eps=1e-8", "eps=1e-30"),), "TheDeepChecker: low Adam epsilon"
    ),
    "two-steps-per-gradient": Planted("update", (train(STEP, STEP + STEP),), "DeepCrime: optimizer"),
    "weights-shrunk-after-the-step": Planted(
        "update",
        (
            train(
                "                self._after_step()\n",
                "                self._after_step()\n                [p.data.mul_(0.999) for p in self.model.parameters()]\n",
            ),
        ),
        "TheDeepChecker: over-regularisation",
    ),
    "initialised-again": Planted(
        "update",
        (
            train(
                "                self._after_step()\n",
                "                self._after_step()\n                self.model.positions.reset_parameters()\n",
            ),
        ),
        "TrainCheck transformers-17877: repeated initialisation",
    ),
    "own-update-not-called": Planted(
        "update",
        (train("                self._after_step()\n", ""), *COUNTS),
        "language models: experts never balanced",
    ),
    "eval-mode-in-training": Planted(
        "train-mode",
        (train("self.stepper.model.train()", "self.stepper.model.eval()"),),
        "TrainCheck pytorch-51800",
    ),
    "train-mode-not-restored": Planted(
        "train-mode",
        (evaluation("    finally:\n        model.train(was_training)", "    finally:\n        pass"),),
        "TrainCheck transformers-33844",
    ),
    "dropout-in-evaluation": Planted(
        "train-mode",
        (evaluation("    model.eval()\n    total, count", "    total, count"), DROPOUT),
        "TrainCheck transformers-33844",
    ),
    "autocast-skipped": Planted(
        "training-precision",
        (
            train(
                'with self._accelerator.autocast() if precision == "bf16" else nullcontext():',
                "with nullcontext():",
            ),
        ),
        "TrainCheck lightning-thunder-725",
        {"precision": "bf16"},
    ),
    "weights-in-bf16": Planted(
        "training-precision",
        (train(BUILD, BUILD.replace("to(accelerator.device)", "to(accelerator.device, torch.bfloat16)")),),
        "language models: fp16 underflow",
    ),
    # --- going on
    "cursor-lost": Planted(
        "resume",
        (
            train(
                "State(**{name: saved[name] for name in names})",
                'State(**{name: saved[name] for name in names} | {"cursor": 0})',
            ),
        ),
        "language models: the stream replayed",
    ),
    "moments-lost": Planted(
        "resume",
        (
            train(
                "optimizer.state[parameters[name]][kind] = tensor.clone().to(parameters[name].device)",
                "parameters[name]",
            ),
        ),
        "resume",
    ),
    "random-numbers-lost": Planted(
        "resume",
        (
            train("set_rng_state(torch.frombuffer(bytearray.fromhex(value), dtype=torch.uint8))", "pass"),
            DROPOUT,
        ),
        "resume",
    ),
    "weights-not-loaded": Planted(
        "resume", (train('        load_weights(model, directory / "model.safetensors")\n', ""),), "resume"
    ),
    "sigterm-ignored": Planted(
        "train-runs", (train("self._signalled = True", "pass"),), "the contract of a path"
    ),
    "no-checkpoint-on-the-way": Planted(
        "train-runs",
        (train("if evaluated or self.state.step % self.config.checkpoint_every == 0:", "if False:"),),
        "the contract of a path",
    ),
    "raises-on-resume": Planted(
        "train-runs",
        (train('self.best = last["best"]', 'self.best = last["the best"]'),),
        "the contract of a path",
    ),
    "one-step-short": Planted(
        "train-runs",
        (
            train(
                "while self.state.step < self.config.steps:", "while self.state.step < self.config.steps - 1:"
            ),
        ),
        "DeepCrime: epochs",
    ),
    # --- the data
    "labels-not-shifted": Planted(
        "window-labels",
        (train(MICRO, MICRO.replace("micro[:, 1:]", "micro[:, :-1]")),),
        "language models: labels shifted by zero",
    ),
    "labels-shifted-by-two": Planted(
        "window-labels",
        (train(MICRO, MICRO.replace("micro[:, 1:]", "micro[:, 1:].roll(-1, 1)")),),
        "language models: labels shifted by two",
    ),
    "labels-shifted-by-two-outside-the-model": Planted(
        "window-labels",
        (train(MICRO, MICRO.replace("micro[:, 1:]", "micro[:, 1:].roll(-1, 1)")), NO_LOSS),
        "language models: labels shifted by two",
    ),
    "label-noise": Planted(
        "window-labels",
        (
            train(
                MICRO,
                MICRO.replace(
                    "micro[:, 1:]", "torch.where(torch.rand(micro[:, 1:].shape) < 0.1, 5, micro[:, 1:])"
                ),
            ),
        ),
        "DeepCrime: label noise",
    ),
    "trained-on-val": Planted(
        "windows-from-train",
        (train(TRAIN_SPLIT, TRAIN_SPLIT.replace('"train"', '"val"')),),
        "language models: the validation split inside the training split",
    ),
    "tokens-shuffled": Planted(
        "windows-from-train",
        (train(STACK, f"{STACK}[:, torch.randperm(self._seq_len + 1)]"),),
        "DeepCrime: noisy data",
    ),
    "end-of-text-only": Planted(
        "windows-from-train", (train(STACK, f"{STACK} * 0"),), "language models: EOS-only batches"
    ),
    "another-tokenizer": Planted(
        "windows-from-train",
        (train(STACK, f"{STACK} * 7 % 300"),),
        "language models: a tokenizer other than the one trained with",
    ),
    "windows-cut-short": Planted(
        "windows-from-train",
        (train(STACK, f"{STACK}[:, : self._seq_len // 2]"),),
        "DESIGN: nothing is silently narrowed",
    ),
    "padded": Planted(
        "windows-from-train",
        (train(STACK, f"{STACK} * (torch.arange(self._seq_len + 1) < self._seq_len // 2)"),),
        "language models: padding counted in the loss",
    ),
    "same-batch-again": Planted(
        "no-replay",
        (train(WINDOWS, "self.sampler.windows(0, self.config.windows_per_step)"),),
        "language models: the stream replayed",
    ),
    "workers-draw-the-same": Planted(
        "no-replay",
        (train("self._start(index) for index", "self._start(index // 2) for index"),),
        "TrainCheck SO-67180955: identical worker RNG",
    ),
    "a-few-windows-only": Planted(
        "no-replay",
        (
            train(
                "int(self._order[position]) * self._seq_len", "int(self._order[position] % 8) * self._seq_len"
            ),
        ),
        "DeepCrime: deleted data",
    ),
    # --- what is claimed
    "loss-smoothed": Planted(
        "logged-loss",
        (
            train(
                STEPPED,
                f"{STEPPED}            loss = self.smooth = 0.5 * getattr(self, 'smooth', loss) + 0.5 * loss\n",
            ),
        ),
        "ARIS: logged losses smoothed",
    ),
    "loss-invented": Planted(
        "logged-loss",
        (train(STEPPED, f"{STEPPED}            loss *= 0.98\n"),),
        "ARIS: logged losses invented",
    ),
    "loss-of-one-micro-batch": Planted(
        "logged-loss",
        (train("torch.stack(losses).mean()", "losses[-1]"),),
        "ARIS: metric computed on a subset",
    ),
    "loss-twice": Planted(
        "logged-loss", (train("torch.stack(losses).mean()", "torch.stack(losses).sum()"),), "ARIS"
    ),
    "log-not-cut-back": Planted(
        "logged-steps",
        (train("            cut_back(path, last_step=last_step)\n", ""),),
        "ARIS: inconsistent logs",
    ),
    "tokens-counted-twice": Planted(
        "logged-steps",
        (
            train(
                "return self.state.cursor * self.config.seq_len",
                "return 2 * self.state.cursor * self.config.seq_len",
            ),
        ),
        "ARIS: phantom results",
    ),
    "evaluated-on-train": Planted(
        "eval-recomputed",
        (
            train(
                'self.val_tokens = Tokens(data_dir, manifest, split="val")',
                'self.val_tokens = Tokens(data_dir, manifest, split="train")',
            ),
        ),
        "language models: eval on the train shard",
    ),
    "eval-loss-invented": Planted(
        "eval-recomputed",
        (train(EVALUATED, f"{EVALUATED}        loss -= 0.1\n"),),
        "RewardHackingAgents: evaluator tampering",
    ),
    "eval-tokens-overstated": Planted(
        "eval-recomputed",
        (train(EVALUATED, f"{EVALUATED}        count *= 8\n"),),
        "ARIS: metric computed on a subset",
    ),
    "eval-labels-not-shifted": Planted(
        "eval-recomputed",
        (evaluation("batch[:, 1:].to(device)", "batch[:, :-1].to(device)"),),
        "RewardHackingAgents: evaluator tampering",
    ),
    "eval-copied-from-train": Planted(
        "eval-recomputed",
        (
            train(EVALUATED, "loss, count = self.logged_loss, 32\n"),
            train(LOG, f"{LOG}\n            self.logged_loss = loss"),
        ),
        "ARIS: eval loss copied from train",
    ),
    # --- what is left
    "saved-in-half-precision": Planted(
        "checkpoint-whole",
        (train("v.contiguous() for k, v", "v.half().float().contiguous() for k, v"),),
        "artifacts",
    ),
    "checkpoint-of-the-start": Planted(
        "checkpoint-whole",
        (
            train(
                "def write_tensors(directory: Path, model: nn.Module,",
                "FIRST: dict[str, Tensor] = {}\n\n\ndef write_tensors(directory: Path, model: nn.Module,",
            ),
            train(
                "save_file({k: v.contiguous() for k, v in unique_state(model).items()}",
                "FIRST.update({k: v.clone() for k, v in unique_state(model).items()} if not FIRST else {})\n    save_file({k: v.contiguous() for k, v in FIRST.items()}",
            ),
        ),
        "ARIS: checkpoint not from this training",
    ),
    "tensors-missing": Planted(
        "checkpoint-whole",
        (
            train(
                "for k, v in unique_state(model).items()}",
                'for k, v in unique_state(model).items() if "norm_2" not in k}',
            ),
        ),
        "artifacts: missing tensors",
    ),
    "val-tampered-with": Planted(
        "files-untouched",
        (
            train(
                "            self.write_samples()\n            self.commit",
                "            next(self.config.data.glob('val-*.bin')).write_bytes(bytes(8))\n            self.write_samples()\n            self.commit",
            ),
        ),
        "RewardHackingAgents: evaluation data overwritten",
    ),
    "evaluator-tampered-with": Planted(
        "files-untouched",
        (
            train(
                "            self.write_samples()\n            self.commit",
                "            (HERE / 'eval.py').write_text('print(0)')\n            self.write_samples()\n            self.commit",
            ),
        ),
        "RewardHackingAgents: evaluator tampering",
    ),
}

SOUND: dict[str, tuple[tuple[tuple[str, str, str], ...], dict[str, Any]]] = {
    "as-it-is": ((), {}),
    "bf16": ((BF16,), {"precision": "bf16"}),
    "loss-outside-the-model": ((NO_LOSS,), {}),
    "loss-outside-the-model-bf16": ((NO_LOSS, BF16), {"precision": "bf16"}),
    "dropout": ((DROPOUT,), {}),
    "sgd-by-name": (
        (
            train(ADAMW, "return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)"),
            train("    weight_decay: float\n", "    weight_decay: float\n    optimizer: str\n"),
        ),
        {"optimizer": "sgd"},
    ),
    "adam-without-decay": (
        (
            train(
                ADAMW, "return torch.optim.Adam(groups, config.learning_rate, (config.beta1, config.beta2))"
            ),
        ),
        {"weight_decay": 0.0},
    ),
    "adam-not-fused": ((train("fused=True", "foreach=True"),), {}),
    "no-accumulation": ((), {"accumulation": 1, "micro_batch": 16}),
    "one-window": ((), {"micro_batch": 1, "accumulation": 4}),
    "linear-schedule": ((), {"schedule": "linear"}),
    "constant-without-warm-up": ((), {"schedule": "constant", "warmup_steps": 0}),
    "high-learning-rate": ((), {"learning_rate": 0.03}),
    "in-order": (
        (train("random.permutation(self.windows_per_epoch)", "np.arange(self.windows_per_epoch)"),),
        {},
    ),
    "with-replacement": (
        (
            train(
                "random.permutation(self.windows_per_epoch)",
                "random.integers(0, self.windows_per_epoch, self.windows_per_epoch)",
            ),
        ),
        {},
    ),
    "frozen-embeddings": (
        (("model.py", TIE, f"{TIE}\n        self.positions.weight.requires_grad_(False)"),),
        {},
    ),
    "frozen-by-train-py": (
        (
            train(BUILD, f"{BUILD}".replace("Stepper(build_model()", "Stepper(frozen(build_model())")),
            train(
                "class Trainer:",
                "def frozen(model):\n    model.positions.weight.requires_grad_(False)\n    return model\n\n\nclass Trainer:",
            ),
            train("    weight_decay: float\n", "    weight_decay: float\n    freeze: str\n"),
        ),
        {"freeze": "positions"},
    ),
    "own-update": (COUNTS, {}),
    "auxiliary-loss": (
        (
            (
                "model.py",
                "return cross_entropy, cross_entropy",
                "return cross_entropy + 1e-2 * self.embed_tokens.weight.square().mean(), cross_entropy",
            ),
        ),
        {},
    ),
    "compiled": ((), {"compile": True}),
    "zero-grad-before-backward": (
        (
            train("self.optimizer.zero_grad(set_to_none=True)", "pass"),
            train(
                "            self._accelerator.backward(",
                "            if not losses:\n                self.optimizer.zero_grad()\n            self._accelerator.backward(",
            ),
        ),
        {},
    ),
    "average-of-weights-kept": (
        (
            train(
                "                self._after_step()\n",
                "                self._after_step()\n                self.average = [0.9 * a + 0.1 * p.detach() for a, p in zip(getattr(self, 'average', self.model.parameters()), self.model.parameters())]\n",
            ),
        ),
        {},
    ),
    "untied": ((("model.py", TIE, "pass"),), {}),
    "batch-of-data-read-ahead": (
        (train(WINDOWS, f"(self.sampler.windows(self.state.cursor + 64, 2), {WINDOWS})[1]"),),
        {},
    ),
    "schedule-counted-from-one": (
        (
            train(
                "learning_rate_at(self.state.step, self.config) * self",
                "learning_rate_at(self.state.step + 1, self.config) * self",
            ),
        ),
        {},
    ),
    "evaluated-in-bf16": (
        (
            BF16,
            evaluation(
                "            logits = logits_of(model(input_ids)).flatten(0, 1).float()",
                "            with torch.autocast('cpu', dtype=torch.bfloat16):\n                logits = logits_of(model(input_ids)).flatten(0, 1).float()",
            ),
        ),
        {},
    ),
    "no-clipping-planned": ((), {"grad_clip": 1e9}),
}
