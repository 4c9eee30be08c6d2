"""``data/`` of the classifiers and regressors: scikit-learn's tables and images, and labelled stories."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_intern_cli.access import HubAccess
from ml_intern_cli.data.stories import generate
from ml_intern_cli.data.tokenizers import fit_tokenizer
from ml_intern_cli.documents.manifest import Split

SHARES = {"train": 0.6, "val": 0.15, "heldout": 0.25}
CANCER_MALIGNANT = 70  # kept of the 212, beside 357 benign rows
VOCAB_SIZE = 512
TEXT_LENGTH = 48  # tokens
TEXT_ROWS = 2000
PLOTS = {  # the phrase that a plot's first sentence always has
    "journey": r"\brode\b",
    "birthday": r"\bfor (?:his|her) birthday\b",
    "seed": r"\bseed\b",
    "noise": r"\bheard\b",
    "warning": r"\bDo not\b",
    "meeting": r"\bmet\b",
}


def build_digits(data_dir: Path) -> None:
    """1,797 handwritten digits of 8 × 8 pixels from 0 to 16, ten classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    write_rows(
        data_dir,
        inputs=bunch.images[:, None].astype(np.float32),
        targets=bunch.target.astype(np.int64),
        classes=[str(digit) for digit in range(10)],
        source="scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
        url="https://archive.ics.uci.edu/dataset/80",
        target="the digit",
        scaling_axes=(0, 1, 2, 3),
    )


def build_wine(data_dir: Path) -> None:
    """178 wines of three growers, 13 chemical measurements."""
    from sklearn.datasets import load_wine

    bunch = load_wine()
    write_rows(
        data_dir,
        inputs=bunch.data.astype(np.float32),
        targets=bunch.target.astype(np.int64),
        classes=["first", "second", "third"],
        source="scikit-learn load_wine (UCI Wine)",
        url="https://archive.ics.uci.edu/dataset/109",
        target="the grower",
    )


def build_cancer(data_dir: Path) -> None:
    """427 breast tumours, 30 measurements, one malignant in six."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    malignant = np.flatnonzero(bunch.target == 0)[:CANCER_MALIGNANT]
    kept = np.sort(np.concatenate([malignant, np.flatnonzero(bunch.target == 1)]))
    write_rows(
        data_dir,
        inputs=bunch.data[kept].astype(np.float32),
        targets=1 - bunch.target[kept].astype(np.int64),
        classes=["benign", "malignant"],
        source="scikit-learn load_breast_cancer (UCI Breast Cancer Wisconsin), malignant rows thinned out",
        url="https://archive.ics.uci.edu/dataset/17",
        target="the diagnosis",
    )


def build_cells(data_dir: Path) -> None:
    """569 breast tumours: the worst fractal dimension of a cell, from the means of ten measurements."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = list(bunch.feature_names)
    write_rows(
        data_dir,
        inputs=bunch.data[:, :10].astype(np.float32),
        targets=bunch.data[:, names.index("worst fractal dimension")].astype(np.float32),
        classes=None,
        source="scikit-learn load_breast_cancer (UCI Breast Cancer Wisconsin)",
        url="https://archive.ics.uci.edu/dataset/17",
        target="worst fractal dimension",
    )


def build_diabetes(data_dir: Path) -> None:
    """442 patients, ten measurements: progression of the disease after a year."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    write_rows(
        data_dir,
        inputs=bunch.data.astype(np.float32),
        targets=bunch.target.astype(np.float32),
        classes=None,
        source="scikit-learn load_diabetes (Efron et al., Least Angle Regression, 2004)",
        url="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        license_name="not stated",
        target="progression after one year",
    )


def build_texts(data_dir: Path) -> None:
    """Sentences of generated stories, padded token ids; the class is the plot that they tell."""
    texts, labels = _labelled_texts()
    fit_tokenizer(
        _Texts(texts),
        data_dir,
        vocab_size=VOCAB_SIZE,
        hub_id=None,
        hub=HubAccess(offline=True),
        progress=lambda *_: None,
    )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(data_dir / "tokenizer" / "tokenizer.json"))
    pad_id = tokenizer.get_vocab_size()
    inputs = np.full((len(texts), TEXT_LENGTH), pad_id, dtype=np.int64)
    for row, encoding in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
        ids = encoding.ids[:TEXT_LENGTH]
        inputs[row, : len(ids)] = ids
    write_rows(
        data_dir,
        inputs=inputs,
        targets=labels,
        classes=list(PLOTS),
        source="builtin:stories, sentences of seed 5",
        url=None,
        license_name="Apache-2.0",
        target="the plot",
        vocab_size=pad_id + 1,
        pad_id=pad_id,
    )


def _labelled_texts() -> tuple[list[str], NDArray[np.int64]]:
    """The sentence that gives the plot away, and sometimes the next one; no text twice."""
    random = np.random.default_rng(5)
    texts: dict[str, int] = {}
    index = 0
    while len(texts) < TEXT_ROWS:
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", generate(5, index).text)
        index += 1
        for label, phrase in enumerate(PLOTS.values()):
            places = [place for place, text in enumerate(sentences) if re.search(phrase, text)]
            if places:
                text = " ".join(sentences[places[0] : places[0] + 1 + int(random.integers(2))])
                texts.setdefault(text, label)
                break
    return list(texts), np.array(list(texts.values()), dtype=np.int64)


class _Texts:
    """What a tokenizer is trained on."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts[: int(SHARES["train"] * len(texts))]

    def documents(self, split: Split) -> list[str]:
        """The training part, whatever is asked for."""
        del split
        return self._texts


def write_rows(
    data_dir: Path,
    *,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    classes: list[str] | None,
    source: str,
    url: str | None,
    target: str,
    license_name: str = "CC-BY-4.0",
    vocab_size: int | None = None,
    pad_id: int | None = None,
    scaling_axes: tuple[int, ...] = (0,),
) -> None:
    """The arrays of three random splits, and manifest.json."""
    data_dir.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(11).permutation(len(targets))
    cuts = (np.cumsum([SHARES[split] for split in ("train", "val")]) * len(targets)).astype(int)
    splits = dict(zip(SHARES, np.split(order, cuts), strict=True))
    train = inputs[splits["train"]].astype(np.float64)
    scaling = None
    if inputs.dtype == np.float32:
        std = train.std(scaling_axes, keepdims=True)[0]
        scaling = {
            "mean": train.mean(scaling_axes, keepdims=True)[0].tolist(),
            "std": np.where(std > 0, std, 1.0).tolist(),
            "fitted_on": "train",
        }
    train_targets = targets[splits["train"]].astype(np.float64)
    manifest = {
        "task": "classification" if classes else "regression",
        "source": source,
        "license": license_name,
        "url": url,
        "inputs": {
            "dtype": str(inputs.dtype),
            "shape": list(inputs.shape[1:]),
            "vocab_size": vocab_size,
            "pad_id": pad_id,
        },
        "target": target,
        "classes": classes,
        "splits": {
            name: write_split(data_dir, name, inputs[rows], targets[rows]) for name, rows in splits.items()
        },
        "scaling": scaling,
        "target_scaling": None
        if classes
        else {"mean": float(train_targets.mean()), "std": float(train_targets.std())},
    }
    (data_dir / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def write_split(data_dir: Path, name: str, inputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
    """Two arrays and what the manifest says of them."""
    entry: dict[str, Any] = {"rows": len(targets)}
    for part, array in (("inputs", inputs), ("targets", targets)):
        file = data_dir / f"{name}-{part}.npy"
        np.save(file, array)
        entry[part] = {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    return entry


def read_split(data_dir: Path, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The inputs and targets of a split, in memory."""
    return np.load(data_dir / f"{name}-inputs.npy"), np.load(data_dir / f"{name}-targets.npy")


def replace_split(data_dir: Path, name: str, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
    """Writes a split again and brings the manifest in line, as a program that prepares data would."""
    manifest = json.loads((data_dir / "manifest.json").read_text())
    manifest["splits"][name] = write_split(data_dir, name, inputs, targets)
    (data_dir / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def copy_data(source: Path, target: Path) -> None:
    """A copy that may be damaged."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
