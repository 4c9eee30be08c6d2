"""Start the recorder in this interpreter as soon as it has imported torch.

The directory of this file stands first on PYTHONPATH while train.py is rehearsed, so that every Python
process that train.py starts comes by here too. Nothing is imported that the program would not import.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def attach_recorder() -> None:
    """Record this process, which has imported torch."""
    file = Path(__file__).resolve().parent.parent / "recorder.py"
    spec = importlib.util.spec_from_file_location("_rehearsal_recorder", file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the file lies beside this one
    recorder = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = recorder
    spec.loader.exec_module(recorder)
    recorder.attach(Path(os.environ["ML_INTERN_REHEARSAL"]))


class _TorchFinder(PathFinder):
    """Finds torch where it is, and attaches the recorder once it has been executed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN206
        """The ordinary spec of torch, with a loader that attaches the recorder afterwards."""
        if fullname != "torch":
            return None
        sys.meta_path.remove(cls)
        spec = super().find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
                execute(module)
                attach_recorder()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "ML_INTERN_REHEARSAL" in os.environ:
    sys.meta_path.insert(0, _TorchFinder)
