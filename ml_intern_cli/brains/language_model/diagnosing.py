"""Why a path failed, where the fixed rules know no fix: read from its code and logs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field as Limits

from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Step
from ml_intern_cli.brains.language_model.prompting import prompt
from ml_intern_cli.brains.protocol import Diagnosis, Evidence
from ml_intern_cli.brains.tools.files import file_tools
from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.logs import log_tools
from ml_intern_cli.brains.tools.tool import Arguments, ToolFailed

_HAND_IN = "hand_in_diagnosis"


class Found(Arguments):
    """The cause and the fix."""

    symptom: str = Limits(min_length=5, description="what the files show")
    root_cause: str = Limits(min_length=5, description="the one thing that explains it, with file and line")
    fix: str = Limits(min_length=5, description="the concrete change of code, or why there is none")
    fixable: bool = Limits(description="whether a change of the path's code can fix it")
    probe: str | None = Limits(default=None, description="the probe or check that failed, by its name")


def diagnose_with(agent: Agent, evidence: Evidence, by_rules: Diagnosis) -> Diagnosis:
    """The diagnosis; what the rules call the cause stays its name."""
    failed = failed_checks(evidence)

    def accept(given: Found, _: Sequence[Step]) -> Diagnosis:
        if failed and given.probe not in failed:
            raise ToolFailed(f"probe: must be one that failed: {', '.join(failed)}")
        return Diagnosis(
            cause=by_rules.cause,
            symptom=given.symptom,
            root_cause=given.root_cause,
            fix=given.fix,
            changes={},
            probe=given.probe,
            rewrite=given.fixable,
        )

    folder = Folder(evidence.folder)
    return agent.work(
        Job(
            stage=f"diagnose {evidence.path.id}",
            system=prompt("system", finish=_HAND_IN),
            task=prompt(
                "diagnose",
                path=evidence.path,
                failed_stage=evidence.failed_stage,
                probes=list(failed.values()),
                exit_code=evidence.exit_code,
                before=evidence.before,
                stderr_tail=evidence.stderr_tail,
                log_tail=evidence.log_tail,
                rules=f"{by_rules.cause}: {by_rules.root_cause}",
            ),
            tools=(*file_tools(folder, writable=False), *log_tools(folder, None)),
            finish=Finish(
                name=_HAND_IN, description="Hand in the diagnosis.", arguments=Found, accept=accept
            ),
        )
    )


def failed_checks(evidence: Evidence) -> dict[str, str]:
    """What failed, by name, with what was measured."""
    if evidence.failed_stage == "smoke" and evidence.smoke is not None:
        return {
            one.name: f"{one.name}: measured {one.measured}, allowed {one.threshold}. {one.detail}".strip()
            for one in evidence.smoke.probes
            if one.failed
        }
    if evidence.failed_stage == "verify" and evidence.verify is not None:
        return {name: f"{name}: fail: {reason}" for name, reason in evidence.verify.failures.items()}
    return {}
