"""The defects of language-model programs, one module per family."""
