"""A language model at work: the loop, its conversation on disk, and what keeps it from going in circles."""
