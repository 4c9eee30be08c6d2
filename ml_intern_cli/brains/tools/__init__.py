"""What a language model may do besides talking: each tool typed, bounded and logged."""
