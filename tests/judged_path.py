"""What the judge's tests work on: a small corpus, a small model, and a training loop, all real."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ml_intern_cli.documents.manifest import Manifest, Shard, Split, SplitInfo, TokenizerInfo
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.judge.artifact import Artifact, count_parameters, load_checkpoint, stored_tensors
from ml_intern_cli.judge.verify import verify

MODELS = Path(__file__).parent / "unit" / "judge" / "models"
SEQ_LEN, MICRO_BATCH = 64, 16
NAMES = ["Tom", "Lily", "Ben", "Sue", "Max", "Anna", "Jack", "Mia"]
ANIMALS = ["dog", "cat", "bird", "frog", "fox", "duck", "bear", "mouse"]
PLACES = ["park", "forest", "garden", "river", "house", "school", "beach", "farm"]
THINGS = ["ball", "book", "cake", "flower", "boat", "kite", "hat", "stone", "shell", "drum"]
MOODS = ["happy", "sad", "tired", "brave", "hungry", "proud", "quiet", "kind"]
COLOURS = ["red", "blue", "green", "yellow", "small", "big", "shiny", "old"]


def story(chance: random.Random) -> str:
    """A short story about one child, one animal, one thing."""
    name, animal, place = chance.choice(NAMES), chance.choice(ANIMALS), chance.choice(PLACES)
    thing, colour = chance.choice(THINGS), chance.choice(COLOURS)
    middle = [
        f"{name} saw a {colour} {thing} near the {chance.choice(PLACES)}.",
        f"The {animal} wanted to play with the {thing}.",
        f'"Look at my {colour} {thing}," said {name}.',
        f"They walked to the {place} and felt very {chance.choice(MOODS)}.",
        f"{name} gave the {thing} to the {animal}.",
        f"The {animal} ran to the {chance.choice(PLACES)} to find a {chance.choice(THINGS)}.",
    ]
    chance.shuffle(middle)
    opening = chance.choice(
        [
            f"Once upon a time, {name} had a {animal}.",
            f"The {animal} lived in the {place} with {name}.",
            f"One day, {name} went to the {place} with a {animal}.",
        ]
    )
    return " ".join([opening, *middle[:4], f"In the end, {name} was {chance.choice(MOODS)}."])


def write_corpus(directory: Path, *, vocab_size: int = 512) -> Path:
    """``data/`` of a run: about 300k training tokens of stories."""
    chance = random.Random(0)
    stories = list(dict.fromkeys(story(chance) for _ in range(5_000)))
    texts = {Split.VAL: stories[:250], Split.HELDOUT: stories[250:500], Split.TRAIN: stories[500:]}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[Split.TRAIN], trainer)
    (directory / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    splits = {}
    for split, documents in texts.items():
        ids = [token for text in documents for token in [*tokenizer.encode(text).ids, 0]]
        content = np.array(ids, dtype="<u2").tobytes()
        (directory / f"{split}-00000.bin").write_bytes(content)
        shard = Shard(name=f"{split}-00000.bin", tokens=len(ids), sha256=hashlib.sha256(content).hexdigest())
        splits[split] = SplitInfo(
            shards=(shard,), documents=len(documents), tokens=len(ids), text_bytes=sum(map(len, documents))
        )
    manifest = Manifest(
        source="test",
        revision="0",
        column=None,
        license="CC0",
        url=None,
        tokenizer=TokenizerInfo(
            source="test", revision=None, vocab_size=tokenizer.get_vocab_size(), eos_token_id=0, sha256="0"
        ),
        dtype="uint16",
        splits=splits,
        unigram_loss=4.0,
        loss_floor=None,
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return directory


def write_path(directory: Path, *edits: tuple[str, str], **config: object) -> Path:
    """``path-a/`` with the sound model, or with a defect planted by replacing text in it."""
    path = directory / "path-a"
    path.mkdir(parents=True)
    source = (MODELS / "mini_gpt.py").read_text()
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        source = source.replace(old, new)
    (path / "model.py").write_text(source)
    (path / "config.json").write_text(json.dumps({"_model_class": "MiniGPT", "model_type": "mini", **config}))
    (path / "train_config.json").write_text(
        json.dumps({"seq_len": SEQ_LEN, "micro_batch": MICRO_BATCH, "accumulation": 1})
    )
    return path


def train(path: Path, data: Path, *, steps: int) -> int:
    """Trains ``path-a/`` as train.py would and leaves the same files; returns the parameter count."""
    model = Artifact(path).build(seed=0)
    tokens = torch.from_numpy(np.fromfile(data / "train-00000.bin", dtype="<u2").astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 4), pct_start=0.1)
    log, metrics = [], []
    order = torch.randperm((len(tokens) - 1) // SEQ_LEN, generator=torch.Generator().manual_seed(0))
    for step in range(1, steps + 1):
        chosen = order[torch.arange((step - 1) * MICRO_BATCH, step * MICRO_BATCH) % len(order)]
        batch = torch.stack([tokens[i * SEQ_LEN : i * SEQ_LEN + SEQ_LEN + 1] for i in chosen.tolist()])
        loss, _ = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        consumed = step * MICRO_BATCH * SEQ_LEN
        log.append(f"step={step} loss={loss.item():.4f}")
        metrics.append({"step": step, "loss": loss.item(), "tokens": consumed})
    val = torch.from_numpy(np.fromfile(data / "val-00000.bin", dtype="<u2").astype(np.int64))
    windows = val[: (len(val) - 1) // SEQ_LEN * SEQ_LEN + 1].unfold(0, SEQ_LEN + 1, SEQ_LEN)
    with torch.inference_mode():
        eval_loss = model.eval().loss(windows[:, :-1], windows[:, 1:])[0].item()
    metrics.append({"step": steps, "eval_loss": eval_loss, "eval_tokens": len(windows) * SEQ_LEN})
    write_records(path, log=log, metrics=metrics, step=steps, eval_loss=eval_loss)
    save_file(stored_tensors(model), path / "ckpts" / f"step-{steps:08}" / "model.safetensors")
    return count_parameters(model)


def write_records(path: Path, *, log: list[str], metrics: list[dict], step: int, eval_loss: float) -> None:
    """The files beside a checkpoint."""
    name = f"step-{step:08}"
    (path / "ckpts" / name).mkdir(parents=True, exist_ok=True)
    (path / "train.log").write_text("".join(f"{line}\n" for line in log))
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in metrics))
    (path / "train.stderr").write_text("")
    consumed = step * MICRO_BATCH * SEQ_LEN
    (path / "ckpts" / name / "state.json").write_text(
        json.dumps({"step": step, "cursor": step * MICRO_BATCH})
    )
    (path / "ckpts" / "last.json").write_text(
        json.dumps({"step": step, "dir": name, "status": "done", "tokens": consumed})
    )
    (path / "ckpts" / "best.json").write_text(json.dumps({"step": step, "dir": name, "eval_loss": eval_loss}))


def judge(path: Path, data: Path, *, params: int, planned_tokens: int) -> Verify:
    """The judge's verdict, without a process of its own."""
    return verify(
        path,
        data_dir=data,
        planned_tokens=planned_tokens,
        target_params=params,
        seed=0,
        progress=lambda _: None,
    )


def copy_run(run: Path, directory: Path) -> Path:
    """A copy of a trained path for a test to damage; the data stay where they are."""
    return Path(shutil.copytree(run, directory / run.name))


def load(path: Path) -> None:
    """Builds the path's model and puts its best checkpoint into it."""
    artifact = Artifact(path)
    load_checkpoint(artifact, artifact.build(seed=0))
