"""What is published of a path: weights, code, tokenizer, card, and everything needed to check them.

Nothing leaves the machine that looks like a credential, and no text names the user's home.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.errors import Blocked, MlInternError, StorageFailed
from ml_intern_cli.hub.card import render_card
from ml_intern_cli.resources import resource
from ml_intern_cli.secrets import find_secrets, scrub

RUN_DOCUMENTS = ("TASK.md", "BUDGET.md", "RESEARCH.md", "PLAN.md", "EXPERIMENTS.md", "RESULTS.md")
PATH_PROGRAMS = ("model.py", "config.json", "train.py", "train_config.json", "eval.py")
PATH_RECORDS = ("SMOKE.md", "VERIFY.md", "train.log", "eval.log", "gen_samples.log", "metrics.jsonl")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL = ("CODE.md", "DEBUG.md")
SESSION = "session.jsonl"
WEIGHTS = "model.safetensors"
CHECKSUMS = "SHA256SUMS"


def build_bundle(
    *,
    run_dir: Path,
    path_dir: Path,
    bundle_dir: Path,
    name: str,
    results: Results,
    verify: Verify,
    plan: Plan,
    task: Task,
    manifest: Manifest,
    host: str | None,
    secrets: tuple[str, ...] = (),
    with_session: bool = False,
) -> None:
    """Write the bundle of the winning path into ``bundle_dir``, in place of what may stand there.

    ``name`` is ``ml-intern-<slug>-<YYYYMMDD-HHMM>``; ``host`` is the machine in words, and ``None``
    leaves it out of the card; ``secrets`` are values that must stand nowhere in it; ``with_session`` adds
    what was said to language models, scrubbed.

    Raises:
        Blocked: a file holds what looks like a credential; all places are named.
        MlInternError: a file is missing, cannot be read, or is not what was trained with.
        StorageFailed: the bundle cannot be written.
    """
    best = _read_pointer(path_dir, "ckpts/best.json", slug=run_dir.name)
    last = _read_pointer(path_dir, "ckpts/last.json", slug=run_dir.name)
    weights = f"ckpts/{Path(str(best['dir'])).name}/{WEIGHTS}"
    _check_weights(path_dir, weights, slug=run_dir.name)
    texts = dict(_read_texts(run_dir, path_dir))
    if with_session and (run_dir / SESSION).is_file():
        session = _read(run_dir, SESSION, slug=run_dir.name)
        texts[SESSION] = (run_dir / SESSION, scrub(session, known=secrets))
    _refuse_secrets(texts, run_dir, known=secrets)
    _check_tokenizer(texts["tokenizer.json"][1], manifest, slug=run_dir.name)
    card = render_card(
        name=name,
        task=task,
        plan=plan,
        manifest=manifest,
        results=results,
        verify=verify,
        best_checkpoint=best,
        elapsed_s=last.get("elapsed_s"),
        host=host,
        is_standard="model_type" in json.loads(texts["config.json"][1]),
    )
    contents = {target: _without_home(text, source, run_dir) for target, (source, text) in texts.items()}
    contents |= {
        "README.md": _without_home(card, Path("README.md"), run_dir),
        "generation_config.json": _generation_config(manifest),
    }
    try:
        if bundle_dir.exists():
            shutil.rmtree(bundle_dir)  # of an attempt that was interrupted
        bundle_dir.mkdir(parents=True)
        for target, text in contents.items():
            (bundle_dir / target).write_text(text, encoding="utf-8", newline="\n")
        leavings.copy(path_dir, weights, bundle_dir / WEIGHTS)
        (bundle_dir / CHECKSUMS).write_text(_checksums(bundle_dir), encoding="utf-8")
    except OSError as error:
        raise StorageFailed(
            f"the bundle cannot be written: {error}",
            hint=f"free some space and run: ml-intern publish {run_dir.name}",
        ) from error


def _read_pointer(path_dir: Path, name: str, *, slug: str) -> dict[str, Any]:
    value = leavings.parse_object(_read(path_dir, name, slug=slug))
    if value is None or "dir" not in value:
        raise MlInternError(
            f"{Path(name).name} names no checkpoint", hint=f"train again: ml-intern run {slug}"
        )
    return value


def _check_weights(path_dir: Path, name: str, *, slug: str) -> None:
    try:
        with leavings.opened(path_dir, name):
            return
    except OSError as error:
        raise _missing(path_dir / name, _reason(error), slug=slug) from error


def _read_texts(run_dir: Path, path_dir: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Name in the bundle, and the file it comes from with its text."""
    slug = run_dir.name
    sources = [(run_dir, name) for name in RUN_DOCUMENTS]
    sources += [(path_dir, name) for name in (*PATH_PROGRAMS, *PATH_RECORDS)]
    sources += [(run_dir / "data" / "tokenizer", name) for name in TOKENIZER]
    sources += [(path_dir, name) for name in OPTIONAL if (path_dir / name).exists()]
    for folder, name in sources:
        yield name, (folder / name, _read(folder, name, slug=slug))
    data = run_dir / "data"
    yield "data_manifest.json", (data / "manifest.json", _read(data, "manifest.json", slug=slug))
    load_test = resource("templates", "load_test.py")
    yield load_test.name, (load_test, load_test.read_text(encoding="utf-8"))


def _read(folder: Path, name: str, *, slug: str) -> str:
    try:
        return leavings.read_text(folder, name)
    except (OSError, UnicodeDecodeError) as error:
        raise _missing(folder / name, _reason(error), slug=slug) from error


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, leavings.Refused):
        return str(error.strerror)
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"


def _missing(path: Path, reason: str, *, slug: str) -> MlInternError:
    return MlInternError(
        f"{path.parent.name}/{path.name} {reason}; a publication needs it",
        hint=f"see which stage writes it: ml-intern status {slug}",
    )


def _check_tokenizer(text: str, manifest: Manifest, *, slug: str) -> None:
    if hashlib.sha256(text.encode()).hexdigest() != manifest.tokenizer.sha256:
        raise MlInternError(
            "data/tokenizer/tokenizer.json is not the tokenizer that the model was trained with",
            hint=f"bring it back, or delete data/ and run: ml-intern run {slug}",
        )


def _checksums(bundle_dir: Path) -> str:
    """Of every file, as ``sha256sum`` writes and checks them."""
    lines = []
    for path in sorted(bundle_dir.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)


def _refuse_secrets(texts: dict[str, tuple[Path, str]], run_dir: Path, *, known: tuple[str, ...]) -> None:
    places = [
        f"{source.relative_to(run_dir)}:{finding.line} ({finding.kind})"
        for source, text in texts.values()
        if source.is_relative_to(run_dir)
        for finding in find_secrets(text, known=known)
    ]
    if places:
        raise Blocked(
            "publish",
            why=f"what would be published looks as if it held credentials: {', '.join(places)}",
            ways_on=(f"remove them from these files, then: ml-intern publish {run_dir.name}",),
        )


def _without_home(text: str, source: Path, run_dir: Path) -> str:
    """Documents and logs without the run's and the user's directory; programs stay as they ran."""
    if source.suffix not in {".md", ".log", ".jsonl"} and source.name != "manifest.json":
        return text
    for directory, shown in ((run_dir.resolve(), "."), (run_dir, "."), (Path.home(), "~")):
        if directory != Path(directory.anchor):
            text = re.sub(rf"{re.escape(str(directory))}(?![\w.-])", shown, text)
    return text


def _generation_config(manifest: Manifest) -> str:
    """Where generation stops, for transformers."""
    eos = manifest.tokenizer.eos_token_id
    return json.dumps({"eos_token_id": eos, "pad_token_id": eos}, indent=2) + "\n"
