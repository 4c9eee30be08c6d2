# ruff: noqa: INP001 - the interpreter imports it by its name
"""Put first on the path of a rehearsal: it hides the held-out rows and listens where torch will train."""

import json
import os
import sys

if "ML_INTERN_ROWS_RECORD" in os.environ and any("train.py" in word for word in sys.orig_argv):
    from ml_intern_cli.judge.confinement import landlock
    from ml_intern_cli.judge.supervised.rehearsal import recorder

    landlock.hide(json.loads(os.environ["ML_INTERN_ROWS_HIDDEN"]))
    recorder.install(os.environ["ML_INTERN_ROWS_RECORD"])
