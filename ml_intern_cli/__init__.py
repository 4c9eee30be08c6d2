"""ml-intern: an autonomous machine-learning engineer for the command line."""

__version__ = "0.1.0"
