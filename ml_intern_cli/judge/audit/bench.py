"""The audit's bench: a checkpoint loaded once as its own library loads it, and a text to drive it with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ml_intern_cli.frames import explain
from ml_intern_cli.judge.artifact import Unusable, count_parameters, judge_device
from ml_intern_cli.judge.audit.files import Files
from ml_intern_cli.judge.audit.text import TokenText
from ml_intern_cli.judge.evaluation import token_losses

if TYPE_CHECKING:
    import torch

    from ml_intern_cli.judge.corpus import Tokens

T = TypeVar("T")

_MOST_CONTEXT = 512  # tokens per window, where the checkpoint allows as many or says nothing
_MOST_PROBED = 96  # tokens of a sequence in probes of connections
_LOGITS_PER_BATCH = 1 << 24  # 64 MiB in fp32
_ROWS_PER_BATCH = 16
_WORK = 4e11  # parameters x tokens of one pass over the text: seconds at 1M, a minute at 100M on two cores
_LEAST_TOKENS, _MOST_TOKENS = 2_000, 100_000
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about a checkpoint.

    Attributes:
        text: That the model was not trained on.
        train_text: That it was trained on, where that is known.
        claims: ``eval_loss`` or ``perplexity`` → the claimed value.
        context: Tokens per window; ``None``: what config.json says, at most 512.
        trust_remote_code: Whether code that lies in the checkpoint may run.
        scratch: Where files may be written.
    """

    text: str
    train_text: str | None
    claims: dict[str, float]
    context: int | None
    trust_remote_code: bool
    scratch: Path
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in fp32 and eval mode, and what did not fit when it was loaded, by name."""

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # "name has shape [..], the model has [..]"
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Losses:
    """Cross-entropies of windows, in nats per token."""

    per_window: torch.Tensor  # (N,) float64
    tokens: int

    @property
    def mean(self) -> float:
        """Over all tokens."""
        return float(self.per_window.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread between windows."""
        count = len(self.per_window)
        return float(self.per_window.std()) / count**0.5 if count > 1 else 1.0


class AuditBench:
    """One audit. Everything is made at most once, the first time a probe asks for it."""

    def __init__(self, files: Files, question: Question) -> None:
        self.files = files
        self.question = question
        self._made: dict[str, object] = {}
        self._broken: dict[str, Unusable] = {}

    # What the checkpoint is

    @property
    def tokenizer(self) -> Any:
        """As transformers loads it. Raises Unusable."""
        return self.once("tokenizer", self._load_tokenizer)

    @property
    def loaded(self) -> Loaded:
        """The model with what did not fit. Raises Unusable: it cannot be built or loaded at all."""
        return self.once("loaded", self._load_model)

    @property
    def model(self) -> Any:
        """In fp32 and eval mode. Raises Unusable."""
        return self.loaded.model

    @property
    def text(self) -> TokenText:
        """In the checkpoint's own tokens. Raises Unusable, and InvalidInput when it is too short."""
        return self.once("text", self._read_text)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Made once, whether that works out or not."""
        if name in self._broken:
            raise self._broken[name]
        if name not in self._made:
            try:
                self._made[name] = make()
            except Unusable as error:
                self._broken[name] = error
                raise
        return cast("T", self._made[name])

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with self.foreign_code("loading the tokenizer"):
            return AutoTokenizer.from_pretrained(
                self.files.directory,
                local_files_only=True,
                trust_remote_code=self.question.trust_remote_code,
            )

    def _load_model(self) -> Loaded:
        import torch

        model, found = self.load(self.files.directory, torch.float32)
        shapes = [
            f"{name} has shape {list(stored)}, the model has {list(own)}"
            for name, stored, own in sorted(found["mismatched_keys"])
        ]
        return Loaded(
            model=model,
            missing=tuple(sorted(found["missing_keys"])),
            unexpected=tuple(sorted(found["unexpected_keys"])),
            mismatched=tuple(shapes),
            errors=tuple(map(str, found["error_msgs"])),
        )

    def load(self, directory: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
        """A model from disk in eval mode, and transformers' account of what fitted. Raises Unusable."""
        from transformers import AutoModelForCausalLM

        with self.foreign_code("loading the model"):
            model, found = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=self.question.trust_remote_code,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            return model.to(judge_device()).eval(), found

    def _read_text(self) -> TokenText:
        return TokenText.of(self.question.text, self.tokenizer, vocab_size=self.vocab_size)

    @cached_property
    def vocab_size(self) -> int:
        """Columns of the logits. Raises Unusable."""
        import torch

        return int(self.logits(torch.zeros(1, 1, dtype=torch.int64)).shape[-1])

    @cached_property
    def params(self) -> int:
        """Parameters, tied ones once. Raises Unusable."""
        return count_parameters(self.model)

    @cached_property
    def context(self) -> int:
        """Tokens per window."""
        declared = [self.files.config.get(field) for field in _CONTEXT_FIELDS]
        most = min([_MOST_CONTEXT, *(one for one in declared if isinstance(one, int) and one > 0)])
        return min(self.question.context or most, max(8, len(self.text) // 16))

    @cached_property
    def budget_tokens(self) -> int:
        """How many tokens one pass over the text may take."""
        return int(max(_LEAST_TOKENS, min(_MOST_TOKENS, _WORK / max(1, self.params))))

    # What it computes

    @contextmanager
    def foreign_code(self, doing: str) -> Iterator[None]:
        """Turns whatever the judged code raises, ``sys.exit`` included, into Unusable."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are the checkpoint's own affair
                yield
        except Unusable:
            raise
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            raise Unusable(f"{doing} raised {self.describe(error)}") from error

    def describe(self, error: BaseException) -> str:
        """One line, with the failing line of code where it is the checkpoint's own."""
        text = " ".join(str(error).split())[:300]
        _, *frames = explain(error, root=self.question.scratch).splitlines() or [""]
        place = f" ({' '.join(frames[0].split())[:200]})" if frames and frames[0].startswith("  ") else ""
        return f"{type(error).__name__}: {text}{place}"

    def logits(self, input_ids: torch.Tensor, *, model: Any = None, **arguments: Any) -> torch.Tensor:
        """Logits ``(B, T, V)`` in fp32 of ids ``(B, T)``. Raises Unusable."""
        return self.forward(input_ids, model=model, **arguments)[0]

    def forward(
        self, input_ids: torch.Tensor, *, model: Any = None, use_cache: bool = False, **arguments: Any
    ) -> tuple[torch.Tensor, Any]:
        """Logits ``(B, T, V)`` in fp32, and the whole output. Raises Unusable."""
        import torch

        model = self.model if model is None else model
        with self.foreign_code(f"forward of ids {tuple(input_ids.shape)}"), torch.inference_mode():
            output = model(input_ids=input_ids.to(judge_device()), use_cache=use_cache, **arguments)
            logits = output.logits
        if not isinstance(logits, torch.Tensor) or logits.shape[:2] != input_ids.shape:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise Unusable(f"forward of ids {tuple(input_ids.shape)} returned logits {shape}")
        if "attention_mask" not in arguments and not bool(torch.isfinite(logits).all()):
            raise Unusable("the logits are not finite")  # behind a mask, what is hidden may be
        return logits.float(), output

    def losses(self, windows: Tokens, *, model: Any = None, shift: int = 1) -> Losses:
        """Cross-entropy of windows ``(N, T + 1)`` against the token ``shift`` later. Raises Unusable."""
        import torch

        if not len(windows):
            raise Unusable("the text is shorter than one window")
        length = windows.shape[1]
        rows = max(1, min(_ROWS_PER_BATCH, _LOGITS_PER_BATCH // (length * self.vocab_size)))
        means, tokens = [], 0
        for start in range(0, len(windows), rows):
            batch = torch.from_numpy(windows[start : start + rows])
            logits = self.logits(batch[:, :-1], model=model)
            inputs, targets = _aligned(logits, batch.to(logits.device), shift)
            means.append(token_losses(inputs, targets).double().mean(dim=1).cpu())
            tokens += targets.numel()
        return Losses(torch.cat(means), tokens)

    @cached_property
    def windows(self) -> Tokens:
        """What the loss is computed on, all over the text: ``(N, context + 1)``."""
        return self.text.windows(self.context, limit=max(8, self.budget_tokens // self.context))

    @cached_property
    def few_windows(self) -> Tokens:
        """An eighth of them at most, for probes that compare variants of the model."""
        most = max(8, min(64, self.budget_tokens // self.context // 8))
        return self.text.windows(self.context, limit=most)

    @cached_property
    def text_losses(self) -> Losses:
        """Of the model as it is. Raises Unusable."""
        return self.losses(self.windows)

    @cached_property
    def few_losses(self) -> Losses:
        """Of the model as it is, on the few windows. Raises Unusable."""
        return self.losses(self.few_windows)

    def probed_ids(self, batch: int) -> torch.Tensor:
        """Rows of the text ``(batch, T)``, short enough to be run many times."""
        import torch

        length = min(self.context, _MOST_PROBED)
        windows = self.text.windows(length, limit=batch)
        if len(windows) < batch:
            raise Unusable(f"the text has fewer than {batch} windows of {length} tokens")
        return torch.from_numpy(windows[:, :-1])

    def other_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens of the same shape that differ everywhere."""
        import torch

        generator = torch.Generator().manual_seed(self.question.seed)
        moved = torch.randint(1, self.vocab_size, ids.shape, generator=generator)
        return (ids + moved) % self.vocab_size


def _aligned(logits: torch.Tensor, ids: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(B, S, V)`` and the tokens ``(B, S)`` that stand ``shift`` after their inputs."""
    length = logits.shape[1]
    first, last = max(0, -shift), min(length, ids.shape[1] - shift)
    return logits[:, first:last], ids[:, first + shift : last + shift]
