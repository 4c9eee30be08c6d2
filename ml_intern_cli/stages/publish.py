"""publish: the winner's bundle → a folder or the Hub, and PUBLISHED.md once its load test has passed.

Reads only what passed verification. Stops (Blocked) without a token for the Hub. The load test runs
in a fresh process; on the Hub, on what was downloaded again.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents.layout import (
    BEST_CHECKPOINT,
    MANIFEST,
    PLAN,
    PUBLISHED,
    RESULTS,
    TASK,
    VERIFY,
    RunLayout,
    path_folder,
)
from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.model import PublishTarget
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.published import Published
from ml_intern_cli.documents.results import Results
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.errors import Blocked, InvalidInput, MlInternError
from ml_intern_cli.stages.base import Check, Progress, Ref, Stage, StageContext, StageResult, read_document
from ml_intern_cli.stages.programs import tail_of

if TYPE_CHECKING:
    from ml_intern_cli.hub.publish import Publication

FOLDER = "published"
_LOAD_TEST_S = 900.0
_NAME = re.compile(r"ml-intern-[a-z0-9._-]+-\d{8}-\d{4}")


def run(context: StageContext) -> StageResult:
    """Bundle the winner, put it where the task says, test it there."""
    from ml_intern_cli.hub.bundle import build_bundle

    task, plan, results = context.read(Task, TASK), context.read(Plan, PLAN), context.read(Results, RESULTS)
    winner = results.winner
    assert winner is not None, "skipped without a winner"  # noqa: S101, an invariant
    verify = context.read(Verify, f"{path_folder(winner)}/{VERIFY}")
    if not verify.passed:
        raise InvalidInput(
            f"path {winner} is named the winner, but did not pass verification: {verify.first_failure}",
            hint=f"ml-intern report {context.layout.slug}",
        )
    if task.publish is PublishTarget.HUB:
        _ask_for_consent(context)
    recalled = context.memory.recall("name")
    # What stands there may have come with the run from somebody else: it names a folder, and no other one.
    is_ours = recalled is not None and _NAME.fullmatch(recalled)
    name = (
        recalled if recalled and is_ours else f"ml-intern-{context.layout.slug}-{context.now():%Y%m%d-%H%M}"
    )
    context.memory.remember("name", name)
    bundle = context.scratch / "bundle"
    manifest = context.layout.document(MANIFEST).read_text(encoding="utf-8")
    build_bundle(
        run_dir=context.layout.root,
        path_dir=context.layout.path(winner),
        bundle_dir=bundle,
        name=name,
        results=results,
        verify=verify,
        plan=plan,
        task=task,
        manifest=Manifest.model_validate_json(manifest),
        secrets=context.secrets,
        with_session=context.with_session,
        host=f"{platform.system()} {platform.machine()}",
    )
    publication = _publish(context, task.publish, bundle, name)
    published = Published(
        target=task.publish,
        name=publication.name,
        location=_relative(publication.location, context.layout),
        revision=publication.revision,
        path=winner,
        load_test=publication.load_test,
        published_at=context.now().isoformat(timespec="seconds"),
    )
    loss = next((row.final_loss for row in results.rows if row.path_id == winner), None)
    return StageResult(
        summary=f"{published.location} · load test passed",
        documents={PUBLISHED: published},
        notify=(("published", published.location), ("train_done", f"{loss:.4f} @ {published.location}")),
    )


def _ask_for_consent(context: StageContext) -> None:
    """Somebody at the terminal is asked before anything goes out; otherwise TASK.md has said it."""
    from ml_intern_cli.brains.protocol import Question

    if context.ask is None:
        return
    question = Question(
        name="publish",
        text=f"Publish the winner to {context.hub.address}?",
        default="yes",
        why_default="TASK.md says hub; no keeps it here, and --publish folder makes a bundle of it",
        choices=("yes", "no"),
    )
    if context.ask((question,)).get(question.name, question.default).casefold() not in {"y", "yes"}:
        raise Blocked(
            "publishing to the Hub",
            why="you said no",
            ways_on=(
                f"ml-intern publish {context.layout.slug} --publish folder",
                f"ml-intern publish {context.layout.slug} --yes",
            ),
        )


def _publish(context: StageContext, target: PublishTarget, bundle: Path, name: str) -> Publication:
    from ml_intern_cli.hub.publish import publish_folder, publish_hub

    def load_test(folder: Path) -> str:
        return _load_test(context, folder)

    if target is PublishTarget.FOLDER:
        return publish_folder(bundle, parent=context.layout.root / FOLDER, name=name, run_load_test=load_test)
    return publish_hub(
        bundle,
        slug=context.layout.slug,
        name=name,
        hub=context.hub,
        scratch_dir=context.scratch,
        run_load_test=load_test,
        repo_id=context.memory.recall("repo_id"),
        on_created=lambda repo_id: context.memory.remember("repo_id", repo_id),
        report=lambda what: context.report(Progress(stage="publish", what=what)),
    )


def _load_test(context: StageContext, folder: Path) -> str:
    """Run the bundle's load_test.py in a fresh process; its last line."""
    answer = context.scratch / "load_test.out"
    answer.unlink(missing_ok=True)
    finished = context.compute.run(
        (sys.executable, str(folder / "load_test.py")),
        what="load test",
        cwd=folder,
        limit_s=_LOAD_TEST_S,
        stdout=answer,
        reserved=True,
    )
    line = tail_of(answer, lines=1)
    if finished.exit_code != 0:
        raise MlInternError(
            f"the load test of the bundle failed: {line or f'exit code {finished.exit_code}'}",
            hint=f"nothing counts as published; mend the path and run: ml-intern run {context.layout.slug}",
        )
    return line


def _relative(location: str, layout: RunLayout) -> str:
    """A folder below the run as the run sees it, so that a moved run still finds it."""
    path = Path(location)
    return (
        str(path.relative_to(layout.root))
        if path.is_absolute() and path.is_relative_to(layout.root)
        else location
    )


def _skip(layout: RunLayout) -> str | None:
    if read_document(layout, Task, TASK).publish is PublishTarget.NONE:
        return "publish is none in TASK.md"
    if layout.document(RESULTS).is_file() and read_document(layout, Results, RESULTS).winner is None:
        return "no path passed verification"
    return None


def _check(layout: RunLayout, path_id: str | None) -> Check:
    del path_id
    published, task = read_document(layout, Published, PUBLISHED), read_document(layout, Task, TASK)
    if published.target is not task.publish:
        return Check(missing=f"published to {published.target}; TASK.md says {task.publish}")
    if published.target is PublishTarget.FOLDER and not (layout.root / published.location).is_dir():
        return Check(missing=f"{published.location} is gone")
    return Check()


STAGE = Stage(
    name="publish",
    title="bundle the winner, put it out, load it back",
    reads=(Ref(RESULTS), Ref(TASK, "publish"), Ref(f"path-*/{BEST_CHECKPOINT}")),
    writes=(PUBLISHED,),
    run=run,
    check=_check,
    skip=_skip,
)
