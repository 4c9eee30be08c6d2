"""What stands in a run's files: one module per document with its model, ``parse`` and ``render``."""
