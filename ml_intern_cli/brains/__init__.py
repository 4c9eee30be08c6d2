"""Who thinks: reads the sentence, names paths, writes the code, explains failures."""
