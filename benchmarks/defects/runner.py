"""One case from its folder to its row: smoke, training, verify, harm. Everything is kept by content.

The judge is called as the stages call it, in a process of its own. A training is kept by the hash of what
went into it, a judgement by that and the hash of the judge, so a killed benchmark goes on where it was and
a change of the judge repeats no training.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.defects.baselines import traincheck
from benchmarks.defects.case import Case, Clean, Defect, Folder, Program, copy_folder
from benchmarks.defects.processes import REPOSITORY, Ended, Stopped, run
from benchmarks.defects.verdicts import Failure, read_failures

SMOKE_LIMIT_S, TRAIN_LIMIT_S, VERIFY_LIMIT_S, SCORE_LIMIT_S = 240.0, 400.0, 300.0, 120.0
_OTHER_SEED = 11  # of the clean runs too, so it costs nothing
_BUILDING = threading.Lock()
_PACKAGE = REPOSITORY / "ml_intern_cli"
_JUDGE = ("judge", "documents", "frames", "quantities.py", "errors.py", "resources.py")


@dataclass(slots=True)
class Workplace:
    """The output folder, and one lock per thing that is made once."""

    out: Path
    traincheck: str = ""  # an interpreter that has it; empty: it is not run
    _locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def once(self, target: Path, make: Callable[[Path], None]) -> Path:
        """Makes a file or folder unless it is there; it appears whole or not at all."""
        with self._guard:
            lock = self._locks[str(target)]
        with lock:
            if not target.exists():
                aside = target.with_name(f".{target.name}.aside")
                shutil.rmtree(aside, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                make(aside)
                aside.rename(target)
        return target

    def data(self, program: Program) -> Path:
        """The data of a program, built once."""

        def make(aside: Path) -> None:
            aside.mkdir()
            program.build_data(aside)

        # What builds the data is code of this benchmark and of the package: another code, another folder.
        maker = Path(inspect.getfile(inspect.unwrap(program.build_data)))
        code = [maker, Path(__file__).with_name("easy_stories.py"), *(_PACKAGE / "data").glob("*.*")]
        key = _hash_files(code)
        return self.once(self.out / "data" / f"{program.data}-{key[:12]}", make)

    def healthy(self, program: Program) -> Path:
        """The healthy path's files, untrained."""

        def make(aside: Path) -> None:
            aside.mkdir()
            for name, text in program.files().items():
                (aside / name).write_text(text, encoding="utf-8")

        key = _hash(json.dumps(program.files(), sort_keys=True))
        return self.once(self.out / "healthy" / f"{program.name}-{key[:12]}" / "path-a", make)


def run_case(
    case: Case, place: Workplace, *, known: dict[str, str], judged: bool, compared: bool
) -> dict[str, Any] | None:
    """The row of a case, or None when ``known`` (case → key) says that it would be the same again.

    Args:
        case: What to run.
        place: Where.
        known: Keys of the rows that are there.
        judged: False trains and scores only.
        compared: Whether the baselines are run too.
    """
    root = place.out / "work" / case.id.replace("/", "--")
    shutil.rmtree(root, ignore_errors=True)
    folder = Folder(root, case.program.name)
    try:
        healthy = place.healthy(case.program)
        copy_folder(healthy, folder.path)
        copy_folder(place.data(case.program), folder.data)
        case.change.plant(folder)
        return _Run(case, place, folder, healthy).row(known, judged=judged, compared=compared)
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _Run:
    """One case that is planted."""

    def __init__(self, case: Case, place: Workplace, folder: Folder, healthy: Path) -> None:
        self.case, self.place, self.folder = case, place, folder
        change = case.change
        self.planned = folder.path if isinstance(change, Clean) and change.replan else healthy
        self.interrupt = isinstance(change, Clean) and change.interrupt
        self.stderr = change.stderr if isinstance(change, Clean) else ""
        self.trained_with = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.path.glob("*.*")
        }
        self.content = _hash(
            _hash_tree(folder.path), _hash_tree(folder.data), repr(self.interrupt), self.stderr
        )

    def row(self, known: dict[str, str], *, judged: bool, compared: bool) -> dict[str, Any] | None:
        """Everything that is measured of the case."""
        change = self.case.change
        how = repr((compared, bool(self.place.traincheck)))
        key = _hash(self.content, judge_hash() if judged else "", _code_of(change), score_hash(), how)
        if known.get(self.case.id) == key:
            return None
        started = time.monotonic()
        row: dict[str, Any] = {
            "case": self.case.id,
            "key": key,
            "program": self.case.program.name,
            "half": str(self.case.program.half),
            "change": change.name,
            "is_defect": self.case.is_defect,
        }
        if isinstance(change, Defect):
            row |= {"family": str(change.family), "spans": self.folder.spans}
        if judged:
            row["smoke"] = self.smoke()
        row["train"] = self.train()
        if change.after:
            self.folder.other_run = lambda: train_sound(self.case.program, self.place, seed=_OTHER_SEED)
            change.after(self.folder)
        if isinstance(change, Defect):
            row |= self.harm(change)
        else:
            row["score"] = self.score()
        if compared:
            row["baselines"] = self.baselines()
            if self.place.traincheck and self.case.program.task == "language":
                row["baselines"][traincheck.NAME] = self.traincheck()
        if judged and not row["smoke"]["failures"] and row["train"]["ended"]:
            row["verify"] = self.verify()
        row["seconds"] = round(time.monotonic() - started, 1)
        return row

    # --- judging

    def smoke(self) -> dict[str, Any]:
        """The judge on the untrained path."""
        name = f"{_hash(self.content, judge_hash())}.json"
        made = self.place.once(self.place.out / "smokes" / name, lambda aside: self._judge("smoke", aside))
        answer: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
        return answer

    def verify(self) -> dict[str, Any]:
        """The judge on the trained path, as it is now."""
        key = _hash(self.content, _hash_tree(self.folder.path), _hash_tree(self.folder.data), judge_hash())
        made = self.place.once(
            self.place.out / "verifies" / f"{key}.json", lambda aside: self._judge("verify", aside)
        )
        answer: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
        return answer

    def _judge(self, action: str, out: Path) -> None:
        """Runs the judge and writes what it found to ``out``."""
        root = self.folder.root
        answer = root / f"{action}.json"
        told = self.told(action)
        ended = run(
            "-m", "ml_intern_cli.judge", action,
            "--path", str(self.folder.path), "--data", str(self.folder.data), "--out", str(answer), *told,
            cwd=_made(root / "scratch"),
            limit_s=SMOKE_LIMIT_S if action == "smoke" else VERIFY_LIMIT_S,
        )  # fmt: skip
        failures = read_failures(answer) if answer.exists() else [_no_answer(ended)]
        found = {"failures": [one.json() for one in failures], "seconds": round(ended.seconds, 1)}
        out.write_text(json.dumps(found), encoding="utf-8")
        answer.unlink(missing_ok=True)

    def told(self, action: str) -> list[str]:
        """What the judge is told of the plan and, after training, of the files that training began with."""
        with _BUILDING:  # it may build the model, and a module has one name
            arguments = self.case.program.judge_arguments(self.planned, action)
        if action == "smoke" or self.case.program.task != "language":
            return arguments
        known = [f"{name}={digest}" for name, digest in self.trained_with.items()]
        return [*arguments, *(part for one in known for part in ("--sha256", one))]

    def baselines(self) -> dict[str, Any]:
        """What the baselines object to in the finished path."""
        key = _hash(_hash_tree(self.folder.path), _hash_tree(self.folder.data), baseline_hash())
        made = self.place.once(self.place.out / "baselines" / f"{key}.json", self._compare)
        answer: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
        return answer

    def _compare(self, out: Path) -> None:
        answer = self.folder.root / "baselines.json"
        told = self.told("verify")
        target, planned = (told[told.index(name) + 1] for name in ("--target-params", "--planned-tokens"))
        run(
            "-m", "benchmarks.defects.baselines",
            str(self.folder.path), str(self.folder.data), target, planned, str(answer),
            cwd=_made(self.folder.root / "scratch"),
            limit_s=SCORE_LIMIT_S,
        )  # fmt: skip
        out.write_text(answer.read_text() if answer.exists() else "{}", encoding="utf-8")
        answer.unlink(missing_ok=True)

    def traincheck(self) -> dict[str, Any]:
        """The invariants of healthy trainings that the first steps of this one violate."""
        program, python = self.case.program, self.place.traincheck
        scratch = self.folder.root / "traincheck"

        def infer(out: Path) -> None:
            runs = [train_sound(program, self.place, seed=seed) for seed in (None, _OTHER_SEED)]
            data = self.place.data(program)
            traincheck.infer([(path, data) for path in runs], _made(scratch / "infer"), out, python=python)

        def check(out: Path) -> None:
            data, work = self.folder.data, _made(scratch / "check")
            found = traincheck.check(self.folder.path, data, invariants, work, python=python)
            out.write_text(json.dumps(found), encoding="utf-8")

        invariants = self.place.once(self.place.out / "traincheck" / f"{program.name}.json", infer)
        made = self.place.once(self.place.out / "traincheck" / f"{self.content}.json", check)
        return {"alarms": json.loads(made.read_text(encoding="utf-8")), "categories": []}

    # --- training

    def train(self) -> dict[str, Any]:
        """Trains, or takes what the same training left; then the path is the trained one."""
        kept = self.place.once(self.place.out / "trained" / self.content[:32], self._train)
        shutil.rmtree(self.folder.path)
        shutil.copytree(kept / "path-a", self.folder.path)
        ended: dict[str, Any] = json.loads((kept / "ended.json").read_text(encoding="utf-8"))
        return ended

    def _train(self, out: Path) -> None:
        """``python train.py`` as the stage runs it; the held-out files are out of reach, as by the wall."""
        path, aside = self.folder.path, _made(self.folder.root / "judge-only")
        for file in self.folder.data.glob("heldout-*"):
            file.rename(aside / file.name)
        log = path / "train.stderr"
        program = ("-m", "ml_intern_cli.frames", "train.py")
        seconds, limit_s = 0.0, TRAIN_LIMIT_S
        if self.interrupt:
            first = run(
                *program, cwd=path, limit_s=limit_s, stderr=log, stop_when=path / "ckpts" / "last.json"
            )
            seconds = first.seconds
        ended = run(*program, cwd=path, limit_s=limit_s, stderr=log)
        if self.stderr:
            log.write_text(log.read_text(encoding="utf-8") + self.stderr, encoding="utf-8")
        for file in aside.iterdir():
            file.rename(self.folder.data / file.name)
        _forget_caches(path)
        if _was_terminated(path):
            raise Stopped(f"the training of {self.case.id} was stopped")
        out.mkdir()
        shutil.copytree(path, out / "path-a")
        is_over = ended.code == 0 and (path / "ckpts" / "best.json").is_file()
        row = {
            "ended": is_over,
            "code": ended.code,
            "seconds": round(seconds + ended.seconds, 1),
            "tail": "" if is_over else ended.stderr[-400:],
        }
        (out / "ended.json").write_text(json.dumps(row), encoding="utf-8")

    # --- harm

    def harm(self, defect: Defect) -> dict[str, Any]:
        """The held-out score, and what the defect's claim says and what is so."""
        found: dict[str, Any] = {"score": self.score()}
        if defect.claim:
            sound = self.place.out / "trained" / _sound_content(self.place, self.case.program)[:32] / "path-a"
            try:
                claim = defect.claim(self.folder, sound)
            except (OSError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
                found["claim"] = {
                    "stated": "-",
                    "measured": f"not measured: {error!r}"[:200],
                    "is_false": False,
                }
            else:
                found["claim"] = {
                    "stated": claim.stated,
                    "measured": claim.measured,
                    "is_false": claim.is_false,
                }
        return found

    def score(self) -> float | None:
        """The held-out score; None where the artifact cannot be used."""
        key = _hash(
            _hash_tree(self.folder.path), _hash_tree(self.place.data(self.case.program)), score_hash()
        )
        made = self.place.once(self.place.out / "scores" / f"{key}.json", self._score)
        value: float | None = json.loads(made.read_text(encoding="utf-8"))
        return value

    def _score(self, out: Path) -> None:
        answer = self.folder.root / "score.json"
        run(
            "-m", "benchmarks.defects.score", self.case.program.name,
            str(self.folder.path), str(self.place.data(self.case.program)), str(answer),
            cwd=_made(self.folder.root / "scratch"),
            limit_s=SCORE_LIMIT_S,
        )  # fmt: skip
        out.write_text(answer.read_text() if answer.exists() else "null", encoding="utf-8")
        answer.unlink(missing_ok=True)
        _forget_caches(self.folder.path)


def train_sound(program: Program, place: Workplace, *, seed: int | None = None) -> Path:
    """The healthy path, trained; with another seed where one is given. It is not to be changed."""
    root = place.out / "work" / f"sound-{seed}-{threading.get_ident()}--{program.name}"
    shutil.rmtree(root, ignore_errors=True)
    folder = Folder(root, program.name)
    copy_folder(place.healthy(program), folder.path)
    copy_folder(place.data(program), folder.data)
    if seed is not None:
        folder.set("train_config.json", seed=seed)
    as_is = Clean(name="as-it-is", what="unchanged", programs=(program.name,))
    case = _Run(Case(program, as_is), place, folder, place.healthy(program))
    case.train()
    shutil.rmtree(root, ignore_errors=True)
    return place.out / "trained" / case.content[:32] / "path-a"


@cache
def _sound_content_of(healthy: Path, data: Path) -> str:
    return _hash(_hash_tree(healthy), _hash_tree(data), repr(False), "")


def _sound_content(place: Workplace, program: Program) -> str:
    return _sound_content_of(place.healthy(program), place.data(program))


def _was_terminated(path: Path) -> bool:
    """Whether train.py says that somebody asked it to stop, which this benchmark did not at the end."""
    last = path / "ckpts" / "last.json"
    return last.exists() and '"reason": "terminated"' in last.read_text(errors="replace")


def _no_answer(ended: Ended) -> Failure:
    how = "no answer in time" if ended.code is None else f"exit code {ended.code}"
    last = ended.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
    return Failure(name="judge-answered", category="", component="", told=f"{how}; {last[0]}"[:600])


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _forget_caches(path: Path) -> None:
    for directory in list(path.rglob("__pycache__")):
        shutil.rmtree(directory)


# --- hashes


@cache
def judge_hash() -> str:
    """Of the code that a verdict depends on."""
    files: list[Path] = []
    for name in _JUDGE:
        entry = _PACKAGE / name
        files += sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]
    return _hash_files(files)


@cache
def score_hash() -> str:
    """Of the code that a score depends on."""
    return _hash_files(sorted(Path(__file__).parent.rglob("*score*.py")))


@cache
def baseline_hash() -> str:
    """Of the code of the baselines."""
    return _hash_files(sorted((Path(__file__).parent / "baselines").glob("*.py")))


def _code_of(change: Defect | Clean) -> str:
    """What of a change is not in the files that it made: what is done after training, and how it is read."""
    after = change.after
    parts = [repr(after.__code__.co_code) + repr(after.__code__.co_consts) if after else ""]
    if isinstance(change, Defect):
        parts += [str(change.family), repr(change.component), repr(change.also), str(change.harm)]
        claim = change.claim
        parts += [getattr(claim, "__name__", repr(claim))]
    return _hash(*parts)


def _hash_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _hash_tree(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(directory)}\0{file.stat().st_size}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
