"""Reads a sentence such as "train a 2.5M-param deepseek v3 on data/my.txt for 20 minutes", without a model.

``tokens`` cuts it into words, numbers and paths; ``numbers`` finds quantities among them; ``matchers``
says what each quantity and phrase means; ``reading`` puts that together. What is said twice differently
is a conflict and what nothing understood is listed: no value is ever guessed.
"""

from ml_intern_cli.brains.reader.reading import Conflict, Reading, Understood, read
from ml_intern_cli.brains.reader.vocabulary import Field

__all__ = ["Conflict", "Field", "Reading", "Understood", "read"]
