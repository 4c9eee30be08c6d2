"""Audit: the judge alone, on a directory that need not be one of this program's runs.

Nothing in the directory is written to, and nothing of it runs in this process: the judge is started behind
the same wall as in a run, with a limit on its time and memory, and answers with a file.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents import leavings
from ml_intern_cli.documents.audit import Audit, AuditKind
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.errors import Blocked, InvalidInput
from ml_intern_cli.executors.foreign import foreign_code
from ml_intern_cli.executors.process import Executor, Finished, Job
from ml_intern_cli.executors.walls import Openings, Wall
from ml_intern_cli.runs.audit_subject import CheckpointSubject, PathSubject, read_text, subject_of
from ml_intern_cli.runs.reporter import Reporter
from ml_intern_cli.stages.base import Progress
from ml_intern_cli.stages.judging import how_it_ended
from ml_intern_cli.stages.programs import tail_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_intern_cli.documents.smoke import Smoke
    from ml_intern_cli.documents.verify import Verify

_PROGRESS = re.compile(r"(?P<done>\d+)/(?P<total>\d+) (?P<what>.+)")  # as the judge writes it
_LIMIT_S = 600.0
_LIMIT_S_PER_PARAM = 1.2e-5  # twenty minutes more per 100M parameters
_GRACE_S = 1.0  # the judge has nothing to save


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What the user asks for.

    Attributes:
        directory: A checkpoint or a path.
        text: That the model was not trained on; a path brings its own data.
        data: Of a path; ``None``: the run's.
        claims: ``eval_loss`` or ``perplexity`` → the claimed value.
        context: Tokens per window; ``None``: what config.json says.
        limit_s: On the judge's time; ``None``: by the number of parameters.
    """

    directory: Path
    text: Path | None
    data: Path | None = None
    train_text: Path | None = None
    claims: dict[str, float]
    context: int | None = None
    limit_s: float | None = None
    trust_remote_code: bool = False
    allow_unsandboxed: bool = False


def audit(request: AuditRequest, executor: Executor, reporter: Reporter) -> Audit:
    """Judge a directory.

    Raises:
        InvalidInput: the directory is nothing that can be judged, or the text cannot be used.
        Blocked: code would have to run that the user has not allowed.
    """
    subject = subject_of(request.directory, data=request.data)
    with tempfile.TemporaryDirectory(prefix="ml-intern-audit-") as folder:
        judge = _Judge(request, executor, reporter, Path(folder).resolve())
        if isinstance(subject, PathSubject):
            return _audit_path(subject, judge)
        return _audit_checkpoint(subject, judge)


def _audit_checkpoint(subject: CheckpointSubject, judge: _Judge) -> Audit:
    request = judge.request
    if request.text is None:
        raise InvalidInput(
            "a checkpoint is judged by a text that it was not trained on",
            hint=f"ml-intern audit {request.directory} --text FILE",
        )
    if subject.code and not request.trust_remote_code:
        raise Blocked(
            f"{request.directory} brings code of its own",
            why=f"{', '.join(subject.code)} would have to run to load the model",
            ways_on=(f"read it, and allow it: ml-intern audit {request.directory} --trust-remote-code …",),
        )
    if subject.code:
        judge.require_consent((request.directory,))
    subject.require_memory()
    text = read_text(request.text, option="--text")
    (judge.scratch / "text.txt").write_text(text.content, encoding="utf-8")
    arguments = ["--dir", str(subject.directory), "--text", str(judge.scratch / "text.txt")]
    arguments += ["--text-name", text.name, "--claims", json.dumps(request.claims)]
    if request.train_text is not None:
        train = read_text(request.train_text, option="--train-text")
        (judge.scratch / "train.txt").write_text(train.content, encoding="utf-8")
        arguments += ["--train-text", str(judge.scratch / "train.txt")]
    if request.context is not None:
        arguments += ["--context", str(request.context)]
    if request.trust_remote_code:
        arguments += ["--trust-remote-code"]
    with judge.told() as ended:
        answer = judge.run(
            "audit", "ml_intern_cli.judge.audit", *arguments, readable=subject.readable, params=subject.params
        )
        found = (
            Audit.model_validate_json(answer.text)
            if answer.text is not None
            else Audit(
                subject=str(subject.directory),
                kind=AuditKind.CAUSAL_LM,
                architecture=subject.architecture or "not named",
                text=text.name,
                seconds=answer.finished.seconds,
                probes=(answer.failure(),),
            )
        )
        ended.audit = found
    return found


def _audit_path(subject: PathSubject, judge: _Judge) -> Audit:
    from ml_intern_cli.documents.smoke import Smoke
    from ml_intern_cli.documents.verify import Verify

    judge.require_consent((subject.directory, subject.data))
    shared = ["--path", str(subject.directory), "--data", str(subject.data)]
    shared += ["--target-params", str(subject.target_params)]
    planned = ["--planned-tokens", str(subject.planned_tokens), "--seed", str(subject.seed)]
    readable = (subject.directory, subject.data)
    module = "ml_intern_cli.judge"
    with judge.told() as ended:
        before = judge.run("smoke", module, "smoke", *shared, readable=readable, params=subject.target_params)
        after = judge.run(
            "verify", module, "verify", *shared, *planned, readable=readable, params=subject.target_params
        )
        smoke = None if before.text is None else Smoke.model_validate_json(before.text)
        verify = None if after.text is None else Verify.model_validate_json(after.text)
        probes = (before.failure("smoke-answered"),) if smoke is None else smoke.probes
        probes += (after.failure("verify-answered"),) if verify is None else _as_probes(verify)
        ended.audit = Audit(
            subject=str(subject.directory),
            kind=AuditKind.PATH,
            architecture=subject.model_class,
            params=_params(smoke, verify),
            text=f"{subject.data}, the held-out split",
            loss=None if verify is None else verify.final_eval_loss,
            seconds=before.finished.seconds + after.finished.seconds,
            probes=probes,
        )
    return ended.audit


def _params(smoke: Smoke | None, verify: Verify | None) -> int | None:
    return (verify.actual_params if verify else 0) or (smoke.params if smoke else None)


_BLAMED = {
    "Generation samples": "ckpts/best.json",
    "Loss sanity": "ckpts/best.json",
    "Eval tracks train": "ckpts/best.json",
    "Data consumption": "metrics.jsonl",
    "Stderr scan": "train.stderr",
    "Param count": "config.json",
}
"""What each check of VERIFY.md is about."""


def _as_probes(verify: Verify) -> tuple[ProbeResult, ...]:
    """The six checks as probes, then the probes of VERIFY.md."""
    checks = tuple(
        ProbeResult(
            name=f"verify-{title.lower().replace(' ', '-')}",
            measured=judgement.reason,
            threshold="as said with the measured value",
            verdict=judgement.verdict,
            component=_BLAMED[title] if judgement.verdict is Verdict.FAIL else "",
            detail=judgement.reason if judgement.verdict is Verdict.FAIL else "",
        )
        for title, judgement in verify.judgements.items()
    )
    return checks + verify.probes


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a judge left: its answer, if any, and how it ended."""

    text: bytes | None
    finished: Finished
    tail: str

    def failure(self, name: str = "judge-answered") -> ProbeResult:
        """The verdict on what kept the judge from answering."""
        lines = self.tail.splitlines()
        stood = next((line for line in reversed(lines) if _PROGRESS.fullmatch(line)), "before any probe")
        ended = how_it_ended(self.finished)
        last = lines[-1] if lines else "nothing on stderr"
        return ProbeResult(
            name=name,
            measured=ended,
            threshold="all verdicts reached",
            verdict=Verdict.FAIL,
            component=stood.partition(" ")[2] if "/" in stood else stood,
            detail=f"{ended}; last said: {last}",
        )


class _Ended:
    """What came out, once it has."""

    audit: Audit


@dataclass(frozen=True, slots=True)
class _Judge:
    """Starts judges for one request."""

    request: AuditRequest
    executor: Executor
    reporter: Reporter
    scratch: Path

    def require_consent(self, folders: tuple[Path, ...]) -> None:
        """Raises Blocked where foreign code would run with the user's rights, unasked."""
        if self.executor.wall is not Wall.NONE or self.request.allow_unsandboxed:
            return
        argv = (sys.executable, "-m", "ml_intern_cli.judge", *map(str, folders))
        code = foreign_code(argv, cwd=self.scratch, root=self.request.directory.resolve())
        if code:
            raise Blocked(
                "code that is not shipped may not run here",
                why=f"{code[0].name} is not one of the shipped programs, and no wall stands around it",
                ways_on=(
                    f"read it, and allow it: ml-intern audit {self.request.directory} --allow-unsandboxed …",
                    "install a wall: apt install bubblewrap",
                ),
            )

    @contextmanager
    def told(self) -> Iterator[_Ended]:
        """Tells the reporter that judging began, and how it ended."""
        ended = _Ended()
        self.reporter.stage_started("audit", None)
        yield ended
        found = ended.audit
        count = f"{len(found.probes) - len(found.failed)} of {len(found.probes)} probes"
        self.reporter.stage_finished(
            "audit", None, "done" if found.passed else "failed", count, found.seconds, ()
        )

    def run(
        self, action: str, module: str, *arguments: str, readable: tuple[Path, ...], params: int
    ) -> _Answer:
        """Start a judge and wait. Raises InvalidInput: it says that what the user gave cannot be used."""
        out, errors = self.scratch / f"{action}.json", self.scratch / f"{action}.stderr"
        limit_s = self.request.limit_s or _LIMIT_S + params * _LIMIT_S_PER_PARAM
        job = Job(
            argv=(sys.executable, "-m", module, *arguments, "--out", str(out)),
            cwd=self.scratch,
            home=self.scratch / "home",
            limit_s=limit_s,
            grace_s=_GRACE_S,
            stderr=errors,
            openings=Openings(readable=readable, writable=(self.scratch,)),
        )
        finished = self.executor.run(job, on_tick=lambda _: self._report(errors))
        tail = tail_of(errors)
        try:
            text = leavings.read_bytes(self.scratch, out.name)
        except OSError:
            text = None
        if text is None and finished.exit_code == InvalidInput.exit_code:
            *_, message, hint = ("", "", *tail.splitlines()[-2:])
            raise InvalidInput(message, hint=hint or None)
        return _Answer(text, finished, tail)

    def _report(self, errors: Path) -> None:
        line = _PROGRESS.fullmatch(tail_of(errors, lines=1))
        if line is not None:
            done, total = int(line["done"]), int(line["total"])
            self.reporter.progress(Progress(stage="audit", what=line["what"], done=done, total=total))
