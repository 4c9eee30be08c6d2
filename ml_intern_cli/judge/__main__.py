"""``python -m ml_intern_cli.judge smoke|verify``: one judgement of one path, written as JSON.

Exit code 0: a verdict was reached, whichever it is. 2: the arguments or the data cannot be used.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ml_intern_cli.documents.assessment import Assessment
from ml_intern_cli.documents.smoke import Smoke
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.errors import InvalidInput, MlInternError
from ml_intern_cli.judge.confinement.limits import hide_memory

_OF_SHA256 = 64  # hexadecimal digits


def main(argv: list[str] | None = None) -> int:
    """Runs one judgement; progress goes to stderr."""
    arguments = _parser().parse_args(argv)
    try:
        _judge(arguments)
    except MlInternError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        sys.stderr.write(f"{error.message}{hint}\n")
        return error.exit_code
    return 0


def _judge(arguments: argparse.Namespace) -> None:
    path_dir: Path = arguments.path.resolve()
    if not path_dir.is_dir():
        raise InvalidInput(f"{path_dir} is not a directory")
    # A file of the path must not pass for a library: `python -m` puts the working directory first.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != path_dir]

    hide_memory()
    import torch

    from ml_intern_cli.judge import supervised
    from ml_intern_cli.judge.smoke import smoke
    from ml_intern_cli.judge.verify import verify

    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    judgement: Smoke | Verify | Assessment
    if supervised.is_supervised(arguments.data):
        judgement = supervised.judge(
            path_dir,
            data_dir=arguments.data,
            target_params=arguments.target_params,
            planned_rows=getattr(arguments, "planned_tokens", None),
            seed=getattr(arguments, "seed", 0),
            progress=_progress,
        )
    elif arguments.target_params is None:
        raise InvalidInput("--target-params is required for a language model")
    elif arguments.command == "smoke":
        judgement = smoke(
            path_dir,
            data_dir=arguments.data,
            target_params=arguments.target_params,
            progress=_progress,
            scratch=arguments.out.resolve().parent,
        )
    else:
        judgement = verify(
            path_dir,
            data_dir=arguments.data,
            planned_tokens=arguments.planned_tokens,
            target_params=arguments.target_params,
            seed=arguments.seed,
            progress=_progress,
            limit_s=arguments.limit_s,
            num_threads=arguments.num_threads,
            before=dict(arguments.sha256),
            train_s=arguments.train_s,
        )
    _write(arguments.out, judgement.model_dump_json(indent=2) + "\n")


def _progress(line: str) -> None:
    """Say what is being done; whoever started the judge follows its stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _write(file: Path, text: str) -> None:
    """Writes aside and renames, so that a verdict is there whole or not at all."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def _positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, not {value}")
    return value


def _file_and_sha256(text: str) -> tuple[str, str]:
    """``eval.py=9f86…``."""
    file, separator, digest = text.partition("=")
    if not (file and separator and len(digest) == _OF_SHA256):
        raise argparse.ArgumentTypeError(f"must be FILE=SHA256, not {text}")
    return file, digest


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--path", type=Path, required=True, help="the path's directory, path-<id>/")
    shared.add_argument("--data", type=Path, required=True, help="the run's data/ directory")
    shared.add_argument(
        "--target-params", type=_positive, help="parameters that were asked for; a language model needs it"
    )
    shared.add_argument("--out", type=Path, required=True, help="JSON file to write")
    shared.add_argument("--num-threads", type=_positive, help="CPU threads; default: torch's own choice")
    parser = argparse.ArgumentParser(prog="python -m ml_intern_cli.judge", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("smoke", parents=[shared], help="before training")
    verify = commands.add_parser("verify", parents=[shared], help="after training")
    verify.add_argument(
        "--planned-tokens", "--planned-rows", type=_positive, required=True, help="in PLAN.md, of training"
    )
    verify.add_argument("--seed", type=int, required=True, help="of the judge's samples")
    verify.add_argument("--limit-s", type=float, help="seconds for the path's code; default: no limit")
    verify.add_argument(
        "--sha256",
        type=_file_and_sha256,
        action="append",
        default=[],
        metavar="FILE=HEX",
        help="data/manifest.json, or a file of the path, as it was before training; repeatable",
    )
    verify.add_argument("--train-s", type=float, help="seconds that training took, as measured from outside")
    return parser


if __name__ == "__main__":
    sys.exit(main())
