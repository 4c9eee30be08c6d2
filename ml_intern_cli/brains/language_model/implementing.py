"""The code of one path: written in its folder, tried behind the walls, handed in when it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import Field as Limits

from ml_intern_cli.brains.agent.loop import Agent, Finish, Job
from ml_intern_cli.brains.agent.session import Step
from ml_intern_cli.brains.language_model.prompting import prompt
from ml_intern_cli.brains.protocol import Implementation, Workbench
from ml_intern_cli.brains.tools.files import file_tools
from ml_intern_cli.brains.tools.folder import Folder
from ml_intern_cli.brains.tools.inspecting import inspect_tool
from ml_intern_cli.brains.tools.logs import log_tools
from ml_intern_cli.brains.tools.output import Outputs
from ml_intern_cli.brains.tools.running import running_tools
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed
from ml_intern_cli.documents.code import Code
from ml_intern_cli.documents.layout import CONFIG, EVAL_PY, MODEL_PY, TRAIN_CONFIG, TRAIN_PY
from ml_intern_cli.documents.plan import PathPlan, Plan
from ml_intern_cli.documents.research import Research
from ml_intern_cli.documents.task import Task

_HAND_IN = "hand_in_code"
_PROGRAMS = (MODEL_PY, TRAIN_PY, EVAL_PY, CONFIG)
_TRANSFORMERS = {"model_type", "architectures"}
_SMALL = 5_000_000  # parameters; below, a step of one width is a percent


class Written(Arguments):
    """The code stands in the folder; this says what it is."""

    summary: str = Limits(
        min_length=10, max_length=400, description="what was built, in one or two sentences"
    )
    left_open: tuple[str, ...] = Limits(
        default=(), description="what of the task it does not do, if anything"
    )


def implement_with(
    agent: Agent,
    path: PathPlan,
    plan: Plan,
    task: Task,
    research: Research,
    bench: Workbench,
    further: tuple[Tool, ...],
) -> Implementation:
    """The programs of the path, and what their author says of them.

    Args:
        agent: Who writes.
        path: What is to be written.
        plan: Its numbers.
        task: What was asked for.
        research: What was found.
        bench: Where it is written and tried.
        further: Tools beside those of the bench.

    Raises:
        Blocked: nothing was written that holds.
    """
    folder = Folder(bench.folder)
    outputs = Outputs(bench.folder, secrets=agent.secrets)
    lay_out(bench)

    def accept(given: Written, _: Sequence[Step]) -> Implementation:
        files = read_programs(folder)
        problems = problems_of(files, bench.start)
        if problems:
            raise ToolFailed("it cannot be taken:\n" + "\n".join(problems))
        code = Code(
            path=path.id,
            author=agent.model.name,
            variant=path.variant,
            approach=path.approach,
            fix=bench.postmortem.fix if bench.postmortem else None,
            summary=given.summary,
            left_open=given.left_open,
        )
        if files[MODEL_PY] != bench.start[MODEL_PY]:
            files |= {CONFIG: _own_config(files[CONFIG])}
        return Implementation(files=files | {TRAIN_CONFIG: bench.start[TRAIN_CONFIG]}, code=code)

    tools = (
        *file_tools(folder, protected=frozenset({TRAIN_CONFIG})),
        *log_tools(folder, outputs),
        *running_tools(bench, outputs),
        inspect_tool(bench, outputs),
    )
    return agent.work(
        Job(
            stage=f"implement {path.id}",
            system=prompt("system", finish=_HAND_IN),
            task=prompt(
                "implement",
                restatement=task.restatement,
                path=path,
                plan=plan,
                findings=research.findings,
                origin=f"of path {path.retry_of}" if path.retry_of else f"of the blueprint {plan.blueprint}",
                postmortem=bench.postmortem,
                tolerance="1 %" if plan.params_target >= _SMALL else "3 %",
                device=device(),
            ),
            tools=(*tools, *further),
            finish=Finish(
                name=_HAND_IN,
                description="Hand in the code as it stands in the folder.",
                arguments=Written,
                accept=accept,
            ),
        )
    )


def lay_out(bench: Workbench) -> None:
    """Put what the work starts from into the folder, but for what is there already from before."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    for name, text in bench.start.items():
        file = bench.folder / name
        if not file.exists():
            file.write_text(text, encoding="utf-8")


def read_programs(folder: Folder) -> dict[str, str]:
    """The files of the path as they stand. Raises ToolFailed."""
    return {name: folder.read(name) for name in _PROGRAMS}


def problems_of(files: Mapping[str, str], start: Mapping[str, str]) -> list[str]:
    """Why these files are no answer: they do not compile, name no model, or are what they were before."""
    problems = []
    for name, text in files.items():
        if name.endswith(".py"):
            try:
                compile(text, name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                problems.append(f"{name}: does not compile: {error}")
    try:
        config = json.loads(files[CONFIG])
        if not isinstance(config, dict) or not isinstance(config.get("_model_class"), str):
            problems.append(f"{CONFIG}: has no _model_class")
    except ValueError as error:
        problems.append(f"{CONFIG}: is not JSON: {error}")
    if all(files[name] == start.get(name) for name in files):
        problems.append("nothing was changed: the folder holds what you were given to start from")
    elif files[MODEL_PY] == start.get(MODEL_PY) and files[TRAIN_PY] == start.get(TRAIN_PY):
        problems.append(f"{MODEL_PY} and {TRAIN_PY} are as they were given; other numbers are no other model")
    return problems


def _own_config(text: str) -> str:
    """The configuration without the blueprint's claim that transformers can load the model as its own."""
    config = {name: value for name, value in json.loads(text).items() if name not in _TRANSFORMERS}
    return json.dumps(config, indent=2) + "\n"


def device() -> str:
    """What the code will run on, in words."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "a CPU"
