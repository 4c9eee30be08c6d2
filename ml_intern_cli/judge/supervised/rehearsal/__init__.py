"""train.py of labelled rows, run as it is on a copy: recorded by hooks in its process, recomputed in ours."""
