"""``python -m ml_intern_cli.judge.audit``: one checkpoint and one text, judged, written as JSON.

Exit code 0: a verdict was reached, whichever it is. 2: the arguments or the text cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ml_intern_cli.errors import MlInternError


def main(argv: list[str] | None = None) -> int:
    """Runs one audit; progress goes to stderr."""
    arguments = _parser().parse_args(argv)
    # What lies in the checkpoint must not pass for a library: `python -m` puts the working directory first.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != arguments.dir.resolve()]

    from ml_intern_cli.judge.audit.audit import audit
    from ml_intern_cli.judge.audit.bench import Question

    question = Question(
        text=arguments.text.read_text(encoding="utf-8"),
        train_text=arguments.train_text.read_text(encoding="utf-8") if arguments.train_text else None,
        claims=json.loads(arguments.claims),
        context=arguments.context,
        trust_remote_code=arguments.trust_remote_code,
        scratch=arguments.out.parent,
    )
    try:
        found = audit(arguments.dir, question, text_name=arguments.text_name, progress=_progress)
    except MlInternError as error:
        sys.stderr.write(f"{error.message}\n{error.hint or ''}\n")
        return error.exit_code
    aside = arguments.out.with_suffix(".tmp")
    aside.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    aside.replace(arguments.out)
    return 0


def _progress(line: str) -> None:
    """Say what is being done; whoever started the judge follows its stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml_intern_cli.judge.audit", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text that it was not trained on")
    parser.add_argument("--text-name", required=True, help="what the text is called in the answer")
    parser.add_argument("--train-text", type=Path, help="UTF-8 text that it was trained on")
    parser.add_argument("--claims", default="{}", help="JSON object: eval_loss or perplexity → value")
    parser.add_argument("--context", type=int, help="tokens per window")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code of the checkpoint's own")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
