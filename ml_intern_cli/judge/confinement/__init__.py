"""Where the path's ``model.py`` runs while it is judged: a process of its own, the model host.

The judge sends token ids and weights and gets logits back through shared memory; every loss, likelihood
and verdict is computed on the judge's side, which never imports foreign code. The host (``host``) is walled
in by what the kernel offers to every process: Landlock, seccomp, resource limits (``landlock``, ``seccomp``,
``limits``). ``watch`` notes when the path's code looks at its surroundings, ``hosted`` is the judge's end.
"""
