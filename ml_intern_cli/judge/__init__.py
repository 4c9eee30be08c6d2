"""The judge: smokes a path before it is trained, verifies it after. The author has no part in it.

It runs as a process of its own (``python -m ml_intern_cli.judge``), loads what is on disk and
recomputes every number. What the training program logged is a claim to be compared, never an answer.
"""
