"""What the installed libraries really offer: signature, documentation or source of any importable name."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from ml_intern_cli.brains.protocol import Workbench
from ml_intern_cli.brains.tools.output import Outputs
from ml_intern_cli.brains.tools.tool import Arguments, Tool, ToolFailed, tool

_LIMIT_S = 60.0
_EXIT, _NOT_THERE = 3, "not there: "  # how the program below says that there is no such name

# Importing runs code, so it happens behind the wall.
_PROGRAM = """
import difflib, importlib, inspect, os, sys

sys.path.append(os.getcwd())  # what the path itself defines, after all that is installed
name, what = sys.argv[1:]
parts = name.split(".")
for count in range(len(parts), 0, -1):
    try:
        found = importlib.import_module(".".join(parts[:count]))
        break
    except ModuleNotFoundError as error:
        if error.name is None or not ".".join(parts[:count]).startswith(error.name):
            raise
else:
    print(f"not there: there is no module {parts[0]!r} here")
    sys.exit(3)
for place in range(count, len(parts)):
    if not hasattr(found, parts[place]):
        near = difflib.get_close_matches(parts[place], dir(found), n=5, cutoff=0.5)
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        print(f"not there: {'.'.join(parts[:place])} has no {parts[place]!r}{nearest}")
        sys.exit(3)
    found = getattr(found, parts[place])
version = getattr(sys.modules.get(parts[0]), "__version__", None)
print(f"{name}" + (f" ({parts[0]} {version})" if version else ""))
if what == "source":
    try:
        print(inspect.getsource(found))
    except (OSError, TypeError):
        print("its source is not Python")
        what = "doc"
if what == "signature":
    try:
        print(f"{parts[-1]}{inspect.signature(found)}")
    except (TypeError, ValueError):
        lines = (inspect.getdoc(found) or "no signature and no documentation").splitlines()
        print("\\n".join(lines[:12]))
if what == "doc":
    print(inspect.getdoc(found) or "it has no documentation")
if inspect.ismodule(found) or (inspect.isclass(found) and what == "signature"):
    print("it holds: " + ", ".join(one for one in dir(found) if not one.startswith("_")))
"""


class InspectApi(Arguments):
    """What of what."""

    name: str = Field(
        pattern=r"^[A-Za-z_][\w.]{0,199}$", description="dotted, such as torch.nn.functional.rms_norm"
    )
    what: Literal["signature", "doc", "source"] = "signature"


def inspect_tool(bench: Workbench, outputs: Outputs) -> Tool:
    """``inspect_api`` of a workbench."""

    def inspect_api(given: InspectApi) -> str:
        # Without -P a file of the folder would pass for the library of its name.
        ran = bench.run((sys.executable, "-P", "-c", _PROGRAM, given.name, given.what), limit_s=_LIMIT_S)
        if ran.exit_code == _EXIT and _NOT_THERE in ran.output:
            raise ToolFailed(ran.output.partition(_NOT_THERE)[2].strip())
        if ran.exit_code != 0:
            raise ToolFailed(f"{given.name} cannot be imported:\n{ran.output.strip()[-2000:]}")
        return outputs.bounded(ran.output, name="api")

    return tool(
        "inspect_api",
        "Signature, documentation or source of anything that can be imported here, in the installed version. "
        "Use it before you rely on an argument.",
        InspectApi,
        inspect_api,
        read_only=False,  # it imports, which runs code: one at a time
    )
