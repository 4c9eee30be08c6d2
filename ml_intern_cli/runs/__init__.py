"""Runs as directories: the state machine, and the only writer of state."""
