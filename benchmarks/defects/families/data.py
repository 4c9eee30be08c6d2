"""Defects of what is read: labels, windows, order, splits, tokens, padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.defects.case import Claim, Defect, Edit, Family, Folder, Harm
from benchmarks.defects.easy_stories import EasyStories
from benchmarks.defects.families import claims
from benchmarks.defects.families.places import ALL, FOUR
from benchmarks.defects.families.shards import read_ids, replace_tokenizer, write_ids

_DATA = Family.DATA
_LABELS = "self._loss(self.model, micro[:, :-1], micro[:, 1:])"
_WINDOWS = "        return torch.from_numpy(np.stack([self._tokens.window(start, self._seq_len + 1) for start in starts]))\n"
_STACKED = "        windows = np.stack([self._tokens.window(start, self._seq_len + 1) for start in starts])\n"
_LABEL_NAMES = ("labels", "targets", "loss", "window*")
_SAMPLER = ("WindowSampler*", "sampler*", "window*", "train.py:WindowSampler*")
_TRAIN_SHARD = ("train", "data/train*", "train-*.bin", "train-*")


def _train(old: str, new: str) -> tuple[Edit, ...]:
    return (Edit("train.py", old, new),)


def _windows(*lines: str) -> tuple[Edit, ...]:
    """The sampler's windows (N, T + 1), changed by some lines before they are given."""
    body = "".join(f"        {line}\n" for line in lines)
    return _train(_WINDOWS, f"{_STACKED}{body}        return torch.from_numpy(windows)\n")


def _leak(folder: Folder, split: str, times: int) -> None:
    """Puts a split's documents into the training text, as a wrong split would; the manifest agrees."""
    leaked = np.tile(read_ids(folder.data, split), times)
    kept = read_ids(folder.data, "train")[: -len(leaked)]
    half = len(kept) // 2
    half -= int(np.flatnonzero(kept[half::-1] == 0)[0]) - 1  # after the end of a document
    write_ids(folder.data, "train", np.concatenate([kept[:half], leaked, kept[half:]]))


def _corrupt(folder: Folder) -> None:
    """Every second kilobyte of the training text is noise, and the manifest knows nothing of it."""
    ids = read_ids(folder.data, "train").copy()
    noise = np.random.default_rng(0).integers(0, 512, len(ids))
    is_bad = np.arange(len(ids)) // 512 % 2 == 1
    write_ids(folder.data, "train", np.where(is_bad, noise, ids), told=False)


def _without_ends(folder: Folder) -> None:
    """Documents run into each other: no end-of-text token in the training text."""
    ids = read_ids(folder.data, "train")
    write_ids(folder.data, "train", ids[ids != 0])


def _decodes(folder: Folder, sound: Path) -> Claim:
    """The tokenizer is that of the shards: the grammar can write what it decodes."""
    from tokenizers import Tokenizer

    del sound
    tokenizer = Tokenizer.from_file(str(folder.data / "tokenizer" / "tokenizer.json"))
    documents = np.split(read_ids(folder.data, "val"), np.flatnonzero(read_ids(folder.data, "val") == 0) + 1)[
        :20
    ]
    source = EasyStories(seed=0)
    texts = [tokenizer.decode(document[:-1].tolist()) for document in documents]
    readable = sum(source.log_prob(text) > -np.inf for text in texts)
    return Claim(
        stated="the tokenizer is that of the data",
        measured=f"{readable} of {len(texts)} documents decode to stories",
        is_false=readable < len(texts),
    )


def _trained_on(folder: Folder, sound: Path) -> Claim:
    """The manifest's training split is what train.py opens for training."""
    del sound
    opened = (
        "val" if 'tokens = Tokens(data_dir, manifest, split="val")' in folder.read("train.py") else "train"
    )
    return Claim(stated="trained on train", measured=f"trained on {opened}", is_false=opened != "train")


_ALIGNMENT = (
    Defect(
        name="labels-not-shifted",
        family=_DATA,
        what="the target of a token is the token itself",
        source="huggingface/transformers #27517 (labels not shifted)",
        programs=ALL,
        edits=_train(_LABELS, "self._loss(self.model, micro[:, :-1], micro[:, :-1])"),
        component=_LABEL_NAMES,
        also=(Family.TRAINING,),
    ),
    Defect(
        name="labels-shifted-twice",
        family=_DATA,
        what="the target is the token after the next",
        source="huggingface/transformers #47394, #37830 (labels shifted twice)",
        programs=ALL,
        edits=_train(_LABELS, "self._loss(self.model, micro[:, :-2], micro[:, 2:])"),
        component=_LABEL_NAMES,
        also=(Family.TRAINING,),
    ),
    Defect(
        name="labels-shifted-back",
        family=_DATA,
        what="the target is the token before",
        source="huggingface/transformers #27517; TheDeepChecker (wrong labels), arXiv 2204.00694",
        programs=FOUR,
        edits=_train(_LABELS, "self._loss(self.model, micro[:, 1:], micro[:, :-1])"),
        component=_LABEL_NAMES,
        also=(Family.TRAINING,),
    ),
    Defect(
        name="labels-noisy",
        family=_DATA,
        what="two of five targets are random tokens",
        source="DeepCrime (add noise to labels), ISSTA 2021",
        programs=FOUR,
        edits=_train(
            _LABELS,
            "self._loss(self.model, micro[:, :-1], torch.where(torch.rand(micro[:, 1:].shape) < 0.4, "
            "torch.randint_like(micro[:, 1:], 512), micro[:, 1:]))",
        ),
        component=_LABEL_NAMES,
        also=(Family.TRAINING,),
    ),
    Defect(
        name="labels-of-neighbour",
        family=_DATA,
        what="every row has the targets of the row before it",
        source="huggingface/transformers #47394 (targets leak across batch rows); DeepCrime (labels)",
        programs=FOUR,
        edits=_train(_LABELS, "self._loss(self.model, micro[:, :-1], micro.roll(1, 0)[:, 1:])"),
        component=_LABEL_NAMES,
        also=(Family.TRAINING,),
    ),
    Defect(
        name="text-reversed",
        family=_DATA,
        what="windows are read from right to left",
        source="DeepCrime (make training data noisy), ISSTA 2021",
        programs=("gpt2", "llama"),
        edits=_windows("windows = np.ascontiguousarray(windows[:, ::-1])"),
        component=_SAMPLER,
    ),
)

_ORDER = (
    Defect(
        name="one-batch-for-ever",
        family=_DATA,
        what="every step reads the same windows",
        source="fangchangma/sparse-to-dense.pytorch #19 (the same data again); the seed: stream replay",
        programs=ALL,
        edits=_train("for index in range(cursor, cursor + count)]", "for index in range(count)]"),
        component=_SAMPLER,
    ),
    Defect(
        name="stream-replayed",
        family=_DATA,
        what="after 128 windows the stream starts again",
        source="fangchangma/sparse-to-dense.pytorch #19 (the same data again); the seed: stream replay",
        programs=ALL,
        edits=_train(
            "        epoch, position = divmod(index, self.windows_per_epoch)\n",
            "        epoch, position = divmod(index % 128, self.windows_per_epoch)\n",
        ),
        component=_SAMPLER,
    ),
    Defect(
        name="windows-overlap",
        family=_DATA,
        what="starts are not multiplied by the length: windows overlap and cover a sixtieth of the text",
        source="DeepCrime (delete and overlap training data), ISSTA 2021",
        programs=FOUR,
        edits=_train(
            "self._offset + int(self._order[position]) * self._seq_len",
            "self._offset + int(self._order[position])",
        ),
        component=_SAMPLER,
    ),
    Defect(
        name="data-deleted",
        family=_DATA,
        what="only the first two per cent of the text are ever read",
        source="DeepCrime (delete training data), ISSTA 2021",
        programs=FOUR,
        edits=_train("max(0, len(tokens) // seq_len - 1)", "max(0, len(tokens) // seq_len // 50 - 1)"),
        component=_SAMPLER,
    ),
    Defect(
        name="not-shuffled",
        family=_DATA,
        what="windows come in the order of the text",
        source="deepset-ai/FARM #799 (training data is not shuffled)",
        programs=FOUR,
        edits=_train(
            "self._order = random.permutation(self.windows_per_epoch)",
            "self._order = np.arange(self.windows_per_epoch)",
        ),
        component=_SAMPLER,
    ),
)

_CONTENT = (
    Defect(
        name="end-of-text-only",
        family=_DATA,
        what="batches hold nothing but the end-of-text token",
        source="the seed: EOS-only batches",
        programs=ALL,
        edits=_windows("windows = np.zeros_like(windows)"),
        component=_SAMPLER,
    ),
    Defect(
        name="padding-counted",
        family=_DATA,
        what="the second half of every window is padding, and the loss counts it",
        source="TransformerLensOrg/TransformerLens #1607 (padding contributes to the loss)",
        programs=ALL,
        edits=_windows("windows[:, windows.shape[1] // 2 :] = 0"),
        component=_SAMPLER,
    ),
    Defect(
        name="byte-order",
        family=_DATA,
        what="shards are read with the bytes of each token swapped, and folded into the vocabulary",
        source="numpy's documentation of byte order; the manifest says little-endian",
        programs=FOUR,
        edits=(
            Edit("eval.py", '.newbyteorder("<")', '.newbyteorder(">")'),
            Edit(
                "eval.py",
                "np.concatenate(pieces).astype(np.int64)",
                "np.concatenate(pieces).astype(np.int64) % 512",
            ),
        ),
        component=("Tokens*", "eval.py:Tokens*", "dtype", *_SAMPLER),
    ),
    Defect(
        name="tokens-clipped",
        family=_DATA,
        what="tokens are read as bytes: the upper half of the vocabulary never occurs",
        source="DeepCrime (remove portion of training data), ISSTA 2021; a uint8 where uint16 is needed",
        programs=FOUR,
        edits=(
            Edit(
                "eval.py",
                "np.concatenate(pieces).astype(np.int64)",
                "np.concatenate(pieces).astype(np.uint8).astype(np.int64)",
            ),
        ),
        component=("Tokens*", "eval.py:Tokens*", "dtype", *_SAMPLER),
    ),
    Defect(
        name="shard-corrupted",
        family=_DATA,
        what="every second block of the training text is noise",
        source="DeepCrime (make training data noisy), ISSTA 2021",
        programs=FOUR,
        before=_corrupt,
        component=_TRAIN_SHARD,
    ),
    Defect(
        name="documents-without-end",
        family=_DATA,
        what="the training text has no end-of-text tokens",
        source="huggingface/transformers documentation of eos_token; the seed: every document ends with it",
        programs=FOUR,
        before=_without_ends,
        component=(*_TRAIN_SHARD, "eos*"),
    ),
    Defect(
        name="validation-in-training",
        family=_DATA,
        what="the validation documents are part of the training text, many times over",
        source="Kapoor and Narayanan, arXiv 2207.07048 (no clean split); Yang et al., ASE 2022 (overlap)",
        programs=FOUR,
        before=lambda folder: _leak(folder, "val", 8),
        component=(*_TRAIN_SHARD, "val*", "data/val*"),
        harm=Harm.CLAIM,
        claim=claims.disjoint_splits,
    ),
    Defect(
        name="heldout-in-training",
        family=_DATA,
        what="the held-out documents are part of the training text, many times over",
        source="Kapoor and Narayanan, arXiv 2207.07048 (no clean split); RewardHackingAgents (test-set training)",
        programs=FOUR,
        before=lambda folder: _leak(folder, "heldout", 8),
        component=(*_TRAIN_SHARD, "heldout*", "data/heldout*"),
        harm=Harm.CLAIM,
        claim=claims.disjoint_splits,
    ),
    Defect(
        name="trained-on-validation",
        family=_DATA,
        what="train.py opens the validation split for training",
        source="Yang et al., ASE 2022 (overlap of splits)",
        programs=FOUR,
        edits=_train(
            '        tokens = Tokens(data_dir, manifest, split="train")\n        self.sampler',
            '        tokens = Tokens(data_dir, manifest, split="val")\n        self.sampler',
        ),
        component=(*_SAMPLER, "val*", "open_data*"),
        harm=Harm.CLAIM,
        claim=_trained_on,
    ),
    Defect(
        name="tokenizer-of-other-data",
        family=_DATA,
        what="the tokenizer beside the shards is not the one that made them",
        source="huggingface/tokenizers documentation: ids are only valid with their tokenizer",
        programs=FOUR,
        before=lambda folder: replace_tokenizer(folder.data, told=True),
        component=("tokenizer*", "data/tokenizer*"),
        also=(Family.ARTIFACT,),
        harm=Harm.CLAIM,
        claim=_decodes,
    ),
)

DEFECTS: tuple[Defect, ...] = (*_ALIGNMENT, *_ORDER, *_CONTENT)
