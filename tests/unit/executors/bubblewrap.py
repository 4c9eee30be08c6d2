"""Tests that need a wall; `.ci/run` installs it, so there they all run."""

from __future__ import annotations

import pytest

from ml_intern_cli.executors.walls import Wall, standing_wall

needs_bubblewrap = pytest.mark.skipif(
    standing_wall() is not Wall.BUBBLEWRAP, reason="bubblewrap is not installed, or may not be used here"
)
