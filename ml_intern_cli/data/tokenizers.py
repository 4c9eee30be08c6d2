"""The tokenizer of a run: the blueprint's from the Hub, or a byte-level BPE of the run's own data."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_intern_cli.access import ANSWER_TIMEOUT_S, HubAccess, bound_answers, within
from ml_intern_cli.data.corpus import TextSource
from ml_intern_cli.documents.manifest import Split, TokenizerInfo
from ml_intern_cli.errors import InvalidInput, MlInternError, StorageFailed
from ml_intern_cli.secrets import scrub

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""

TRAINED_HERE = "byte-level BPE trained on the training part"
TOKENIZER_DIR = "tokenizer"
_EOS = "<|endoftext|>"
_ALPHABET_SIZE = 256
_SAMPLE_BYTES_PER_ENTRY = 2_000
_SAMPLE_BYTES_MAX = 20_000_000
_DOWNLOAD_S = 120.0  # for the few megabytes of a tokenizer


class TokenizerUnavailable(MlInternError):
    """The tokenizer cannot be had from the Hub; one trained on the data can take its place."""


def fit_tokenizer(
    source: TextSource,
    data_dir: Path,
    *,
    vocab_size: int,
    hub_id: str | None,
    hub: HubAccess,
    progress: Progress,
) -> TokenizerInfo:
    """Puts tokenizer.json and tokenizer_config.json into ``data_dir/tokenizer``.

    Args:
        source: What a tokenizer of its own is trained on; only the training split is read.
        data_dir: The run's data directory.
        vocab_size: Upper bound on the entries of a tokenizer of its own, the end-of-text token included. A
            small corpus gives fewer.
        hub_id: Take this tokenizer from the Hub instead.
        hub: How to reach the Hub.
        progress: Called with the bytes read so far.

    Raises:
        TokenizerUnavailable: ``hub_id`` is given and cannot be had.
        InvalidInput: ``vocab_size`` is below that of the byte alphabet.
    """
    directory = data_dir / TOKENIZER_DIR
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"{directory} cannot be made: {error.strerror}") from error
    if hub_id is not None:
        revision = _download(hub_id, directory, hub)
        return _describe(directory, source=hub_id, revision=revision)
    _train(source, directory, vocab_size=vocab_size, progress=progress)
    return _describe(directory, source=TRAINED_HERE, revision=None)


def _train(source: TextSource, directory: Path, *, vocab_size: int, progress: Progress) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size <= _ALPHABET_SIZE:
        raise InvalidInput(
            f"a vocabulary of {vocab_size} is too small for {_ALPHABET_SIZE} bytes and the end-of-text token",
            hint="ask for more parameters with --params",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample_bytes = min(_SAMPLE_BYTES_MAX, vocab_size * _SAMPLE_BYTES_PER_ENTRY)
    tokenizer.train_from_iterator(_sample(source, sample_bytes, progress), trainer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _EOS,
        "clean_up_tokenization_spaces": False,
    }
    _write(directory / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    _write(directory / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")


def _sample(source: TextSource, size_bytes: int, progress: Progress) -> Iterator[str]:
    """Training documents until they hold ``size_bytes``."""
    done = 0
    for text in source.documents(Split.TRAIN):
        yield text
        done += len(text.encode())
        progress(min(done, size_bytes), size_bytes, "reading text for the tokenizer")
        if done >= size_bytes:
            return


def _download(hub_id: str, directory: Path, hub: HubAccess) -> str:
    """Copies the two files of a Hub tokenizer at its current commit, and returns the commit."""
    if hub.offline:
        raise TokenizerUnavailable(f"tokenizer {hub_id}: the Hub is switched off (HF_HUB_OFFLINE)")
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint, token=hub.token or False)

    def download() -> str:
        bound_answers()
        revision = str(api.model_info(hub_id, timeout=ANSWER_TIMEOUT_S).sha)
        for name in ("tokenizer_config.json", "tokenizer.json"):
            cached = api.hf_hub_download(hub_id, name, revision=revision, cache_dir=hub.cache_dir)
            shutil.copyfile(cached, directory / name)
        return revision

    try:
        return within(_DOWNLOAD_S, download)
    except Exception as error:  # whatever a broken Hub makes the library raise, the data have a tokenizer
        reason = scrub(str(error), known=[hub.token]).strip().splitlines() or [type(error).__name__]
        raise TokenizerUnavailable(f"tokenizer {hub_id} cannot be had: {reason[0]}") from error


def _describe(directory: Path, *, source: str, revision: str | None) -> TokenizerInfo:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
    except (OSError, ValueError) as error:
        raise TokenizerUnavailable(f"tokenizer {source} cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise TokenizerUnavailable(f"tokenizer {source} has no end-of-text token")
    return TokenizerInfo(
        source=source,
        revision=revision,
        vocab_size=1 + max(tokenizer.get_vocab().values()),
        eos_token_id=tokenizer.eos_token_id,
        sha256=hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest(),
    )


def _write(path: Path, text: str) -> None:
    """Writes aside and renames, so that the file is never half there."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error
