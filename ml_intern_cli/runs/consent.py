"""Asking before code that does not ship with this program runs where no wall keeps it in.

Asked once per version of the code: what was allowed stands in ``.receipts/consent.json``, and is gone
with it. Each entry is sealed with a key that lies in the user's home, so that a run that comes from
somebody else does not bring its own permission along.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ml_intern_cli.documents.layout import RunLayout
from ml_intern_cli.errors import Blocked
from ml_intern_cli.executors.foreign import Code, drop_caches, foreign_code
from ml_intern_cli.executors.sandbox import how_to_get_bubblewrap
from ml_intern_cli.executors.walls import Wall, standing_wall
from ml_intern_cli.runs.receipts import StageMemory

if TYPE_CHECKING:
    from ml_intern_cli.brains.protocol import Question

_FILE = "consent.json"
_KEY_BYTES = 32
_MOST_NAMED = 3
_YES = frozenset({"y", "yes"})


class Consent:
    """Whether foreign code may run with the user's rights.

    Args:
        layout: The run.
        ask: Puts a question to the user; ``None`` when nobody is there.
        given: The user said so for this command; it is remembered for the code that there is.
        standing: The user said so for every run, in the settings.
    """

    def __init__(
        self,
        layout: RunLayout,
        *,
        ask: Callable[[tuple[Question, ...]], dict[str, str]] | None = None,
        given: bool = False,
        standing: bool = False,
    ) -> None:
        self._layout = layout
        self._ask = ask
        self._given = given
        self._standing = standing
        self._memory = StageMemory(layout, name=_FILE)
        self._one_at_a_time = threading.Lock()
        self._allowed: set[str] = set()  # here and now, should it not be possible to write it down

    def require(self, argv: tuple[str, ...], *, cwd: Path) -> None:
        """Ask, unless all code of the command is as shipped or was allowed before.

        Raises:
            Blocked: the user said no, or there is nobody to ask.
        """
        with self._one_at_a_time:  # what is allowed for one path need not be asked for another
            drop_caches(argv, cwd=cwd, root=self._layout.root)
            code = foreign_code(argv, cwd=cwd, root=self._layout.root)
            unknown = tuple(one for one in code if not self._is_allowed(one))
            if not unknown or self._standing:
                return
            if not self._given and not self._says_yes(unknown):
                raise self._blocked(unknown)
            for one in unknown:
                self._allow(one)

    def _says_yes(self, code: tuple[Code, ...]) -> bool:
        from ml_intern_cli.brains.protocol import Question

        if self._ask is None:
            return False
        question = Question(
            name="run",
            text=f"{_said(code)}, and {_why_no_wall()}: run it with your rights?",
            default="no",
            why_default="it could read and change whatever you can",
            choices=("yes", "no"),
        )
        return self._ask((question,)).get("run", "no").strip().lower() in _YES

    def _blocked(self, code: tuple[Code, ...]) -> Blocked:
        slug = self._layout.slug
        ways_on = [f"read it, and allow it: ml-intern run {slug} --allow-unsandboxed"]
        if standing_wall() is Wall.BUBBLEWRAP:
            ways_on.append(f"leave out --wall none: ml-intern run {slug} --wall bubblewrap")
        else:
            ways_on.append(how_to_get_bubblewrap()[1])
        ways_on.append(f"run it in Docker: ml-intern run {slug} --wall docker --docker-image IMAGE")
        return Blocked(
            "code that is not shipped may not run here",
            why=f"{_said(code)}, and {_why_no_wall()}",
            ways_on=ways_on,
        )

    def _is_allowed(self, code: Code) -> bool:
        if code.sha256 in self._allowed:
            return True
        seal, key = self._memory.recall(code.sha256), _key(make=False)
        return seal is not None and key is not None and hmac.compare_digest(seal, self._seal(key, code))

    def _allow(self, code: Code) -> None:
        self._allowed.add(code.sha256)
        key = _key(make=True)
        if key is not None:
            self._memory.remember(code.sha256, self._seal(key, code))

    def _seal(self, key: bytes, code: Code) -> str:
        said = f"{self._layout.root.resolve()}\n{code.sha256}"
        return hmac.new(key, said.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def _said(code: tuple[Code, ...]) -> str:
    """``path-a/model.py is not one of the shipped programs``."""
    names = [one.name for one in code[:_MOST_NAMED]]
    more = f" and {len(code) - _MOST_NAMED} more" if len(code) > _MOST_NAMED else ""
    is_one = len(code) == 1
    return f"{', '.join(names)}{more} {'is not one' if is_one else 'are not'} of the shipped programs"


def _why_no_wall() -> str:
    if standing_wall() is Wall.BUBBLEWRAP:
        return "no wall was chosen"
    return "this machine has no wall (bubblewrap)"


def _key(*, make: bool) -> bytes | None:
    """The user's key; ``None`` when there is none, or none can be kept."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    file = Path(state) / "ml-intern" / "consent.key"
    try:
        if make and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_hex(_KEY_BYTES) + "\n")
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None
